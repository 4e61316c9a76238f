"""Embeddings on their way from encoders to the instances that compute the prompts."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.cluster.base import Disaggregation, EncoderPool, LinkRecord
from servetwin.cluster.kv_transfers import KvPort, KvTransfers, link_records_of, star
from servetwin.network.flow_graph import FlowGraph
from servetwin.network.flows import FlowNetwork


class EmbeddingTransfers:
    """Embeddings as flows of a network, which share links max-min fair.

    Where KV travels over a network that has ports of the encoders, embeddings are flows of it and share its instances'
    ports. Else each encoder and each instance has a port to a fabric of their own.

    Alone, embeddings take ``latency + bytes / bandwidth``, rounded up to whole nanoseconds; the bandwidth is that of
    the narrower port, or the pool's cap.

    Parameters
    ----------
    pool
        The encoders.
    names
        Of the instances, in order.
    disaggregation
        What may carry KV between them.

    Attributes
    ----------
    shared
        Whether the network is that of KV: who advances that one gets the embeddings' landings, too.
    """

    def __init__(self, pool: EncoderPool, names: Sequence[str], disaggregation: Disaggregation | None) -> None:
        network = _network_of_kv(disaggregation)
        self._pool, self._names = pool, names
        self._encoders = encoder_names(pool.workers)
        self.shared = network is not None
        self._network = FlowNetwork(_own_graph(pool, names), pool.interval_ns) if network is None else network

    def start(self, now_ns: int, worker: int, target: int, tokens: int) -> int:
        """Send the embeddings of one request from an encoder to an instance (numbers); return the flow's number."""
        path = self._network.graph.path(self._encoders[worker], self._names[target])
        num_bytes = self._pool.num_bytes(tokens)
        return self._network.start(now_ns, path, num_bytes, cap_bytes_per_s=self._pool.cap_bytes_per_s)

    def next_event_ns(self) -> int | None:
        """Return when something may land next, as far as is known now; None if nothing is under way."""
        return self._network.next_event_ns()

    def advance(self, now_ns: int) -> Sequence[int]:
        """Return the numbers of the flows that have landed by ``now_ns``, each once, in order."""
        return self._network.advance(now_ns)

    def link_records(self) -> Sequence[LinkRecord]:
        """Return what the links carried, but for those of KV's network, which tells of its own."""
        return () if self.shared else link_records_of(self._network, self._pool.interval_ns)


def encoder_names(workers: int) -> list[str]:
    """Return the names of the encoders, as links, tables and reports call them."""
    return [f"encoder-{worker}" for worker in range(workers)]


def _network_of_kv(disaggregation: Disaggregation | None) -> FlowNetwork | None:
    """Return the network of KV if the encoders have ports there."""
    transfers = disaggregation.transfers if disaggregation else None
    if isinstance(transfers, KvTransfers) and transfers.network.graph.has_node(encoder_names(1)[0]):
        return transfers.network
    return None


def _own_graph(pool: EncoderPool, names: Sequence[str]) -> FlowGraph:
    bandwidth = pool.instance_bytes_per_s or [pool.bandwidth_bytes_per_s] * len(names)
    encoders = [
        KvPort(name, pool.bandwidth_bytes_per_s, kv_bytes_per_token=0, latency_ns=pool.latency_ns)
        for name in encoder_names(pool.workers)
    ]
    instances = [KvPort(name, own, 0) for name, own in zip(names, bandwidth, strict=True)]
    return star([*encoders, *instances])[0]
