"""Operator times from outside: tables that come with a device, and a command that is asked."""

from servetwin.step.operator_times.command import CommandTimes, OperatorCommand, OperatorCommandError
from servetwin.step.operator_times.model import OperatorStepModel, operator_step_model
from servetwin.step.operator_times.tables import OperatorTables, read_operator_tables

__all__ = [
    "CommandTimes",
    "OperatorCommand",
    "OperatorCommandError",
    "OperatorStepModel",
    "OperatorTables",
    "operator_step_model",
    "read_operator_tables",
]
