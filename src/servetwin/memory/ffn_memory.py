"""Memory of devices that hold the FFNs alone: weights and one step's buffers must fit; there is no KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware.base import Device
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.checks import check_parallelism
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import Layer, MixtureOfExperts
from servetwin.memory.activations import activation_bytes
from servetwin.memory.overheads import DEFAULT_COEFFICIENTS, driver_bytes

MOST_DEVICES = 4096


@dataclass(frozen=True)
class FfnMemory:
    """One FFN device's memory.

    Attributes
    ----------
    architecture, device, parallelism
        The model, the device, and its place among the FFN devices (``part`` is ``ffn``).
    tokens
        Of all attention ranks, in one step.
    utilization
        Share of what CUDA reports that may be used.
    dtype
        Format of the weights; None: as published.
    """

    architecture: ModelArchitecture
    device: Device
    parallelism: Parallelism
    tokens: int
    utilization: float = 0.9
    dtype: str | None = None

    @property
    def devices(self) -> int:
        """All FFN devices."""
        return self.parallelism.data * self.parallelism.tensor

    @property
    def usable_bytes(self) -> int:
        """What may be used."""
        return int((self.device.memory_bytes - driver_bytes(self.device)) * self.utilization)

    @property
    def parts(self) -> dict[str, int]:
        """What is needed, in bytes: ``weights``; ``activations`` of a whole step, evenly spread; ``non_torch``."""
        layers = [layer for layer, _ in self.architecture.layers]
        return {
            "weights": self.architecture.weight_bytes(dtype=self.dtype, ranks=self.parallelism),
            "activations": max(map(self._layer_bytes, layers)),
            "non_torch": DEFAULT_COEFFICIENTS.library_bytes,
        }

    @property
    def breakdown(self) -> dict[str, int]:
        """The device's reported memory by what it goes to; the parts add up to it."""
        driver, parts = driver_bytes(self.device), self.parts
        unrequested = self.device.memory_bytes - driver - self.usable_bytes
        rest = self.usable_bytes - sum(parts.values())
        return {"driver": driver, "unrequested": unrequested, **parts, "rest": rest}

    @property
    def fits(self) -> bool:
        """Whether all fits."""
        return sum(self.parts.values()) <= self.usable_bytes

    def _layer_bytes(self, layer: Layer) -> int:
        """Return received rows, gate and up, their product, and the output, which lies where gate and up lay."""
        hidden, mlp = self.architecture.hidden_size, layer.mlp
        if isinstance(mlp, MixtureOfExperts):
            width = mlp.intermediate_size
            rows = -(-self.tokens * mlp.top_k // self.devices)
        else:
            width = mlp.intermediate_size // self.parallelism.tensor
            rows = -(-self.tokens // self.parallelism.data)
        return rows * (hidden + max(2 * width, hidden) + width) * activation_bytes(self.architecture, self.dtype)

    def check(self, where: str | None = None) -> None:
        """Raise an InputError with the figures, and what would fit, if it does not fit."""
        if self.fits:
            return
        parts = ", ".join(f"{name} {num_bytes / GIB:.2f}" for name, num_bytes in self.parts.items())
        enough = next((memory.devices for memory in self._larger() if memory.fits), None)
        advice = f"it fits from count {enough} on" if enough else "no count makes it fit"
        raise InputError(
            f"the FFNs of {self.architecture.name} do not fit on {self.devices} x {self.device.name}: of "
            f"{self.usable_bytes / GIB:.2f} GiB that may be used of each, {sum(self.parts.values()) / GIB:.2f} GiB are "
            f"needed ({parts}); {advice}",
            where=where,
        )

    def _larger(self) -> Iterator[FfnMemory]:
        """Yield the same with more devices, as far as the model divides."""
        for devices in range(self.devices + 1, MOST_DEVICES):
            ranks = ffn_ranks(self.architecture, devices)
            try:
                check_parallelism(self.architecture, ranks)
            except InputError:
                if self.architecture.is_moe:
                    return
                continue
            yield replace(self, parallelism=ranks)


def ffn_ranks(architecture: ModelArchitecture, devices: int) -> Parallelism:
    """Return how FFN devices divide a model: whole experts each, or a part of each MLP where there are none."""
    if architecture.is_moe:
        return Parallelism(data=devices, expert=devices, part="ffn")
    return Parallelism(devices, part="ffn")
