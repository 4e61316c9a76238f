"""A device that PyTorch drives: opening it, its conditions, and making a point ready to be measured."""

from __future__ import annotations

import gc
import os
import platform
from datetime import UTC, datetime
from typing import Any

from servetwin._version import __version__
from servetwin.calibrate.device_profile.header import Header
from servetwin.calibrate.device_profile.points import Point, PointWork, point_work
from servetwin.calibrate.device_profile.power import PowerMeter, read_watts
from servetwin.calibrate.device_profile.runner import NotMeasurable, Reading, Task
from servetwin.calibrate.device_profile.sampling import Plan
from servetwin.calibrate.device_profile.torch_operators import ROTATION_BYTES, Operators
from servetwin.calibrate.device_profile.torch_timing import eager_run, graph_run, host_run, replay_run
from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware.base import MIB
from servetwin.hardware.catalogue import load_device

HELP = "servetwin profile device"
SMALL = {"cuda": PointWork(10**10, 64 * 2**20), "cpu": PointWork(10**8, 2**20)}
"""Below both figures a call is so short that many are timed as one."""
MEMORY_SHARE = 0.6
"""Of the free memory that one point may take."""


def open_device(text: str, plan: Plan) -> TorchDevice:
    """Return the device that ``text`` means (``cuda``, ``cuda:1``, ``cpu``).

    Raises
    ------
    InputError
        If PyTorch is not installed, or has no such device; it says what to do.
    """
    kind, _, number = text.partition(":")
    if kind not in ("cuda", "cpu") or not (number == "" or (number.isascii() and number.isdigit())):
        raise InputError(f"--device must be cuda, cuda:N or cpu, got {text!r}", where=HELP)
    try:
        import torch
    except ImportError:
        raise InputError("PyTorch is not installed: pip install 'servetwin[profile]'", where=HELP) from None
    if kind == "cuda":
        _check_cuda(torch, int(number or 0))
        return TorchDevice(torch, torch.device("cuda", int(number or 0)), plan)
    return TorchDevice(torch, torch.device("cpu"), plan)


