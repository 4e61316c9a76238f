"""The balanced partition on real devices."""

from __future__ import annotations

from servetwin.hardware import load_device
from servetwin.hardware.base import Device
from servetwin.llm import ModelArchitecture, Parallelism, load_model
from servetwin.network import Link, Ring
from servetwin.network.presets import preset_topology
from servetwin.network.topology_collectives import TopologyCollectives
from servetwin.step.base import StepShape
from servetwin.step.host import NO_HOST_OVERHEAD
from servetwin.step.partition import balanced_layers
from servetwin.step.roofline import RooflineStepModel

LLAMA = load_model("meta-llama/Llama-3.1-70B")
DEEPSEEK = load_model("deepseek-ai/DeepSeek-V3")
LITE = load_model("deepseek-ai/DeepSeek-V2-Lite")
MI300X = load_device("MI300X")
RING = Ring(Link(450e9, 100.0, 4_000.0))
SHAPE = StepShape(32, 32 * 2000)


class Devices:
    """Makes stages on given devices."""

    def __init__(self, *names: str) -> None:
        self.devices: list[Device] = [load_device(name) for name in names]

    def __call__(self, stage: int, architecture: ModelArchitecture, ranks: Parallelism) -> RooflineStepModel:
        """Return the rank model."""
        device = self.devices[stage]
        return RooflineStepModel(architecture, device, collectives=RING, ranks=ranks, host=NO_HOST_OVERHEAD)

    def slowest_ns(self, model: ModelArchitecture, partition: tuple[int, ...]) -> float:
        """Return the time of the slowest stage."""
        stages = range(len(partition))
        places = [Parallelism(pipeline=len(partition), stage=stage, partition=partition) for stage in stages]
        return max(self(place.stage, model, place).duration_ns(SHAPE) for place in places)


def test_no_neighbouring_partition_is_faster() -> None:
    """Moving one layer between stages of an H100 and an A100 never makes the slowest stage faster."""
    make = Devices("H100-SXM", "A100-SXM-80GB", "H100-SXM")
    found = balanced_layers(make, LLAMA, Parallelism(pipeline=3), SHAPE)
    assert sum(found) == LLAMA.num_hidden_layers
    assert found[1] < min(found[0], found[2])
    least = make.slowest_ns(LLAMA, found)
    for taken in range(3):
        for given in range(3):
            moved = list(found)
            moved[taken] -= 1
            moved[given] += 1
            assert make.slowest_ns(LLAMA, tuple(moved)) >= least


def test_dense_layers_and_experts_have_their_own_times() -> None:
    """DeepSeek's first stage takes more layers, three of them being dense and cheaper."""
    found = balanced_layers(Devices("H200-SXM", "H200-SXM"), DEEPSEEK, Parallelism(pipeline=2), SHAPE)
    assert sum(found) == 61
    assert found[0] >= found[1]


def test_dense_layers_among_experts_on_the_whole_pipelines_groups() -> None:
    """Ranks that share experts are laid as in the real pipeline, and stages of dense layers alone can be timed."""
    topology = preset_topology("mi300x_platform")
    ranks = Parallelism(pipeline=2, data=4, expert=4)

    def make(stage: int, architecture: ModelArchitecture, place: Parallelism) -> RooflineStepModel:
        collectives = TopologyCollectives(topology)
        return RooflineStepModel(architecture, MI300X, collectives=collectives, ranks=place, host=NO_HOST_OVERHEAD)

    assert sum(balanced_layers(make, LITE, ranks, SHAPE)) == LITE.num_hidden_layers
