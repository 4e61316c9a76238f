"""Writes ``docs/models.md``: how configs are read, the families, the formats and the catalogue: ``make docs``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import CatalogueModel, list_models
from servetwin.llm.families import FAMILIES, WRAPPERS, Family
from servetwin.llm.formats import QUANTIZED_FORMATS, WeightFormat

HEAD = """\
# Models

<!-- Written by `make docs` from the code and the catalogue: edit these, not this page. -->

`model:` in a scenario is a name of the catalogue below, or the path of a Hugging Face `config.json` (or of the folder
that holds it). Nothing is fetched. From the config follow all weight tensors, how ranks divide them, the KV cache of
a token, and the operators of a step (`servetwin.llm.operators`): FLOPs, bytes read and written, weights, per tensor-,
pipeline- and expert-parallel rank.

## How a config is read

- `model_type` names the family, a row of the table below. An unknown family is an error that says what is missing:
  sizes alone do not tell which tensors there are, so nothing is guessed from a similar name.
- A key that the family needs must be there, unless transformers' own configuration class has a default on which
  published configs rely. `null` counts as absent. Sizes that contradict each other (`hidden_size` that the heads do
  not divide without a `head_dim`, `layer_types` of another length than `num_hidden_layers`, more experts per token
  than experts) are errors with the file and the key.
- Windows: `layer_types` where given, else the family's rule. A window as long as the longest context is none.
- Multimodal configs (`text_config`): the text model is described, the vision tower is not; it is missing from the
  weights.
- Layers that predict further tokens (DeepSeek-V3, GLM-4.5) are not part of the model: engines load them for
  speculative decoding only.
- `quantization_config` (or NVIDIA's `hf_quant_config.json` beside the config) gives the matrices' format, block
  sizes, the modules that stay plain, layer by layer, and the format of the KV cache. Embeddings, routers, norms and
  biases are plain; the LM head too, unless a GPTQ config says otherwise.
- `dtype` in a scenario replaces all formats by one plain format.

Parameter counts: the embedding counts once if it is tied. Activated parameters: of the routed experts those that a
token visits, all else whole, the embedding too. Some publishers leave out the embedding, or it and the LM head; the
catalogue's files say so.

A model that is described is not always one that can be simulated: what the step model lacks is refused by name.
"""

FAMILY_HEAD = """
## Families

Biases: "config" is as `attention_bias` or `mlp_bias` says. Norms of queries and keys: over each head, over a token's
whole projection, or without weights. Windows, where `layer_types` does not give them:

- all: every layer, if `sliding_window` is set
- qwen: layers from `max_window_layers` on, if `use_sliding_window`
- even: every other layer, from the first on
- pattern: all but every `sliding_window_pattern`-th
- chunked: all but every fourth, within aligned chunks of `attention_chunk_size`
"""

FORMAT_HEAD = """
## Formats of quantised weights

Bits per weight include the scales, for a matrix of 4096 x 4096. "Computed in": plain means that weights are expanded
and multiplied in the format of the activations.
"""

CATALOGUE_HEAD = """
## Catalogue

Counts are those of the tensors that the config implies; they equal the publisher's checkpoint, or the modules that
Hugging Face transformers builds, to the parameter, and the printed figure to its last digit (`tests/llm`). KV: bytes
per token, over all layers, in the published format. Each file under `src/servetwin/llm/catalog` has the sources.
"""


def model_row(entry: CatalogueModel) -> dict[str, str | int]:
    """Return what `servetwin list models` shows of a model."""
    model = entry.architecture
    return {
        "name": model.name,
        "family": model.model_type,
        "parameters": model.num_parameters,
        "active": model.num_active_parameters,
        "layers": model.num_hidden_layers,
        "context": model.max_position_embeddings,
        "format": model.format_name,
    }


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, FAMILY_HEAD, *_families(), FORMAT_HEAD, *_formats(), CATALOGUE_HEAD, *_catalogue()]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _families() -> Iterator[str]:
    head = ("`model_type`", "attention", "biases of q/k/v, o, MLP", "norm of q and k", "windows", "experts")
    return _table(head, (_family_row(name, family) for name, family in sorted(FAMILIES.items())))


def _family_row(name: str, family: Family) -> tuple[str, ...]:
    wrappers = [f"`{outer}`" for outer, inner in WRAPPERS.items() if inner == name]
    within = f" (in {', '.join(wrappers)})" if wrappers else ""
    attention = "latent (MLA)" if family.latent else "heads, with sinks" if family.sinks else "heads"
    biases = ", ".join((family.qkv_bias, family.o_bias, family.mlp_bias))
    return (f"`{name}`{within}", attention, biases, family.qk_norm, family.windows, _experts(family))


def _experts(family: Family) -> str:
    experts = family.experts
    if experts is None:
        return "–"
    shared = experts.one_shared or experts.shared_count or experts.shared_width
    return f"`{experts.num_experts}`{', shared' if shared else ''}"


def _formats() -> Iterator[str]:
    head = ("scheme", "format", "outputs x inputs per scale", "bits per weight", "computed in")
    return _table(head, (_format_row(name, form) for name, form in QUANTIZED_FORMATS.items()))


def _format_row(name: str, form: WeightFormat) -> tuple[str, ...]:
    height, width = form.block or (0, 0)
    block = f"{height or 'all'} x {width or 'all'}"
    bits = form.matrix_bytes(4096, 4096) * 8 / 4096**2
    return f"`{name}`", form.name, block, f"{bits:.3f}", form.activations or "plain"


def _catalogue() -> Iterator[str]:
    head = ("name", "family", "parameters", "active", "layers", "context", "format", "attention", "KV")
    return _table(head, (_catalogue_row(entry) for entry in list_models()))


def _catalogue_row(entry: CatalogueModel) -> tuple[object, ...]:
    row, model = model_row(entry), entry.architecture
    active = _billions(model.num_active_parameters) if model.is_moe else "–"
    shown = (row["name"], row["family"], _billions(model.num_parameters), active, row["layers"])
    return (*shown, f"{row['context']:,}", row["format"], _attention(model), f"{model.kv_bytes_per_token():,}")


def _attention(model: ModelArchitecture) -> str:
    windowed = [layer for layer, _ in model.layers if layer.attention.window is not None]
    kind = model.attention.kind.upper()
    if not windowed:
        return kind
    count = sum(copies for layer, copies in model.layers if layer.attention.window is not None)
    window = windowed[0].attention
    return f"{kind}, {count} of {model.num_hidden_layers} {window.window_kind} {window.window}"


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f}B"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
