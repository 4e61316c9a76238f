"""KV on its way over links that transfers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.cluster.base import LinkRecord
from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
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
    layers
        Into how many equal parts, layer by layer, the KV of a token falls: the layers of a pipeline stage, whose
        accelerators send their own.
    """

    name: str
    bandwidth_bytes_per_s: float
    kv_bytes_per_token: int
    layers: int = 1


class KvTransfers:
    """Transfers as flows over a star of links: each instance has one to the fabric and one back.

    Flows that leave one instance, or come to one, share its bandwidth (max-min fair). What travels is what the receiver
    holds, or what the sender holds if that is more: heads that one side keeps several times are sent as often.

    Layer by layer, the KV of layers that are computed travels while the prompt's other layers are computed: when the
    transfer starts, what a lone flow could have moved in that time is there already, at most all but the last layer.
    (That part takes no bandwidth from other transfers, and is not in the links' record.)

    Parameters
    ----------
    ports
        One per instance, in order.
    latency_ns
        Of a transfer, from end to end.
    message_tokens, message_ns
        A transfer is cut into messages of so many tokens (a block of KV), each of which costs so much.
    cap_bytes_per_s
        Most that one transfer takes; None: nothing but the links limits it.
    by_layer
        Whether KV travels layer by layer while it is computed.
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
        cap_bytes_per_s: float | None = None,
        by_layer: bool = False,
        interval_ns: int = NS_PER_S,
    ) -> None:
        if message_tokens < 1:
            raise InputError(f"a message carries at least 1 token, got {message_tokens}")
        graph = FlowGraph()
        graph.add_node(FABRIC)
        for port in ports:
            graph.add_link(port.name, FABRIC, port.bandwidth_bytes_per_s, latency_ns / 2, message_ns=message_ns / 2)
        self.overlaps = by_layer
        self._ports = ports
        self._message_tokens = message_tokens
        self._cap_bytes_per_s = cap_bytes_per_s
        self._interval_ns = interval_ns
        self.network = FlowNetwork(graph, interval_ns)

    def start(self, now_ns: int, source: int, target: int, tokens: int, *, produced_ns: int = 0) -> int:
        """See `Transfers`; ``produced_ns`` counts only layer by layer."""
        sender, receiver = self._ports[source], self._ports[target]
        whole = tokens * max(sender.kv_bytes_per_token, receiver.kv_bytes_per_token)
        left = self._left(sender, receiver, whole, produced_ns) if self.overlaps else whole
        messages = -(-tokens // self._message_tokens) * left // whole if whole else 1
        path = self.network.graph.path(sender.name, receiver.name)
        return self.network.start(now_ns, path, left, messages=max(1, messages), cap_bytes_per_s=self._cap_bytes_per_s)

    def _left(self, sender: KvPort, receiver: KvPort, whole: int, produced_ns: int) -> int:
        """Return the bytes that have not travelled when the prompt is computed."""
        bandwidth = min(sender.bandwidth_bytes_per_s, receiver.bandwidth_bytes_per_s)
        if self._cap_bytes_per_s is not None:
            bandwidth = min(bandwidth, self._cap_bytes_per_s)
        last_layer = -(-whole // sender.layers)
        return max(last_layer, whole - int(bandwidth * produced_ns / NS_PER_S))

    def next_event_ns(self) -> int | None:
        """See `Transfers`."""
        return self.network.next_event_ns()

    def advance(self, now_ns: int) -> Sequence[int]:
        """See `Transfers`."""
        return self.network.advance(now_ns)

    def link_records(self) -> list[LinkRecord]:
        """Return what each direction of each link has carried so far."""
        use = self.network.link_use()
        return [
            LinkRecord(
                link.name,
                link.bandwidth_bytes_per_s,
                self._interval_ns,
                use.start_ns[use.link == link.index],
                use.moved_bytes[use.link == link.index],
            )
            for link in self.network.graph.links
        ]
