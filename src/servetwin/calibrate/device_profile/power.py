"""Power and clocks of an NVIDIA device by NVML (package ``nvidia-ml-py``), where that is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from servetwin.calibrate.device_profile.runner import NotMeasurable


class PowerMeter:
    """Reads one device.

    Raises
    ------
    NotMeasurable
        If NVML is not there, or does not know the device.
    """

    def __init__(self, index: int, uuid: str | None = None) -> None:
        try:
            import pynvml
        except ImportError:
            raise NotMeasurable("no NVML: pip install nvidia-ml-py") from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(index) if uuid is None else self._by_uuid(uuid)
        except pynvml.NVMLError as error:
            raise NotMeasurable(f"NVML does not answer: {error}") from None

    def _by_uuid(self, uuid: str) -> Any:
        """CUDA may number its devices otherwise, and may not see them all."""
        return self._nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")

    def watts(self) -> float:
        """Return the power now (over the last moments, as the board averages)."""
        try:
            return float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1000
        except self._nvml.NVMLError as error:
            raise NotMeasurable(f"NVML reads no power: {error}") from None

    def conditions(self) -> dict[str, str | float]:
        """Return what NVML says of the device; less where it does not say."""
        nvml, handle = self._nvml, self._handle
        readers: dict[str, Callable[[], Any]] = {
            "driver": nvml.nvmlSystemGetDriverVersion,
            "power_limit_w": lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
            "max_sm_clock_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "temperature_at_start_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        }
        found: dict[str, str | float] = {}
        for name, read in readers.items():
            try:
                value = read()
            except nvml.NVMLError:
                continue
            found[name] = value.decode() if isinstance(value, bytes) else value
        return found


def read_watts(meter: PowerMeter, load: Callable[[], None] | None, *, settle_s: float, read_s: float) -> list[float]:
    """Return readings ten times a second, idle or under a load.

    Parameters
    ----------
    meter
        The device's.
    load
        Keeps the device busy for about a tenth of a second; None: it stays idle.
    settle_s, read_s
        How long to wait (under the load) before the first reading, and how long to read.
    """
    step = load or (lambda: time.sleep(0.1))
    start = time.monotonic()
    while time.monotonic() - start < settle_s:
        step()
    values = [meter.watts()]
    start = time.monotonic()
    while time.monotonic() - start < read_s:
        step()
        values.append(meter.watts())
    return values
