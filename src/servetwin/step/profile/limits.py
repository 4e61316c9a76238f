"""Says, once per axis, that a run went far beyond what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from servetwin.step.profile.attention import AttentionTimes, Prefills
from servetwin.step.profile.tables import Curve, Profile

FAR = 4
"""Beyond a table's end by more than this factor a result gets a notice."""


class Limits:
    """Compares what is asked with the ends of the tables, and adds to ``notices``."""

    def __init__(self, profile: Profile, attention: AttentionTimes, notices: list[str]) -> None:
        ends = attention.ends
        self._notices = notices
        self._said: set[str] = set()
        self._tokens = _last(profile.dense)
        self._sequences = min(_last(profile.per_sequence), ends["decodes"])
        self._chunk = ends["chunk"]
        self._chunk_context = ends["chunk context"]
        self._decode_context = ends["decode context"]

    def check_counts(self, tokens: int, sequences: int) -> None:
        """Check a step's tokens and sequences."""
        if tokens > FAR * self._tokens:
            self._say("tokens in a step", tokens, self._tokens)
        if sequences > FAR * self._sequences:
            self._say("sequences in a step", sequences, self._sequences)

    def check_prefills(self, prefills: Prefills) -> None:
        """Check each chunk and its context."""
        for new, context in prefills:
            if new > FAR * self._chunk:
                self._say("tokens in a prefill chunk", new, self._chunk)
            if context > FAR * self._chunk_context:
                self._say("context tokens of a prefill chunk", context, self._chunk_context)

    def check_decodes(self, decodes: int, kv_tokens: int) -> None:
        """Check the mean context of decodes."""
        if kv_tokens > FAR * self._decode_context * decodes:
            self._say("mean context of decodes", kv_tokens / decodes, self._decode_context)

    def check_pairs(self, pairs: float, measured: int) -> None:
        """Check the (token, expert) pairs of one accelerator."""
        if pairs > FAR * measured:
            self._say("(token, expert) pairs of an accelerator", pairs, measured)

    def _say(self, axis: str, value: float, end: int) -> None:
        if axis not in self._said:
            self._said.add(axis)
            self._notices.append(
                f"profile extrapolated: {axis} reached {value:g}, more than {FAR} times the {end} that were measured"
            )


def _last(curves: Mapping[str, Curve]) -> int:
    return min((int(curve.counts[-1]) for curve in curves.values()), default=0)
