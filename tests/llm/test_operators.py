"""The operators of a rank: they carry the architecture's weights, and the FLOPs of its matrices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.llm import ModelArchitecture, Parallelism, load_model, model_names, operators
from servetwin.llm.operators import AttentionKernel, Collective, Elementwise, Gemm, GroupedGemm, RankOperator
from servetwin.llm.parallel import ONE_RANK

models = st.sampled_from(model_names()).map(load_model)
MATRICES = (Gemm, GroupedGemm)
ABSORBED = ("q_absorb", "v_expand")
"""MLA's decode kernels, which hold ``kv_b_proj`` in another form."""


def named(model: ModelArchitecture, name: str, ranks: Parallelism = ONE_RANK) -> list[RankOperator]:
    """Return the operators of that name."""
    return [operator for operator in operators(model, ranks) if operator.name == name]


@st.composite
def placed_models(draw: st.DrawFn) -> tuple[ModelArchitecture, Parallelism]:
    """Return a model and a rank that can hold its part."""
    model = draw(models)
    tensor = draw(st.sampled_from(model.tensor_parallel_sizes()))
    pipeline = draw(st.integers(1, 4))
    expert = draw(st.sampled_from([1, 2, 4, 8])) if model.is_moe else 1
    return model, Parallelism(
        tensor, pipeline, expert, draw(st.integers(0, pipeline - 1)), draw(st.sampled_from([1, 2]))
    )


@given(placed_models())
def test_operators_read_all_weights_of_the_rank(placed: tuple[ModelArchitecture, Parallelism]) -> None:
    """The weights of a rank's operators are the tensors that it holds, but for the embedding."""
    model, ranks = placed
    read = sum(
        operator.weight_bytes * operator.count
        for operator in operators(model, ranks)
        if isinstance(operator, Gemm | GroupedGemm | Elementwise) and operator.name not in ABSORBED
    )
    held = model.weight_bytes(ranks=ranks)
    if ranks.is_first_stage and not (model.tie_word_embeddings and ranks.is_last_stage):
        held -= model.padded_vocab_per_rank(ranks.tensor) * model.hidden_size * 2
    assert read == pytest.approx(held, rel=2e-4)


@given(models)
def test_a_token_meets_each_active_weight_once(model: ModelArchitecture) -> None:
    """The matrix products of one token take two operations per activated element of the matrices."""
    matrices = [t for t in model.tensors() if t.linear or t.name in ("router", "shared_experts.gate")]
    active = sum(t.active_elements * t.copies for t in matrices)
    padded = model.padded_vocab_per_rank() - model.vocab_size
    head = padded if not model.tie_word_embeddings else padded + model.vocab_size
    flops = sum(
        operator.flops(1) * operator.count
        for operator in operators(model)
        if isinstance(operator, MATRICES) and operator.name not in ABSORBED
    )
    unquantized_groups = sum(t.active_elements * t.copies for t in model.tensors() if is_plain_matrix(t.name, t.linear))
    assert flops == 2 * (active + unquantized_groups + head * model.hidden_size)


def is_plain_matrix(name: str, linear: str) -> bool:
    """Return whether a matrix lost its group because its config leaves it plain."""
    return not linear and "proj" in name and not name.endswith(".bias")


@given(placed_models(), st.floats(1, 1e5))
def test_more_ranks_do_less_each_and_no_less_together(
    placed: tuple[ModelArchitecture, Parallelism], tokens: float
) -> None:
    """Tensor parallelism divides the FLOPs of a step, and repeats only what it does not divide."""
    model, ranks = placed

    def flops(tensor: int) -> float:
        ours = operators(model, Parallelism(tensor))
        return sum(o.flops(tokens) * o.count for o in ours if isinstance(o, MATRICES))

    one, part = flops(1), flops(ranks.tensor)
    assert part <= one <= ranks.tensor * part * (1 + 1e-9)


