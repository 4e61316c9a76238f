"""How long a step takes with loads, from how long it computes: one class for each way in which weights come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from servetwin.llm.parts import MixtureOfExperts
from servetwin.memory.placement import PlacedWeights
from servetwin.memory.weights import operator_of
from servetwin.step.offload.timeline import (
    Line,
    Lines,
    Module,
    Row,
    issued_at_start,
    loaded_ahead,
)

START = ("embedding", "host", "host_io")
END = ("hidden_gather", "final_layernorm", "lm_head", "sampler", "logits_gather")
"""Parts of a step's breakdown before its first and after its last layer."""

DENSE_ROWS = ("layernorm", "qkv_proj", "attention", "o_proj", "layernorm", "gate_up_proj", "down_proj")
EXPERT_ROWS = ("layernorm", "qkv_proj", "attention", "o_proj", "layernorm", "router", "experts", "shared_experts")
"""Operators of a layer in the order in which they run; ``attention`` is all that has no weights."""

Parts = Mapping[str, float]


class Schedule(Protocol):
    """How loads and computing share a step's time."""

    def step_ns(self, computing_ns: float, parts: Parts, key: tuple[int, int, bool], kv_tokens: int) -> float:
        """Return the length of a step.

        Parameters
        ----------
        computing_ns
            How long it takes without loads.
        parts
            That time by part; only those parts are read that depend on ``key`` alone.
        key
            Tokens, sequences, and whether the step has chunks of prompts.
        kv_tokens
            Tokens whose keys and values it reads or writes.
        """
        ...


class LoadedAhead:
    """Weights are copied into buffers ahead of their layers."""

    def __init__(self, placed: PlacedWeights) -> None:
        self._layers = max(1, len(placed.layers))
        self._buffers = placed.placement.prefetch
        self.modules = _modules(placed)
        self._embedding = placed.ends.get("embedding") if placed.ranks.is_first_stage else None
        self._placed = placed
        self._known: dict[tuple[int, int, bool], tuple[int, int, Lines]] = {}

    def step_ns(self, computing_ns: float, parts: Parts, key: tuple[int, int, bool], kv_tokens: int) -> float:
        """See `Schedule`; layers count as equally long."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._lines(parts)
        start, end, lines = found
        rows_ns = self._rows_ns(key[0])
        layer_ns = max(0.0, computing_ns - start - end) / self._layers
        if self._placed.placement.kv is None:
            return rows_ns + lines.at(layer_ns)
        modules = self._with_kv(kv_tokens)
        return rows_ns + loaded_ahead(start, end, self._layers, modules, self._buffers, layer_ns).at(layer_ns)

    def _lines(self, parts: Parts) -> tuple[int, int, Lines]:
        start, end = (round(sum(parts.get(name, 0.0) for name in names)) for names in (START, END))

        def find(layer_ns: float) -> Line:
            return loaded_ahead(start, end, self._layers, self.modules, self._buffers, layer_ns)

        return start, end, Lines(find)

    def _with_kv(self, kv_tokens: int) -> list[Module]:
        """Return the modules of a step that moves keys and values too, in every layer."""
        kv = self._placed.placement.kv
        assert kv is not None
        load_ns = self._placed.devices[kv.device].load_ns(kv_tokens * kv.share * self._placed.kv_bytes_per_token)
        own = {module.layer: module.loads for module in self.modules}
        ends = [module for module in self.modules if module.layer == self._layers]
        more = ((kv.device, load_ns),)
        return [Module(layer, own.get(layer, ()) + more) for layer in range(self._layers)] + ends

    def _rows_ns(self, tokens: int) -> int:
        """Return the time in which the tokens' rows of an embedding that lies elsewhere come; nobody loads the rest."""
        if self._embedding is None:
            return 0
        architecture = self._placed.architecture
        row_bytes = self._embedding[1] / architecture.padded_vocab_per_rank(self._placed.ranks.tensor)
        return self._placed.devices[self._embedding[0]].load_ns(tokens * row_bytes)


def _modules(placed: PlacedWeights) -> list[Module]:
    """Return what is loaded as one: a layer's weights, and the LM head with the final norm."""
    ends = {name: place for name, place in placed.ends.items() if name != "embedding"}
    modules = []
    for number, layer in enumerate([*placed.layers, ends]):
        sizes: dict[str, int] = {}
        for device, num_bytes in layer.values():
            sizes[device] = sizes.get(device, 0) + num_bytes
        if sizes:
            loads = tuple((device, placed.devices[device].load_ns(size)) for device, size in sizes.items())
            modules.append(Module(number, loads))
    return modules