def _check_cuda(torch: Any, index: int) -> None:
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise InputError(
            f"PyTorch {torch.__version__} ({built}) sees no CUDA device here; --device cpu measures the processor",
            where=HELP,
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise InputError(f"there is no cuda:{index}; PyTorch sees {count} device(s), from cuda:0 on", where=HELP)


class TorchDevice:
    """Measures on one device; see `open_device`."""

    def __init__(self, torch: Any, device: Any, plan: Plan) -> None:
        self._torch = torch
        self._device = device
        self._cuda = device.type == "cuda"
        self._plan = plan
        self._operators = Operators(torch, device)
        self._meter: PowerMeter | NotMeasurable = NotMeasurable("a CPU's power is not read")
        if self._cuda:
            torch.cuda.set_device(device)
            self._meter = self._find_meter()
        self.header = self._header()

    def prepare(self, point: Point) -> Task | Reading:
        """Return a point made ready; see `servetwin.calibrate.device_profile.runner.MeasuringDevice`."""
        self._check_memory(point)
        try:
            if point.operator == "power":
                return self._read_power(point)
            return self._launch(point) if point.operator == "launch" else self._task(point)
        except (RuntimeError, NotImplementedError, TypeError, AssertionError) as error:
            raise NotMeasurable(_first_line(error)) from None

    def release(self) -> None:
        """Give freed memory back to the device, so that the next point may have it."""
        gc.collect()
        if self._cuda:
            self._torch.cuda.empty_cache()

    def _task(self, point: Point) -> Task:
        built = self._operators.build(point)
        built.functions[0]()
        small, work = SMALL[self._device.type], point_work(point)
        least = 16 if work.flops < small.flops and work.num_bytes < small.num_bytes else 1
        if not self._cuda:
            return Task(host_run(built.functions, least), least, built.kernel)
        calls = max(len(built.functions), least)
        with_host = point.operator == "copy" and point.word("direction") != "device_to_device"
        run = eager_run if with_host else graph_run
        return Task(run(self._torch, built.functions, calls), calls, built.kernel)

    def _launch(self, point: Point) -> Task:
        """Return an addition to one number: nothing but what starting it takes."""
        torch, calls = self._torch, point.number("kernels")
        one = torch.zeros(1, device=self._device)
        if not self._cuda:
            return Task(host_run([lambda: one.add_(1)], calls), calls, "Tensor.add_")
        if point.word("mode") == "eager":
            return Task(eager_run(torch, [lambda: one.add_(1)], calls), calls, "Tensor.add_")
        return Task(replay_run(torch, lambda: one.add_(1), calls), calls, "CUDAGraph.replay")

    def _read_power(self, point: Point) -> Reading:
        if isinstance(self._meter, NotMeasurable):
            raise NotMeasurable(str(self._meter))
        quick = self._plan.max_s < 2
        load, kernel = self._load(point.word("state"))
        values = read_watts(self._meter, load, settle_s=1 if quick else 5, read_s=1 if quick else 5)
        return Reading(values, kernel)

    def _load(self, state: str) -> tuple[Any, str]:
        """Return what keeps the device busy for about a tenth of a second."""
        if state == "idle":
            return None, "none"
        point = Point("gemm", ("bf16", 8192, 8192, 8192)) if state == "gemm" else Point("copy", _COPY)
        built = self._operators.build(point)
        run_s = graph_run(self._torch, built.functions, 16)
        runs = max(1, round(0.1 / max(run_s(), 1e-4)))
        return lambda: [run_s() for _ in range(runs)], built.kernel

    def _check_memory(self, point: Point) -> None:
        """Refuse a point whose operands, with the copies that are cycled through, would not fit."""
        free = self._torch.cuda.mem_get_info(self._device)[0] if self._cuda else _free_host_bytes()
        needed = 1.5 * point_work(point).num_bytes + ROTATION_BYTES[self._device.type]
        if needed > MEMORY_SHARE * free:
            raise NotMeasurable(f"needs {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free")

    def _find_meter(self) -> PowerMeter | NotMeasurable:
        uuid = getattr(self._torch.cuda.get_device_properties(self._device), "uuid", None)
        try:
            return PowerMeter(self._device.index or 0, None if uuid is None else str(uuid))
        except NotMeasurable as reason:
            return reason

    def _header(self) -> Header:
        plan, torch = self._plan, self._torch
        conditions: dict[str, str | int | float] = {
            "servetwin": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "system": platform.platform(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "warm_up_runs": plan.warm_up_runs,
            "min_samples": plan.min_samples,
            "rotation_bytes": ROTATION_BYTES[self._device.type],
        }
        name = self._cuda_conditions(conditions) if self._cuda else self._cpu_conditions(conditions)
        return Header(name, self._device.type, _catalogue_name(name), conditions)

    def _cuda_conditions(self, conditions: dict[str, str | int | float]) -> str:
        properties = self._torch.cuda.get_device_properties(self._device)
        conditions["cuda"] = str(self._torch.version.cuda or self._torch.version.hip)
        conditions["compute_capability"] = f"{properties.major}.{properties.minor}"
        conditions["multiprocessors"] = properties.multi_processor_count
        conditions["memory_mib"] = properties.total_memory // MIB
        if isinstance(self._meter, PowerMeter):
            conditions.update(self._meter.conditions())
        return str(properties.name)

    def _cpu_conditions(self, conditions: dict[str, str | int | float]) -> str:
        conditions["threads"] = self._torch.get_num_threads()
        conditions["memory_mib"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
        return _processor_name()


_COPY = ("device_to_device", 2**28)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _catalogue_name(reported: str) -> str | None:
    try:
        return load_device(reported).name
    except InputError:
        return None


def _free_host_bytes() -> int:
    """Return what Linux says is available, caches that can be dropped included; elsewhere, free pages."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kib = [line.split()[1] for line in file if line.startswith("MemAvailable:")]
    except OSError:
        kib = []
    return int(kib[0]) * 1024 if kib else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _processor_name() -> str:
    """Return the processor's name as Linux gives it, else as Python does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine() or "cpu"