@given(models, st.integers(2, 4))
def test_pipeline_stages_hold_the_model_once(model: ModelArchitecture, stages: int) -> None:
    """The stages' operators are those of the model, and their weights sum to its weights (a tied head comes twice)."""
    places = [Parallelism(pipeline=stages, stage=stage) for stage in range(stages)]
    copies = sum(kind.copies for place in places for kind in model.stage_layers(place))
    assert copies == model.num_hidden_layers
    tied = model.vocab_size * model.hidden_size if model.tie_word_embeddings else 0
    padded = model.padded_vocab_per_rank() * model.hidden_size if tied else 0
    assert sum(model.weight_elements(ranks=place) for place in places) == model.weight_elements() + padded
    assert sum(model.kv_bytes_per_token(ranks=place) for place in places) == model.kv_bytes_per_token()


def test_what_ranks_exchange() -> None:
    """One rank exchanges nothing; tensor parallelism reduces twice per layer; a stage sends two tensors on."""
    model = load_model("mistralai/Mixtral-8x7B-v0.1")

    def exchanged(ranks: Parallelism) -> dict[str, int]:
        return {o.name: o.count for o in operators(model, ranks) if isinstance(o, Collective)}

    assert exchanged(Parallelism()) == {}
    reduced = {"embedding_all_reduce": 1, "attention_all_reduce": 32, "mlp_all_reduce": 32, "logits_gather": 1}
    assert exchanged(Parallelism(2)) == reduced
    assert exchanged(Parallelism(8, expert=8)) == reduced
    assert exchanged(Parallelism(pipeline=2)) == {"pipeline_send": 2}
    divided = {"embedding_all_reduce": 1, "attention_all_reduce": 32, "mlp_all_gather": 32, "logits_gather": 1}
    assert exchanged(Parallelism(2, expert=8, data=4)) == divided
    dense = {"attention_all_reduce": 16, "mlp_all_reduce": 16}
    first = {"embedding_all_reduce": 1, "pipeline_send": 2, "pipeline_gather": 2}
    assert exchanged(Parallelism(2, pipeline=2)) == dense | first


def test_ranks_that_divide_a_context_exchange_queries_and_partial_outputs() -> None:
    """Each attends for all heads of its group: queries are gathered, log-sum-exps too, outputs are reduce-scattered."""
    ours = operators(load_model("Qwen/Qwen3-30B-A3B"), Parallelism(8, decode_context=2))
    exchanged = {o.name: o for o in ours if isinstance(o, Collective) and o.group == "decode_context"}
    assert {o.kind for o in exchanged.values()} == {"all_gather", "reduce_scatter"}
    assert exchanged["query_gather"].elements == exchanged["output_scatter"].elements == 2 * 4 * 128
    assert (exchanged["lse_gather"].elements, exchanged["lse_gather"].activation_bytes) == (2 * 2 * 4, 4)
    decode, prefill = (o for o in ours if isinstance(o, AttentionKernel))
    assert (decode.phase, decode.num_heads, decode.num_kv_heads, decode.context_ranks) == ("decode", 8, 1, 2)
    assert (prefill.phase, prefill.num_heads, prefill.context_ranks) == ("prefill", 4, 2)


def test_latent_context_is_gathered_for_prompts_and_divided_for_decodes() -> None:
    """MLA's chunks gather the compressed context and read it whole; its decodes read a part for all ranks' heads."""
    ours = operators(load_model("deepseek-ai/DeepSeek-V3"), Parallelism(8, decode_context=8))
    gathers = [o for o in ours if isinstance(o, Collective) and o.name == "context_gather"]
    assert {(o.applies_to, o.elements) for o in gathers} == {("prefill_context_tokens", 576)}
    kernels = {(o.phase, o.num_heads, o.context_ranks) for o in ours if isinstance(o, AttentionKernel)}
    assert kernels == {("prefill", 16, 1), ("decode", 128, 8)}


def test_ranks_that_divide_a_prompt_gather_its_keys() -> None:
    """Keys and values of a chunk's new tokens go to all ranks; the hidden states come together at the end."""
    ours = operators(load_model("meta-llama/Llama-3.1-8B"), Parallelism(prefill_context=4))
    gathers = {o.name: (o.count, o.applies_to, o.elements) for o in ours if isinstance(o, Collective)}
    assert gathers == {
        "kv_gather": (32, "prefill_tokens", 2 * 8 * 128),
        "hidden_gather": (1, "prefill_tokens", 4096),
    }


