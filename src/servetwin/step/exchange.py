"""What data that a rank's accelerators exchange costs: groups of accelerators, and collectives among them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from servetwin.core.errors import InputError
from servetwin.llm.operators import Collective
from servetwin.llm.parallel import Parallelism
from servetwin.network.base import Collectives
from servetwin.network.collectives import Ring
from servetwin.step.kernels import Numbers

Group = tuple[int, int]
"""How many accelerators, and how far each is from the next."""


def groups(ranks: Parallelism) -> dict[str, Group]:
    """Return the groups of a stage's accelerators, numbered as vLLM numbers them: data, pipeline, context, tensor.

    The experts' group is all accelerators of a stage; with data parallelism and several stages it is not evenly spaced,
    and taken as if it were, over the same span. FFN devices exchange nothing among data-parallel ranks: their tokens
    come from elsewhere.
    """
    if ranks.part == "ffn":
        ranks = replace(ranks, data=1, expert=1)
    inner = ranks.tensor * ranks.prefill_context
    return {
        "tensor": (ranks.tensor, 1),
        "decode_context": (ranks.decode_context, 1),
        "prefill_context": (ranks.prefill_context, ranks.tensor),
        "data": (ranks.data, inner * ranks.pipeline),
        "experts": (ranks.experts_group, ranks.pipeline if ranks.data > 1 else 1),
        "stage": (min(2, ranks.pipeline), inner),
    }


class Exchange:
    """The collectives of one rank.

    Parameters
    ----------
    collectives
        What they take; None is enough where nothing is exchanged. With ``times_ns`` (see `TopologyCollectives`) many
        sizes are asked for at once.
    ranks
        The rank's place, from which the groups follow.
    bandwidth_share
        Share of the links' bandwidth that a collective on a plain `Ring` reaches; others know their protocols.

    Raises
    ------
    InputError
        If there are several ranks and no ``collectives``.
    """

    def __init__(self, collectives: Collectives | None, ranks: Parallelism, bandwidth_share: float) -> None:
        self.groups = groups(ranks)
        self._share = bandwidth_share if isinstance(collectives, Ring) else 1.0
        self._many = getattr(collectives, "times_ns", None)
        self._operations = {}
        if collectives is not None:
            self._operations = {
                "all_reduce": collectives.all_reduce_ns,
                "all_gather": collectives.all_gather_ns,
                "reduce_scatter": collectives.reduce_scatter_ns,
                "all_to_all": collectives.all_to_all_ns,
            }
            self._send_ns = collectives.send_ns
            return
        for name, (size, _) in self.groups.items():
            if size > 1:
                option = {"stage": "pipeline", "experts": "expert"}.get(name, name) + "_parallel_size"
                raise InputError(f"{option} {size} needs a link between the ranks")

    def ns(self, kind: str, num_bytes: float, group: str) -> float:
        """Return the time of one collective, in nanoseconds; 0 for no data or a group of one."""
        size, stride = self.groups[group]
        if size == 1 or not num_bytes:
            return 0.0
        num_bytes /= self._share
        if kind == "send":
            return self._send_ns(num_bytes, stride)
        return self._operations[kind](num_bytes, size, stride)

    def operator_ns(self, op: Collective, rows: Numbers) -> Numbers:
        """Return the time of one run of a collective, for each number of rows."""
        sizes = rows * (op.elements * op.activation_bytes)
        ranks, stride = self.groups[op.group]
        if self._many is None or ranks == 1 or op.kind == "send":
            return np.array([self.ns(op.kind, size, op.group) for size in sizes.tolist()])
        return np.where(sizes > 0, self._many(op.kind, sizes / self._share, ranks, stride), 0.0)
