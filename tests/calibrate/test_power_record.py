"""Recording power, with stand-ins for NVML, nvidia-smi and IPMI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from servetwin.calibrate.power.record import IpmiSource, NvmlSource, SmiSource, record, run_command
from servetwin.calibrate.power.series import read_power_series
from servetwin.cli.main import app
from servetwin.core.errors import InputError

IPMI_TEXT = """
    Instantaneous power reading:                   382 Watts
    Minimum during sampling period:                377 Watts
"""


class FakeNvml:
    """Two devices at 100.5 and 300 W."""

    class NVMLError(Exception):
        """As NVML's."""

    broken = False

    def nvmlInit(self) -> None:
        """Start."""

    def nvmlDeviceGetCount(self) -> int:
        """Return two."""
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """Return the index."""
        return index

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        """Return milliwatts."""
        if self.broken:
            raise self.NVMLError("GPU is lost")
        return (100_500, 300_000)[handle]


class Clock:
    """Time that passes only in sleep; it may be interrupted."""

    def __init__(self, interrupt_s: float = 1e9) -> None:
        self.now, self.interrupt_s = 50.0, interrupt_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        if self.now >= self.interrupt_s:
            raise KeyboardInterrupt


def answering(text: str):  # type: ignore[no-untyped-def]
    """Return a stand-in for a command that prints ``text``."""

    def run(command: Sequence[str]) -> str:
        return text

    return run


def test_all_sources_stand_side_by_side(tmp_path: Path) -> None:
    """One row per interval, times from 0, a column per accelerator and one for the machine; it reads back."""
    clock, path = Clock(), tmp_path / "power.csv"
    sources = [NvmlSource(FakeNvml()), IpmiSource(answering(IPMI_TEXT))]
    assert record(sources, path, interval_s=0.5, duration_s=2.0, clock=clock, sleep=clock.sleep) == 5
    lines = path.read_text().splitlines()
    assert lines[0] == "time_s,gpu0_w,gpu1_w,node_w"
    assert lines[2] == "0.500,100.500,300.000,382.000"
    series = read_power_series(path)
    assert series.accelerators_w is not None
    assert series.node_w is not None
    assert series.accelerators_w[0] == 400.5
    assert series.node_w[0] == 382


def test_an_interrupt_keeps_what_was_recorded(tmp_path: Path) -> None:
    """Ctrl-C ends the recording, not the file."""
    clock, path = Clock(interrupt_s=53.0), tmp_path / "power.csv"
    source = SmiSource(answering("71.20\n69.00\n"))
    assert record([source], path, interval_s=1.0, duration_s=1e6, clock=clock, sleep=clock.sleep) == 3
    assert path.read_text().splitlines()[1] == "0.000,71.200,69.000"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmiSource(answering("[N/A]\n")), r"nvidia-smi reads no power: it says '\[N/A\]'"),
        (lambda: SmiSource(answering("")), "nvidia-smi sees no accelerator"),
        (
            lambda: IpmiSource(answering("DCMI request failed")),
            "ipmitool reads no power: it says 'DCMI request failed'",
        ),
        (lambda: run_command(["no-such-command-here"]), "no-such-command-here is not installed"),
        (lambda: run_command(["false"]), r"false failed \(1\)"),
    ],
)
def test_what_cannot_be_read_is_said(make, message: str) -> None:  # type: ignore[no-untyped-def]
    """A tool that is missing, fails or answers nonsense: its answer is shown."""
    with pytest.raises(InputError, match=message):
        make()


def test_a_lost_device_ends_the_recording() -> None:
    """NVML's own words are in the error."""
    nvml = FakeNvml()
    source = NvmlSource(nvml)
    nvml.broken = True
    with pytest.raises(InputError, match="NVML reads no power: GPU is lost"):
        source.watts()


def test_the_command_needs_something_to_read_and_no_file_in_the_way(tmp_path: Path) -> None:
    """Exit code 2 and the reason, for each."""
    path = tmp_path / "power.csv"
    nothing = CliRunner().invoke(app, ["power", "record", "-o", str(path), "--accelerators", "none"])
    assert nothing.exit_code == 2
    assert "nothing to read" in nothing.stderr
    path.write_text("x")
    there = CliRunner().invoke(app, ["power", "record", "-o", str(path)])
    assert there.exit_code == 2
    assert "there is a file already" in there.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,volts\n0,1\n", r"power\.csv:1: columns time_s, volts; needed: time_s"),
        ("time_s,power_w\n0,1\n1,x\n2,3\n", r"power\.csv:3: power_w is 'x'"),
        ("time_s,power_w\n0,1\n1,-4\n2,3\n", r"power_w is '-4'; a number of at least 0"),
        ("time_s,power_w\n0,1\n1,4\n1,3\n", "at least three rows with ascending times"),
        ("", "columns none"),
    ],
)
def test_bad_series(tmp_path: Path, text: str, message: str) -> None:
    """File, line, column and value of what is wrong."""
    path = tmp_path / "power.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_power_series(path)
