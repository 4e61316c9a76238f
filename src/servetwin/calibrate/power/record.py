"""Recording a machine's power: NVML or ``nvidia-smi`` for accelerators, IPMI for the whole machine."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from servetwin.core.errors import InputError

SMI = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")
IPMI = ("ipmitool", "dcmi", "power", "reading")

Run = Callable[[Sequence[str]], str]

TIMEOUT_S = 20.0


class Source(Protocol):
    """Something that reads watts."""

    @property
    def names(self) -> Sequence[str]:
        """Columns: ``gpu0_w``, ``gpu1_w``, ..., or ``node_w``."""
        ...

    def watts(self) -> Sequence[float]:
        """Return one reading per name."""
        ...


def run_command(command: Sequence[str]) -> str:
    """Return what a command prints.

    Raises
    ------
    InputError
        If it is not there, fails or hangs; with what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{' '.join(command)} gave no answer in {TIMEOUT_S:g} s") from None
    if done.returncode:
        raise InputError(
            f"{' '.join(command)} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[:200]}"
        )
    return done.stdout


class SmiSource:
    """All accelerators by ``nvidia-smi``."""

    def __init__(self, run: Run = run_command) -> None:
        self._run = run
        self.names = [f"gpu{i}_w" for i in range(len(self.watts()))]

    def watts(self) -> Sequence[float]:
        """Return the power of each accelerator."""
        lines = [line.strip() for line in self._run(SMI).splitlines() if line.strip()]
        try:
            values = [float(line) for line in lines]
        except ValueError:
            raise InputError(f"nvidia-smi reads no power: it says {', '.join(lines)[:200]!r}") from None
        if not values:
            raise InputError("nvidia-smi sees no accelerator")
        return values


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        raise InputError("no NVML: pip install nvidia-ml-py, or --accelerators smi") from None
    return pynvml


class NvmlSource:
    """All accelerators by NVML (package ``nvidia-ml-py``); ``nvml`` stands in for it in tests."""

    def __init__(self, nvml: Any = None) -> None:
        nvml = nvml or _nvml()
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except nvml.NVMLError as error:
            raise InputError(f"NVML does not answer: {error}") from None
        self.names = [f"gpu{i}_w" for i in range(count)]

    def watts(self) -> Sequence[float]:
        """Return the power of each accelerator."""
        try:
            return [float(self._nvml.nvmlDeviceGetPowerUsage(handle)) / 1000 for handle in self._handles]
        except self._nvml.NVMLError as error:
            raise InputError(f"NVML reads no power: {error}") from None


class IpmiSource:
    """The whole machine by ``ipmitool dcmi power reading``, which may need to be root."""

    names = ("node_w",)

    def __init__(self, run: Run = run_command) -> None:
        self._run = run
        self.watts()

    def watts(self) -> Sequence[float]:
        """Return the machine's power."""
        text = self._run(IPMI)
        found = re.search(r"Instantaneous power reading:\s*([0-9.]+)\s*Watts", text)
        if found is None:
            raise InputError(f"ipmitool reads no power: it says {text.strip()[:200]!r}")
        return [float(found[1])]


def record(
    sources: Sequence[Source],
    path: Path,
    *,
    interval_s: float,
    duration_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Write one row per interval until the time is over or somebody interrupts; return the number of rows.

    Parameters
    ----------
    sources
        What to read; their columns stand side by side.
    path
        The CSV: ``time_s`` (from the start), then the sources' columns. Each row is written at once.
    """
    names = [name for source in sources for name in source.names]
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(["time_s", *names]) + "\n")
        try:
            return _rows(sources, file, interval_s, duration_s, clock, sleep)
        except KeyboardInterrupt:
            file.flush()
    with path.open(encoding="utf-8") as file:
        return sum(1 for _ in file) - 1


def _rows(
    sources: Sequence[Source],
    file: TextIO,
    interval_s: float,
    duration_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> int:
    start, rows = clock(), 0
    while True:
        values = [watts for source in sources for watts in source.watts()]
        file.write(",".join(f"{value:.3f}" for value in [clock() - start, *values]) + "\n")
        file.flush()
        rows += 1
        following = start + rows * interval_s
        if following - start > duration_s:
            return rows
        sleep(max(0.0, following - clock()))