def test_experts_are_cut_or_dealt_out() -> None:
    """Under tensor parallelism each rank has a slice of each expert; under expert parallelism whole ones of its own."""
    model = load_model("mistralai/Mixtral-8x7B-v0.1")
    (cut,) = named(model, "experts.gate_up_proj", Parallelism(4))
    (dealt,) = named(model, "experts.gate_up_proj", Parallelism(4, expert=4))
    assert isinstance(cut, GroupedGemm)
    assert isinstance(dealt, GroupedGemm)
    assert (cut.local_experts, cut.n, cut.k) == (8, 2 * 14336 // 4, 4096)
    assert (dealt.local_experts, dealt.n, dealt.k) == (2, 2 * 14336, 4096)
    assert cut.weight_bytes == dealt.weight_bytes
    assert cut.flops(10) == dealt.flops(10) == 2 * 20 * 4096 * 2 * 14336 / 4


def test_few_tokens_reach_few_experts() -> None:
    """One token reads its top_k experts; many read all of them."""
    (first,) = named(load_model("Qwen/Qwen3-30B-A3B"), "experts.gate_up_proj")
    assert isinstance(first, GroupedGemm)
    assert first.active_experts(1) == pytest.approx(8)
    assert first.bytes_read(1) == pytest.approx(8 * first.expert_bytes + 8 * 2048 * 2)
    assert first.active_experts(10_000) == pytest.approx(128)


def test_latent_attention_expands_prompts_and_absorbs_decodes() -> None:
    """MLA's prompts see 128 heads of 192 and 128; its decodes one KV head of 576 and 512, whatever the ranks."""
    model = load_model("deepseek-ai/DeepSeek-V3")
    prefill, decode = (o for o in operators(model, Parallelism(8)) if isinstance(o, AttentionKernel) and o.count == 58)
    assert (prefill.phase, prefill.num_heads, prefill.num_kv_heads) == ("prefill", 16, 16)
    assert (prefill.head_dim, prefill.v_head_dim) == (192, 128)
    assert (decode.phase, decode.num_heads, decode.num_kv_heads) == ("decode", 16, 1)
    assert (decode.head_dim, decode.v_head_dim, decode.kv_bytes_per_token) == (576, 512, 1152)
    expand = named(model, "kv_b_proj")[0]
    absorb = named(model, "q_absorb")[0]
    assert isinstance(expand, Gemm)
    assert isinstance(absorb, Gemm)
    assert (expand.applies_to, absorb.applies_to) == ("prefill_kv_tokens", "decode_tokens")
    assert absorb.flops(1) == 2 * 128 * 128 * 512


def test_windows_and_heads_reach_the_kernel() -> None:
    """Each kind of layer has its own attention kernel with its window and its share of the heads."""
    kernels = [o for o in operators(load_model("openai/gpt-oss-20b"), Parallelism(2)) if isinstance(o, AttentionKernel)]
    assert [(k.window, k.count, k.num_heads, k.num_kv_heads) for k in kernels] == [(128, 12, 32, 4), (None, 12, 32, 4)]
    assert kernels[0].flops_per_pair == 4 * 32 * 64
    assert kernels[0].kv_bytes_per_token == 2 * 4 * 64 * 2


def test_formats_of_single_operators() -> None:
    """gpt-oss computes its experts from MXFP4 and all else from bf16; a KV format can be asked for."""
    ours = operators(load_model("openai/gpt-oss-20b"), kv_cache_dtype="fp8")
    formats = {o.name: o.weights.name for o in ours if isinstance(o, MATRICES)}
    assert {name for name, form in formats.items() if form == "mxfp4"} == {"experts.gate_up_proj", "experts.down_proj"}
    assert {o.kv_bytes_per_token for o in ours if isinstance(o, AttentionKernel)} == {2 * 8 * 64}
    (down,) = named(load_model("Qwen/Qwen3-32B-FP8"), "down_proj")
    assert isinstance(down, Gemm)
    assert (down.weights.name, down.weights.activations) == ("fp8", "fp8")
    assert down.bytes_written(3) == 3 * 5120 * 2