class IssuedAtStart:
    """All loads are issued when the step starts, operator by operator (LLMServingSim).

    Those of a pipeline's later stages, too: they share the device with the first stage's, and are there when the batch
    comes.
    """

    def __init__(self, placed: PlacedWeights) -> None:
        self._placed = placed
        self._layers = max(1, len(placed.layers))
        self._known: dict[tuple[int, int, bool], tuple[float, int, Lines]] = {}

    def step_ns(self, computing_ns: float, parts: Parts, key: tuple[int, int, bool], kv_tokens: int) -> float:
        """See `Schedule`; attention is what varies."""
        if not self._placed.ranks.is_first_stage:
            return computing_ns
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._lines(parts)
        fixed_ns, rest_ns, lines = found
        attention_ns = max(0.0, computing_ns - fixed_ns) / self._layers
        return rest_ns + lines.at(attention_ns)

    def _lines(self, parts: Parts) -> tuple[float, int, Lines]:
        grouped = by_operator(parts)
        rows = self._rows(grouped)
        candidates = issued_at_start(rows, lambda device: self._placed.devices[device].queued)
        io_ns = round(parts.get("host", 0.0) + parts.get("host_io", 0.0))
        fixed_ns = sum(row.fixed_ns for row in rows) + io_ns
        return fixed_ns, io_ns, Lines(lambda layer_ns: max(candidates, key=lambda line: line.at(layer_ns)))

    def _rows(self, grouped: Parts) -> list[Row]:
        placed, count = self._placed, self._layers
        rows = [self._row("embedding", grouped.get("embedding", 0.0), placed.ends)]
        for layer in placed.layers:
            names = EXPERT_ROWS if "experts" in grouped else DENSE_ROWS
            for name in names:
                if name == "attention":
                    rows.append(Row(0, True))
                else:
                    rows.append(self._row(name, grouped.get(name, 0.0) / count / names.count(name), layer, names))
        rows += [self._row(name, grouped.get(name, 0.0), placed.ends) for name in END]
        return rows

    def _row(
        self,
        name: str,
        time_ns: float,
        places: Mapping[str, tuple[str, int]],
        names: Sequence[str] = (),
    ) -> Row:
        place = places.get(name)
        if place is None:
            return Row(round(time_ns))
        device, num_bytes = place
        load_ns = self._placed.devices[device].load_ns(num_bytes / max(1, names.count(name)))
        return Row(round(time_ns), False, (device, load_ns))


def by_operator(parts: Parts) -> dict[str, float]:
    """Return the parts of a breakdown by the operators that have weights, and those of both ends by name."""
    grouped: dict[str, float] = {}
    for name, time_ns in parts.items():
        key = name if name in START or name in END else operator_of(name)
        grouped[key] = grouped.get(key, 0.0) + time_ns
    return grouped


class ReadDirectly:
    """Kernels read weights over the link: each takes as long as it computes, or as its weights come if that is longer.

    The read from the accelerator's own memory no longer happens. Nothing is ahead of its kernel, so that the wait of
    one does not hide behind another.
    """

    def __init__(self, placed: PlacedWeights) -> None:
        self._placed = placed
        self._known: dict[tuple[int, int, bool], float] = {}

    def step_ns(self, computing_ns: float, parts: Parts, key: tuple[int, int, bool], kv_tokens: int) -> float:
        """See `Schedule`."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._waiting_ns(by_operator(parts), key[0])
        return computing_ns + found

    def _waiting_ns(self, grouped: Parts, tokens: int) -> float:
        placed = self._placed
        layers: list[Mapping[str, tuple[str, int]]] = [*placed.layers]
        total = 0.0
        for layer in layers:
            for name, (device, num_bytes) in layer.items():
                own_ns = grouped.get(name, 0.0) / max(1, len(placed.layers))
                read = num_bytes * (self._active_share(tokens) if name == "experts" else 1.0)
                total += max(0.0, placed.devices[device].load_ns(read) - own_ns)
        for name, (device, num_bytes) in placed.ends.items():
            if name == "embedding":
                num_bytes = round(num_bytes / placed.architecture.padded_vocab_per_rank(placed.ranks.tensor) * tokens)
            total += max(0.0, placed.devices[device].load_ns(num_bytes) - grouped.get(name, 0.0))
        return total

    def _active_share(self, tokens: int) -> float:
        """Return the expected share of a layer's experts that a step's tokens activate, evenly spread."""
        mlps = (layer.mlp for layer, _ in self._placed.architecture.layers)
        mlp = next(part for part in mlps if isinstance(part, MixtureOfExperts))
        tokens *= self._placed.ranks.data
        return 1.0 - (1.0 - mlp.top_k / mlp.num_experts) ** tokens


def schedule_of(placed: PlacedWeights) -> Schedule:
    """Return the schedule that a placement asks for."""
    if placed.placement.access == "direct":
        return ReadDirectly(placed)
    return IssuedAtStart(placed) if placed.placement.at_start else LoadedAhead(placed)
