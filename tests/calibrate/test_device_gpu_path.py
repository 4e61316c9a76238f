"""The path that a GPU takes, with stand-ins for CUDA and for NVML: no GPU can be had where the tests run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from servetwin.calibrate.device_profile import Point, profile_device
from servetwin.calibrate.device_profile.power import PowerMeter, read_watts
from servetwin.calibrate.device_profile.runner import NotMeasurable, Reading, Task
from servetwin.calibrate.device_profile.sampling import Plan
from servetwin.calibrate.device_profile.torch_device import TorchDevice
from servetwin.calibrate.device_profile.torch_operators import ROTATION_BYTES, Operators

PLAN = Plan(warm_up_runs=1, warm_up_s=0, min_samples=2, min_s=0, max_samples=2, max_s=1)


class NvmlError(Exception):
    """What NVML raises."""


class Nvml:
    """The part of ``pynvml`` that is used; the board draws 100 W more at each reading, and knows no clock."""

    NVMLError = NvmlError
    NVML_CLOCK_SM = NVML_TEMPERATURE_GPU = 1

    def __init__(self) -> None:
        self.milliwatts = 0
        self.asked: list[object] = []

    def nvmlInit(self) -> None:
        """Start."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        """Return a handle."""
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """Return a handle."""
        self.asked.append(index)
        return index

    def nvmlDeviceGetPowerUsage(self, _handle: object) -> int:
        """Return milliwatts."""
        self.milliwatts += 100_000
        return self.milliwatts

    def nvmlSystemGetDriverVersion(self) -> bytes:
        """Return a version, in bytes as older releases do."""
        return b"570.86"

    def nvmlDeviceGetPowerManagementLimit(self, _handle: object) -> int:
        """Return milliwatts."""
        return 700_000

    def nvmlDeviceGetMaxClockInfo(self, _handle: object, _clock: int) -> int:
        """Refuse, as some boards do."""
        raise NvmlError("Not Supported")

    def nvmlDeviceGetTemperature(self, _handle: object, _sensor: int) -> int:
        """Return degrees."""
        return 31


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """Put the stand-in where ``import pynvml`` finds it."""
    stand_in = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)  # type: ignore[arg-type]
    return stand_in


def test_the_meter_finds_the_device_that_cuda_means(nvml: Nvml) -> None:
    """By its UUID where PyTorch tells it, else by its number; what NVML does not know is left out."""
    assert PowerMeter(1, "0815-4711").watts() == 100
    PowerMeter(1)
    assert nvml.asked == ["GPU-0815-4711", 1]
    assert PowerMeter(0).conditions() == {"driver": "570.86", "power_limit_w": 700, "temperature_at_start_c": 31}


def test_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, power is not measured, and the reason says what to install."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NotMeasurable, match="pip install nvidia-ml-py"):
        PowerMeter(0)


def test_power_is_read_under_the_load(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load runs before the first reading and between readings."""
    now = [0.0]
    monkeypatch.setattr("servetwin.calibrate.device_profile.power.time.monotonic", lambda: now[0])
    loads: list[int] = []

    def load() -> None:
        now[0] += 0.1
        loads.append(nvml.milliwatts)

    watts = read_watts(PowerMeter(0), load, settle_s=0.45, read_s=0.25)
    assert watts == [100, 200, 300, 400]
    assert loads == [0] * 5 + [100_000, 200_000, 300_000]


class Cuda:
    """The part of ``torch.cuda`` that is used: a replay takes 2 ms."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self

    @contextmanager
    def _scope(self, _value: object) -> Iterator[None]:
        yield

    stream = graph = _scope

    def get_device_properties(self, _device: object) -> SimpleNamespace:
        """Return an H100's."""
        return SimpleNamespace(
            name="NVIDIA H100 80GB HBM3",
            uuid="0815",
            major=9,
            minor=0,
            multi_processor_count=132,
            total_memory=81 << 30,
        )

    def mem_get_info(self, _device: object) -> tuple[int, int]:
        """Return free and total memory."""
        return 1 << 33, 81 << 30

    def elapsed_time(self, _end: object) -> float:
        """Return milliseconds."""
        return 2.0


class Torch:
    """PyTorch's CPU build with the stand-in for ``cuda``."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.cuda = Cuda()
        self.version = SimpleNamespace(cuda="13.0", hip=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


@pytest.fixture
def gpu(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> TorchDevice:
    """Return a device that believes to be an H100 and computes on the CPU."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    for kind in ROTATION_BYTES:
        monkeypatch.setitem(ROTATION_BYTES, kind, 2**14)
    device = TorchDevice(Torch(torch), torch.device("cuda", 0), PLAN)
    device._device = torch.device("cpu")
    device._operators = Operators(torch, torch.device("cpu"))
    return device


def test_the_header_of_a_gpu(gpu: TorchDevice, nvml: Nvml) -> None:
    """The driver's name is found in the catalogue, and the conditions come from CUDA and NVML."""
    assert nvml.asked == ["GPU-0815"]
    assert (gpu.header.device, gpu.header.catalogue) == ("NVIDIA H100 80GB HBM3", "H100-SXM")
    found = gpu.header.conditions
    assert {name: found[name] for name in ("cuda", "compute_capability", "multiprocessors", "power_limit_w")} == {
        "cuda": "13.0",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "power_limit_w": 700,
    }


@pytest.mark.parametrize(
    "point",
    [
        Point("gemm", ("bf16", 2, 16, 32)),
        Point("grouped_gemm", ("bf16", 2, 4, 16, 32)),
        Point("attention_decode", ("bf16", 4, 2, 16, 3, 24)),
        Point("copy", ("device_to_device", 4096)),
        Point("launch", ("graph_replay", 10)),
        Point("launch", ("eager", 10)),
    ],
    ids=str,
)
def test_points_are_timed_as_graphs(gpu: TorchDevice, point: Point) -> None:
    """A replay's time is that of all its calls; what the host launches is timed by its clock."""
    task = gpu.prepare(point)
    assert isinstance(task, Task)
    assert task.calls >= 10
    by_events = point.operator != "launch"
    assert (task.run_s() == 0.002) == by_events
    gpu.release()


def test_power_of_a_gpu(gpu: TorchDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle power is read first without a load, then under a copy."""
    monkeypatch.setattr("servetwin.calibrate.device_profile.torch_device._COPY", ("device_to_device", 2**16))
    kernels = {}

    def read(meter: PowerMeter, load: Callable[[], object] | None, **times: float) -> list[float]:
        return [meter.watts(), 2.0 if load is None else float(bool(load()))]

    monkeypatch.setattr("servetwin.calibrate.device_profile.torch_device.read_watts", read)
    for state in ("idle", "copy"):
        found = gpu.prepare(Point("power", (state,)))
        assert isinstance(found, Reading)
        kernels[state] = (found.kernel, found.values[1])
    assert kernels == {"idle": ("none", 2.0), "copy": ("Tensor.copy_", 1.0)}


def test_what_does_not_fit_a_gpu(gpu: TorchDevice, tmp_path: Path) -> None:
    """A point beyond the free memory is noted, and the next one is measured."""
    large, small = Point("attention_decode", ("bf16", 64, 8, 128, 256, 32768)), Point("rms_norm", ("bf16", 2, 64))
    profile = profile_device(gpu, tmp_path, [large, small], PLAN)
    assert profile.not_measured == {large: "needs 48.0 GiB, 8.0 GiB are free"}
    assert profile.rows["rms_norm"][0].statistics.median == 2000 / 16
