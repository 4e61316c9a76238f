"""The routed experts of one pipeline stage: routing, the slowest rank's time, and what is sent."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.step.experts.base import ExpertRouting
from servetwin.step.plans.base import SharedTime
from servetwin.step.profile.sharing import ExpertSharing

_REMEMBERED = 65_536
"""Steps whose times are kept, where routing depends on the number of tokens alone."""


class RoutedExperts:
    """What the layers of a stage take for their experts, as a function of the attention ranks' tokens.

    Parameters
    ----------
    routing
        Which experts a step takes.
    sharing
        How ranks share them.
    layers
        The stage's layers, of the model's.
    """

    def __init__(self, routing: ExpertRouting, sharing: ExpertSharing, layers: range) -> None:
        self._routing = routing
        self._sharing = sharing
        self._layers = layers
        self.drawn = "draw" in routing.needs
        self._found: dict[tuple[int, int, int], SharedTime] = {}

    def times(self, tokens: Sequence[int], draw: int) -> SharedTime:
        """Return the times of all layers together."""
        if self.drawn:
            return self._compute(tokens, draw)
        key = (len(tokens), sum(tokens), max(tokens))
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            found = self._found[key] = self._compute(tokens, draw)
        return found

    def _compute(self, tokens: Sequence[int], draw: int) -> SharedTime:
        routed = self._sharing.routed_tokens(tokens)
        dispatch_ns = experts_ns = combine_ns = 0.0
        for count, load in self._routing.loads(routed, self._layers.start, len(self._layers), draw):
            layer = self._sharing.layer(tokens, load)
            dispatch_ns += count * layer.dispatch_ns
            experts_ns += count * layer.experts_ns
            combine_ns += count * layer.combine_ns
        return SharedTime(dispatch_ns, experts_ns, combine_ns)
