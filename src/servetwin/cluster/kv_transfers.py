"""KV on its way over links that transfers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.cluster.base import LinkRecord
from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.network.flow_graph import FlowGraph
from servetwin.network.flows import FlowNetwork
from servetwin.step.base import StepShape
from servetwin.step.link_share import LinkTime

FABRIC = "fabric"
"""The node that joins all instances."""

FAR_SIDE = "fabric-out"
"""The fabric's other side, where what it carries in all is limited."""


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
    latency_ns: float | None = None
    """Its part of a transfer's latency; None: half."""


class KvTransfers:
    """Transfers as flows over a star of links: each instance has one to the fabric and one back.

    The fabric itself is never full, or one link that all transfers cross. Flows that leave one instance, or come to
    one, share its bandwidth (max-min fair). What travels is what the receiver holds, or what the sender holds if that
    is more: heads that one side keeps several times are sent as often.

    Layer by layer, the KV of layers that are computed travels while the prompt's other layers are computed: when the
    transfer starts, what a lone flow could have moved in that time is there already, at most all but the last layer.
    (That part takes no bandwidth from other transfers, and is not in the links' record.)

    Parameters
    ----------
    ports
        One per instance, in order; then those of others that use the network (encoders).
    latency_ns
        Of a transfer, from end to end.
    message_tokens, message_ns
        A transfer is cut into messages of so many tokens (a block of KV), each of which costs so much.
    cap_bytes_per_s
        Most that one transfer takes; None: nothing but the links limits it.
    by_layer
        Whether KV travels layer by layer while it is computed.
    fabric_bytes_per_s
        What the fabric carries in all; None: whatever the ports do.
    interval_ns
        Over which the links' use is added up.
    link_times
        What each instance's steps take of its port, None for one whose steps have links of their own; empty: all have.
        The ranks of a group share one.

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
        fabric_bytes_per_s: float | None = None,
        interval_ns: int = NS_PER_S,
        link_times: Sequence[LinkTime | None] = (),
    ) -> None:
        if message_tokens < 1:
            raise InputError(f"a message carries at least 1 token, got {message_tokens}")
        graph, self._ways = star(ports, latency_ns, message_ns, fabric_bytes_per_s)
        self.overlaps = by_layer
        self._ports = ports
        self._message_tokens = message_tokens
        self._cap_bytes_per_s, self._fabric_bytes_per_s = cap_bytes_per_s, fabric_bytes_per_s
        self._interval_ns = interval_ns
        self.network = FlowNetwork(graph, interval_ns)
        self.shares_steps = any(link_times)
        self._link_times = link_times
        self._instance_at = {
            link: number for number, one in enumerate(link_times) if one is not None for link in self._ways[number]
        }

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
        for limit in (self._cap_bytes_per_s, self._fabric_bytes_per_s):
            bandwidth = bandwidth if limit is None else min(bandwidth, limit)
        last_layer = -(-whole // sender.layers)
        return max(last_layer, whole - int(bandwidth * produced_ns / NS_PER_S))

    def reached(self) -> list[int]:
        """Return the instances whose steps use their ports, and to whose ports transfers came since the last call."""
        links = self.network.links_reached()
        return list(dict.fromkeys(self._instance_at[link] for link in links if link in self._instance_at))

    def shares_steps_of(self, instance: int) -> bool:
        """Return whether an instance's steps use its port."""
        return bool(self._link_times) and self._link_times[instance] is not None

    def begin_step(
        self, now_ns: int, instances: Sequence[int], shapes: Sequence[StepShape | None], alone_ns: int, left_ns: int
    ) -> int | None:
        """Let a step share the ports of its instances with the transfers that cross them; return its number.

        None if no transfer does, or the step does not use the ports. Collectives send and receive, and meet transfers
        in both directions; loads only come in.

        Parameters
        ----------
        instances, shapes
            The ranks of a group, or one instance, and what each computes.
        alone_ns, left_ns
            How long the step lasts alone, and what of that is left.
        """
        link_time = self._link_times[instances[0]]
        if link_time is None:
            return None
        first = 1 if link_time.comes_in else 0
        ways = [self._ways[number][first:] for number in instances]
        if not any(self.network.is_crossed(way) for way in ways):
            return None
        use = link_time.of(shapes)
        transfer_ns = min(use.transfer_ns, alone_ns)
        if not transfer_ns:
            return None
        return self.network.begin_step(
            now_ns, ways, transfer_ns, alone_ns, left_ns=left_ns, hidden_ns=min(use.hidden_ns, alone_ns - transfer_ns)
        )

    def next_event_ns(self) -> int | None:
        """See `Transfers`."""
        return self.network.next_event_ns()

    def advance(self, now_ns: int) -> Sequence[int]:
        """See `Transfers`."""
        return self.network.advance(now_ns)

    def link_records(self) -> list[LinkRecord]:
        """Return what each direction of each link has carried so far."""
        return link_records_of(self.network, self._interval_ns)


def star(
    ports: Sequence[KvPort],
    latency_ns: float = 0.0,
    message_ns: float = 0.0,
    fabric_bytes_per_s: float | None = None,
) -> tuple[FlowGraph, list[tuple[int, int]]]:
    """Return the graph of ports around a fabric, and both directions of each port."""
    graph, ways = FlowGraph(), []
    graph.add_node(FABRIC)
    far = FABRIC
    if fabric_bytes_per_s is not None:
        far = FAR_SIDE
        graph.add_link(FABRIC, far, fabric_bytes_per_s, both_ways=False)
    for port in ports:
        own_ns = latency_ns / 2 if port.latency_ns is None else port.latency_ns
        out = graph.add_link(
            port.name, FABRIC, port.bandwidth_bytes_per_s, own_ns, message_ns=message_ns / 2, both_ways=False
        )
        graph.add_link(far, port.name, port.bandwidth_bytes_per_s, own_ns, message_ns=message_ns / 2, both_ways=False)
        ways.append((out, out + 1))
    return graph, ways


def link_records_of(network: FlowNetwork, interval_ns: int) -> list[LinkRecord]:
    """Return what each direction of each link of a network has carried so far, added up over ``interval_ns``."""
    use = network.link_use()
    return [
        LinkRecord(
            link.name,
            link.bandwidth_bytes_per_s,
            interval_ns,
            use.start_ns[use.link == link.index],
            use.moved_bytes[use.link == link.index],
        )
        for link in network.graph.links
    ]
