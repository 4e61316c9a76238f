"""Measured profiles: tables of operator times, and the step model that reads them."""

from servetwin.step.profile.factory import profile_step_model
from servetwin.step.profile.load import load_profile
from servetwin.step.profile.model import ProfileStepModel
from servetwin.step.profile.native import write_native
from servetwin.step.profile.options import LSS_OPTIONS, ExpertSizes, HostIo, ModelSizes, ProfileOptions
from servetwin.step.profile.tables import Profile

__all__ = [
    "LSS_OPTIONS",
    "ExpertSizes",
    "HostIo",
    "ModelSizes",
    "Profile",
    "ProfileOptions",
    "ProfileStepModel",
    "load_profile",
    "profile_step_model",
    "write_native",
]
