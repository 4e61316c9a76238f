"""Where weights lie: bytes add up to the model's, what leaves gives room, and what does not fit is said."""

from __future__ import annotations

import pytest

from servetwin.core.errors import InputError
from servetwin.hardware.catalogue import load_device
from servetwin.llm.catalogue import load_model
from servetwin.llm.parallel import Parallelism
from servetwin.memory import kv_capacity
from servetwin.memory.devices import MemoryDevice
from servetwin.memory.placement import ExpertCache, KvElsewhere, PlacedWeights, Placement, check_fits, check_operators
from servetwin.memory.weights import end_weight_bytes, layer_weight_bytes, operator_of

HOST = {"host": MemoryDevice("host", 10**12, 50e9)}

MODELS = (
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen3-30B-A3B",
    "deepseek-ai/DeepSeek-V2-Lite",
    "openai/gpt-oss-20b",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen3-32B-FP8",
)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("tensor", "stage"), [(1, None), (2, None), (1, 0), (1, 1)])
def test_layers_and_ends_are_all_weights(name: str, tensor: int, stage: int | None) -> None:
    """Operator by operator they add up to what the model says of a rank, for every kind of model and stage."""
    model = load_model(name)
    ranks = Parallelism(tensor) if stage is None else Parallelism(tensor, pipeline=2, stage=stage)
    placed = PlacedWeights(model, ranks, Placement(dict.fromkeys(range(model.num_hidden_layers), "host")), HOST)
    layers = sum(size for layer in placed.layers for _, size in layer.values())
    ends = sum(end_weight_bytes(model, ranks).values())
    assert layers + ends == model.weight_bytes(ranks=ranks)


def test_one_format_for_all_counts_elements() -> None:
    """``dtype`` stands for every tensor."""
    model = load_model("Qwen/Qwen3-32B-FP8")
    total = sum(sum(layer_weight_bytes(model, i, Parallelism(), "bf16").values()) for i in range(64))
    assert total + sum(end_weight_bytes(model, Parallelism(), "bf16").values()) == model.weight_bytes(dtype="bf16")


def test_parts_of_a_breakdown_belong_to_operators() -> None:
    """By the names that step models use; what has no weights is attention."""
    found = {name: operator_of(name) for name in ("q_b_proj", "experts.act_fn", "act_fn", "all_reduce", "rotary_emb")}
    assert list(found.values()) == ["qkv_proj", "experts", "gate_up_proj", "attention", "attention"]


def test_what_leaves_gives_room_less_the_buffers() -> None:
    """Eight layers away with two buffers free six layers; LLMServingSim's way frees none."""
    model = load_model("meta-llama/Llama-3.1-8B")
    layer = sum(layer_weight_bytes(model, 0, Parallelism()).values())
    layers = dict.fromkeys(range(8), "host")
    for changes, freed in (({}, 6), ({"prefetch": 0}, 7), ({"access": "direct"}, 8), ({"frees_memory": False}, 0)):
        placed = PlacedWeights(model, Parallelism(), Placement(layers, **changes), HOST)  # type: ignore[arg-type]
        assert placed.freed_bytes == freed * layer


def test_experts_leave_but_for_those_that_are_cached() -> None:
    """And one layer's rest, into which the missing ones are loaded."""
    model = load_model("Qwen/Qwen3-30B-A3B")
    placed = PlacedWeights(model, Parallelism(), Placement(experts=ExpertCache("host", 28)), HOST)
    assert placed.expert_bytes == 3 * 2048 * 768 * 2
    assert placed.bytes_by_device == {"host": 48 * 128 * placed.expert_bytes}
    assert placed.freed_bytes == (48 * 100 - 100) * placed.expert_bytes


def test_a_tied_head_is_the_embedding() -> None:
    """It lies where the embedding lies, and counts once."""
    model = load_model("Qwen/Qwen2.5-0.5B-Instruct")
    placed = PlacedWeights(model, Parallelism(), Placement(operators={"embedding": "host"}), HOST)
    assert placed.ends["lm_head"] == placed.ends["embedding"]
    assert placed.bytes_by_device["host"] == placed.ends["embedding"][1]


def test_an_operator_overrides_its_layer() -> None:
    """Whether it stays or goes elsewhere."""
    model = load_model("meta-llama/Llama-3.1-8B")
    rules = Placement({0: "host"}, {"o_proj": "accelerator", "down_proj": "host"})
    placed = PlacedWeights(model, Parallelism(), rules, HOST)
    assert "o_proj" not in placed.layers[0]
    assert set(placed.layers[1]) == {"down_proj"}


def test_kv_elsewhere_makes_blocks_smaller_here() -> None:
    """Half of the tokens elsewhere, less two buffers of a layer: 1.88 times as many blocks."""
    model, device = load_model("meta-llama/Llama-3.1-8B"), load_device("L40S")
    placed = PlacedWeights(model, Parallelism(), Placement(kv=KvElsewhere("host", 0.5)), HOST)
    assert placed.kv_here == 0.5 + 2 * 0.5 / 32
    whole = kv_capacity(model, device).num_blocks
    assert kv_capacity(model, device, kv_here=placed.kv_here).num_blocks == pytest.approx(
        whole / placed.kv_here, rel=1e-4
    )


def test_weights_that_leave_are_room_for_kv() -> None:
    """To the byte."""
    model, device = load_model("meta-llama/Llama-3.1-8B"), load_device("L40S")
    before, after = kv_capacity(model, device), kv_capacity(model, device, away_bytes=100 * 2**21)
    assert after.num_blocks - before.num_blocks == 100
    assert sum(after.breakdown.values()) == device.memory_bytes


def test_what_does_not_fit_is_said_with_both_figures() -> None:
    """What is placed there, and what it holds."""
    model = load_model("meta-llama/Llama-3.1-8B")
    small = {"host": MemoryDevice("host", 10**9, 50e9)}
    placed = PlacedWeights(model, Parallelism(), Placement(dict.fromkeys(range(4), "host")), small)
    with pytest.raises(InputError, match=r"'host' are 1\.74 GB .* holds 1\.00 GB"):
        check_fits([placed], 1, "here")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Placement({32: "host"}), "layer 32 does not exist.*0 to 31"),
        (Placement(operators={"experts": "host"}), "has no 'experts'; it has down_proj"),
        (Placement(experts=ExpertCache("host")), "has no experts"),
    ],
)
def test_rules_for_what_the_model_has_not(rules: Placement, message: str) -> None:
    """Layers, operators and experts are the model's own."""
    with pytest.raises(InputError, match=message):
        check_operators(rules, load_model("meta-llama/Llama-3.1-8B"), "placement")


def test_a_device_shares_its_bandwidth_among_ranks() -> None:
    """Each gets its part, at most what its own link carries; a load has its latency once."""
    device = MemoryDevice("host", 10**12, 100e9, 500, sharers=4)
    assert device.load_ns(25e9) == 1_000_000_500
    assert MemoryDevice("host", 10**12, 100e9, 0, 2, 20e9).load_ns(20e9) == 1_000_000_000
    assert device.load_ns(0) == 0
    with pytest.raises(InputError, match="bandwidth"):
        MemoryDevice("host", 1, 0.0)
