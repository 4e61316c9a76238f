"""KV on its way over links that transfers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.core.errors import InputError
from servetwin.network.flow_graph import FlowGraph
from servetwin.network.flows import FlowNetwork

FABRIC = "fabric"
"""The node that joins all instances; it is never full itself."""


@dataclass(frozen=True, slots=True)
class KvPort:
    """One instance, as KV transfers see it.

    Attributes
    ----------
    name
        Of the instance.
    bandwidth_bytes_per_s
        Of all its network ports together, each direction.
    kv_bytes_per_token
        Of one token over all its accelerators, copies of replicated heads counted.
    """

    name: str
    bandwidth_bytes_per_s: float
    kv_bytes_per_token: int


class KvTransfers:
    """Transfers as flows over a star of links: each instance has one to the fabric and one back.

    Flows that leave one instance, or come to one, share its bandwidth (max-min fair). What travels is what the receiver
    holds, or what the sender holds if that is more: heads that one side keeps several times are sent as often.

    Parameters
    ----------
    ports
        One per instance, in order.
    latency_ns
        Of a transfer, from end to end.
    message_tokens, message_ns
        A transfer is cut into messages of so many tokens (a block of KV), each of which costs so much.
    interval_ns
        Over which the links' use is added up.

    Raises
    ------
    InputError
        If a bandwidth or a time is not above 0 (or below it).
    """

    def __init__(
        self,
        ports: Sequence[KvPort],
        latency_ns: float = 0.0,
        *,
        message_tokens: int = 16,
        message_ns: float = 0.0,
        interval_ns: int = 10**9,
    ) -> None:
        if message_tokens < 1:
            raise InputError(f"a message carries at least 1 token, got {message_tokens}")
        graph = FlowGraph()
        graph.add_node(FABRIC)
        for port in ports:
            graph.add_link(port.name, FABRIC, port.bandwidth_bytes_per_s, latency_ns / 2, message_ns=message_ns / 2)
        self._ports = ports
        self._message_tokens = message_tokens
        self.network = FlowNetwork(graph, interval_ns)

    def start(self, now_ns: int, source: int, target: int, tokens: int) -> int:
        """See `Transfers`."""
        sender, receiver = self._ports[source], self._ports[target]
        size = max(sender.kv_bytes_per_token, receiver.kv_bytes_per_token)
        path = self.network.graph.path(sender.name, receiver.name)
        messages = max(1, -(-tokens // self._message_tokens))
        return self.network.start(now_ns, path, tokens * size, messages=messages)

    def next_event_ns(self) -> int | None:
        """See `Transfers`."""
        return self.network.next_event_ns()

    def advance(self, now_ns: int) -> Sequence[int]:
        """See `Transfers`."""
        return self.network.advance(now_ns)
