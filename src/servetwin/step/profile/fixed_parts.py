"""What a step takes beside attention and routed experts: it depends on the numbers of tokens and sequences alone."""

from __future__ import annotations

from collections.abc import Callable

from servetwin.core.units import NS_PER_US
from servetwin.llm.parallel import Parallelism
from servetwin.network.base import Collectives
from servetwin.step.host import HostOverhead
from servetwin.step.profile.kernel_curve import KernelCurve
from servetwin.step.profile.layers import BLOCK_LAYERS
from servetwin.step.profile.lss_lookup import LssCurve
from servetwin.step.profile.monotone_curve import MonotoneCurve
from servetwin.step.profile.options import HostIo, ModelSizes, ProfileOptions
from servetwin.step.profile.padding import CUDA_GRAPH_LIMIT, padding
from servetwin.step.profile.tables import Profile


class FixedParts:
    """The layers over tokens and over sequences of one pipeline stage, their collectives, and the host.

    The first stage has the embedding and the host's overhead, the last one the final norm, the LM head and the sampler.

    Parameters
    ----------
    layers
        Blocks of the stage.
    ranks
        The rank's place.
    router_ns
        The experts' router over tokens; None for a dense model.
    """

    def __init__(
        self,
        profile: Profile,
        sizes: ModelSizes,
        options: ProfileOptions,
        layers: int,
        ranks: Parallelism,
        collectives: Collectives | None,
        host: HostOverhead,
        host_io: HostIo | None,
        router_ns: Callable[[int], float] | None,
    ) -> None:
        self._row_bytes = sizes.hidden_size * sizes.bytes_per_element
        self._id_bytes = 2 * sizes.bytes_per_element
        self._layers = layers
        self._ranks = ranks
        self._collectives = collectives
        self._host, self._host_io = host, host_io
        self._router_ns = router_ns
        kind = profile.token_padding if options.token_padding == "auto" else options.token_padding
        self.pad_tokens, self._pad_sequences = padding(kind)
        self.graph_limit = CUDA_GRAPH_LIMIT if kind == "cuda_graph" else 0
        self._eager_ns = options.eager_us_per_layer * NS_PER_US * layers if kind == "cuda_graph" else 0.0
        self._set_curves(profile, options)
        self._by_tokens: dict[int, float] = {}
        self._by_sequences: dict[tuple[int, bool], float] = {}

    def _set_curves(self, profile: Profile, options: ProfileOptions) -> None:
        curve = _reading(profile, options)
        ends = {"embedding": self._ranks.is_first_stage, "final_layernorm": self._ranks.is_last_stage}
        self._curves = {name: curve(table) for name, table in profile.dense.items() if ends.get(name, True)}
        heads = profile.per_sequence if self._ranks.is_last_stage else {}
        self._sequence_curves = {name: curve(table) for name, table in heads.items()}

    def tokens_ns(self, tokens: int) -> float:
        """Return what depends on the step's tokens only, in nanoseconds."""
        found = self._by_tokens.get(tokens)
        if found is None:
            found = self._by_tokens[tokens] = sum(self.token_parts(tokens).values())
        return found

    def sequences_ns(self, sequences: int, mixed: bool) -> float:
        """Return what depends on the step's sequences only (``mixed``: beside at least one chunk), in nanoseconds."""
        key = (sequences, mixed)
        found = self._by_sequences.get(key)
        if found is None:
            found = self._by_sequences[key] = sum(self.sequence_parts(sequences, mixed=mixed).values())
        return found

    def token_parts(self, tokens: int) -> dict[str, float]:
        """Return `tokens_ns` by layer, ``all_reduce`` and ``host_io``."""
        padded, layers = max(1, self.pad_tokens(tokens)), self._layers
        repeats = {name: BLOCK_LAYERS[name] * layers if name in BLOCK_LAYERS else 1 for name in self._curves}
        parts = {name: curve(padded) * repeats[name] for name, curve in self._curves.items()}
        if self._router_ns:
            parts["router"] = layers * self._router_ns(padded)
        if self._collectives and self._ranks.tensor > 1:
            per_block = 1 if self._router_ns else 2
            size = padded * self._row_bytes
            parts["all_reduce"] = per_block * layers * self._collectives.all_reduce_ns(size, self._ranks.tensor)
        if self._host_io:
            parts["host_io"] = self._host_io_ns(self._host_io, tokens)
        return parts

    def _host_io_ns(self, host_io: HostIo, tokens: int) -> float:
        loaded = host_io.access_ns(tokens * self._id_bytes) if self._ranks.is_first_stage else 0
        return loaded + (host_io.access_ns(4 * tokens) if self._ranks.is_last_stage else 0)

    def sequence_parts(self, sequences: int, *, mixed: bool) -> dict[str, float]:
        """Return `sequences_ns` by layer, and ``host``; a dummy batch of 0 sequences computes no logits."""
        rows = self._pad_sequences(sequences)
        parts = {name: curve(rows) if rows else 0.0 for name, curve in self._sequence_curves.items()}
        host_ns = self._host.of_requests_ns(sequences) if self._ranks.is_first_stage else 0.0
        parts["host"] = host_ns + (self._eager_ns if mixed else 0.0)
        return parts


def _reading(profile: Profile, options: ProfileOptions) -> type[LssCurve] | type[MonotoneCurve]:
    """Return how the layers' samples are read.

    Where sizes are padded to powers of two (a TPU) every size is a program of its own, not a choice among kernels.
    """
    if options.interpolation == "lss":
        return LssCurve
    return MonotoneCurve if profile.token_padding == "power_of_two" else KernelCurve
