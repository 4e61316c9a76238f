"""The FFN side of attention/FFN disaggregation: MLPs or experts on devices of their own, and the way to them.

Routed experts lie whole on the FFN devices. What all tokens meet (shared experts, and dense layers of such a model)
stands on each of them; each takes an even part of the tokens. Devices of a model without experts divide its MLPs as
tensor-parallel ranks do: a token is sent once, in parts, and their all-reduce, over their own links, does the rest.
A token is sent to each device that has one of its experts, once (or once for each expert); shared experts run where it
is anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servetwin.core.units import NS_PER_S
from servetwin.llm.operators import Gemm
from servetwin.network.base import Link
from servetwin.step.base import StepShape
from servetwin.step.plans.base import FfnTime
from servetwin.step.roofline import RooflineStepModel
from servetwin.step.routed_experts import RoutedExperts


class FfnSide:
    """An `FfnModel` of a roofline.

    Parameters
    ----------
    model
        The roofline of a rank that holds the FFNs (``Parallelism.part``), one of all FFN devices.
    port
        Of each device of either side to the other side, per direction.
    senders_per_rank
        Devices of an attention rank, each of which sends a part of its tokens.
    """

    def __init__(self, model: RooflineStepModel, port: Link, senders_per_rank: int = 1) -> None:
        self.notices = model.notices
        self.needs = model.needs
        self.num_layers = model.architecture.num_hidden_layers
        self.delay_ns = port.latency_ns
        self._byte_ns = NS_PER_S / port.bandwidth_bytes_per_s
        self._model, self._senders = model, senders_per_rank
        self._dividing = model.ranks.data
        self._devices = model.ranks.data * model.ranks.tensor
        self._times: dict[tuple[int, int], FfnTime] = {}

    def parts_ns(self, tokens: Sequence[int], draw: int) -> FfnTime:
        """See `FfnModel`."""
        key = sum(tokens), -(-max(tokens) // self._senders)
        if "draw" in self.needs:
            return self._time(*key, draw)
        time = self._times.get(key)
        if time is None:
            time = self._times[key] = self._time(*key, draw)
        return time

    def _time(self, total: int, most: int, draw: int) -> FfnTime:
        """Return the time of ``total`` tokens, ``most`` of which leave one device."""
        model = self._model
        rows = -(-total // self._dividing)
        own_ns = model.own_ns(StepShape(rows, 0), rows, 0)
        sent, back = self._dense_bytes(total, most)
        if model.routed is not None:
            own_ns += model.routed.shared_parts_ns((total,), draw).experts_ns
            to_experts, from_experts = self._routed_bytes(model.routed, total, most, draw)
            sent, back = sent + to_experts, back + from_experts
        return FfnTime(sent * self._byte_ns, max(own_ns, model.launches_ns), back * self._byte_ns)

    def _dense_bytes(self, total: int, most: int) -> tuple[float, float]:
        """Return what passes the busiest port in all layers without experts, each way."""
        layers = self.num_layers - self._model.expert_layers
        elements = layers * max(most, total / self._devices) * self._model.architecture.hidden_size
        size = next((op.activation_bytes for op in self._model.operators if isinstance(op, Gemm)), 0)
        return elements * size, elements * size

    def _routed_bytes(self, routed: RoutedExperts, total: int, most: int, draw: int) -> tuple[float, float]:
        """Return what passes the busiest port in all layers with experts, each way."""
        load = routed.load(total, draw)
        copies = routed.copies(load)
        leaving = copies.mean(axis=1) * (self._model.ranks.expert * most / total)
        busiest = float(load.num_layers @ np.maximum(leaving, copies.max(axis=1)))
        sent, back = routed.copy_bytes
        return busiest * sent, busiest * back
