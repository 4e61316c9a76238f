"""Memory that computes: attention of decodes beside the banks, other operators there or on the host, interleaving."""

from servetwin.step.pim.base import Decodes, PimAttention
from servetwin.step.pim.closed_form import ClosedFormAttention
from servetwin.step.pim.factory import pim_step_model
from servetwin.step.pim.lss import LssPimAttention
from servetwin.step.pim.model import PimStepModel
from servetwin.step.pim.table import TableAttention

__all__ = [
    "ClosedFormAttention",
    "Decodes",
    "LssPimAttention",
    "PimAttention",
    "PimStepModel",
    "TableAttention",
    "pim_step_model",
]
