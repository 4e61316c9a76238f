"""The stepwise engine's encoders: each worker and its batch looked at one by one, at every event."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.cluster.base import Disaggregation, EncoderPool
from servetwin.cluster.embeddings import EmbeddingTransfers
from servetwin.testing.stepwise_instance import StepwiseInstance
from servetwin.testing.stepwise_kv_cache import StepwiseRequest


class StepwiseEncoders:
    """Workers with one queue, and the embeddings that are on their way."""

    def __init__(
        self, pool: EncoderPool, instances: Sequence[StepwiseInstance], disaggregation: Disaggregation | None
    ) -> None:
        self.pool = pool
        self.instances = instances
        self.transfers = EmbeddingTransfers(pool, [instance.spec.name for instance in instances], disaggregation)
        self.queue: list[StepwiseRequest] = []
        self.batches: dict[int, list[StepwiseRequest]] = {}
        """By worker, while it encodes."""
        self.on_the_way: dict[int, StepwiseRequest] = {}
        """By the number of the flow that carries the embeddings."""

    def end_batch(self, now_ns: int) -> list[StepwiseRequest]:
        """Return the requests of the first worker's batch that is encoded now, by place in the batch."""
        for worker in range(self.pool.workers):
            if worker in self.batches and self.batches[worker][0].encoded_ns == now_ns:
                return self.batches.pop(worker)
        return []

    def begin_batches(self, now_ns: int) -> list[int]:
        """Let free workers take requests; return when their batches end."""
        ends = []
        for worker in range(self.pool.workers):
            if worker in self.batches or not self.queue:
                continue
            batch = [self.queue.pop(0) for _ in range(self.pool.max_batch_requests) if self.queue]
            end_ns = now_ns + self.pool.time.batch_ns([request.encoder_tokens for request in batch])
            for request in batch:
                request.encoder, request.encode_ns, request.encoded_ns = worker, now_ns, end_ns
            self.batches[worker] = batch
            ends.append(end_ns)
        return ends

    def send(self, request: StepwiseRequest, now_ns: int) -> None:
        """Send a request's embeddings to its instance, where it waits from now on as routers see it."""
        number = self.transfers.start(now_ns, request.encoder, request.instance, request.encoder_tokens)
        self.on_the_way[number] = request
        self.instances[request.instance].num_coming += 1

    def come(self, number: int, now_ns: int) -> StepwiseRequest:
        """Return the request whose embeddings a flow has brought."""
        request = self.on_the_way.pop(number)
        request.embedded_ns = now_ns
        self.instances[request.instance].num_coming -= 1
        return request
