"""The contracts of the cluster: what a router sees and decides, and what a whole simulation leaves behind."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.core.registry import Registry
from servetwin.core.units import NS_PER_S
from servetwin.engine.base import NOT_YET, EngineSettings, FirstToken, InstanceLog, Ordering, RequestLog, Scheduler
from servetwin.memory.tiers import TierLog, TierSpec, TiersSpec
from servetwin.step.base import StepModel
from servetwin.step.plans.base import ExecutionPlan
from servetwin.workload.base import Workload

Role: TypeAlias = Literal["both", "prefill", "decode"]


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One serving instance, ready to run.

    Attributes
    ----------
    name
        ``<pool>-<number>``.
    device
        Name of its accelerator, for reports.
    model
        The model it serves; None serves every request.
    kv_bytes_per_block
        Bytes of one KV block over all its ranks, to turn blocks into bytes.
    weight_bytes
        Bytes of the model's weights over all its ranks.
    plan
        How a batch is carried out where the instance is a pipeline or a rank of a lockstep group; None: by the step
        model alone.
    role
        Whether it computes prompts, outputs, or both, where these are apart (`Disaggregation`).
    group
        Consecutive instances with the same number (0 or more) step together, as the ranks of one lockstep group.
    tiers
        KV tiers below the device; those of several instances may hold the same tiers and devices.
    """

    name: str
    pool: str
    device: str
    model: str | None
    settings: EngineSettings
    scheduler: Scheduler
    ordering: Ordering
    step_model: StepModel | None
    kv_bytes_per_block: int = 0
    weight_bytes: int = 0
    plan: ExecutionPlan | None = None
    role: Role = "both"
    group: int = NOT_YET
    tiers: TiersSpec | None = None

    @property
    def timing(self) -> StepModel | ExecutionPlan:
        """What times its steps."""
        timing = self.plan or self.step_model
        if timing is None:
            raise InputError("an instance needs a step model or a plan", where=self.name)
        return timing


def _has_nothing(instance: int) -> int:
    return 0


@dataclass(slots=True)
class RequestView:
    """What a router knows of a request: not its output length."""

    row: int
    arrival_ns: int
    prompt_tokens: int
    session_id: str | None
    model: str | None
    priority: int
    block_keys: Sequence[int]
    """Keys of the prompt's full blocks, at the first instance's block size; empty if nothing reads them."""
    reusable_tokens: Callable[[int], int] = _has_nothing
    """How many tokens of its prompt an instance (by number) has now, on its device and in its KV tiers."""


@dataclass(slots=True)
class ClusterView:
    """What a router knows of the instances, each column of shape ``(instances,)``; maybe stale, never the future.

    ``outstanding`` = waiting + running requests. ``kv_used_blocks`` counts referenced blocks.
    """

    waiting: NDArray[np.int64]
    running: NDArray[np.int64]
    outstanding: NDArray[np.int64]
    kv_used_blocks: NDArray[np.int64]
    kv_blocks: NDArray[np.int64]
    max_num_seqs: NDArray[np.int64]


class Router(Protocol):
    """Chooses the instance that serves a request."""

    reads: frozenset[str]
    """The columns of the view that it uses (``"waiting"``, ``"running"``, ``"outstanding"``, ``"kv_used_blocks"``) and
    ``"block_keys"`` or ``"reusable_tokens"`` if it uses the request's; others may be out of date. A router that reads
    KV use or reusable tokens makes the engine step one by one."""

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return one of ``candidates`` (instance numbers, ascending, at least one)."""
        ...


routers: Registry[Router] = Registry("router")
"""Factories take ``(seed: int)`` by keyword and the policy's own options."""


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """What lies between a client and an instance: constant delays of a request and of a response, in nanoseconds."""

    request_ns: int = 0
    response_ns: int = 0


class Transfers(Protocol):
    """What carries KV from instance to instance. Times never go back.

    One that has an attribute ``overlaps = True`` takes ``produced_ns`` as a keyword of ``start``, too: how long the
    prompt was computed, during which KV of layers that were done could travel already. One that has a method
    ``link_records()`` tells at the end what its links carried (`LinkRecord`).
    """

    def start(self, now_ns: int, source: int, target: int, tokens: int) -> int:
        """Begin to move the KV of ``tokens`` tokens between two instances; return the transfer's number."""
        ...

    def next_event_ns(self) -> int | None:
        """Return when something may land next, as far as is known now; None if nothing is under way."""
        ...

    def advance(self, now_ns: int) -> Sequence[int]:
        """Return the numbers of the transfers that have landed by ``now_ns``, each once, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """How requests go from instances that compute prompts to those that compute outputs.

    Attributes
    ----------
    decode_router
        Chooses the second instance, when the prompt is computed.
    transfers
        What carries the KV; None: it is there at once.
    handoff_ns
        From the end of a prefill to the request's arrival at the second instance: what software takes.
    first_token
        Which side makes the first token.
    local_prompt_tokens
        Prompts of at most so many tokens are served whole by an instance that decodes.
    """

    decode_router: Router
    transfers: Transfers | None = None
    handoff_ns: int = 0
    first_token: FirstToken = "prefill"
    local_prompt_tokens: int = 0


class EncoderTime(Protocol):
    """How long an encoder takes."""

    def batch_ns(self, tokens: Sequence[int]) -> int:
        """Return the time of one batch, at least 1 ns; ``tokens`` are the embeddings of each request in it."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderPool:
    """Encoders of images (or sound) in front of the router: encode/prefill/decode disaggregation.

    Attributes
    ----------
    workers
        Equal encoders that share one queue.
    time
        What a batch takes.
    max_batch_requests
        Most requests of one batch.
    bytes_per_token
        Of one embedding on its way to the instance that computes the prompt.
    bandwidth_bytes_per_s, latency_ns
        Of each encoder's port, and of a transfer from end to end. Where KV has a network in which the encoders have
        ports, that one's figures count.
    device
        Name of the encoders' accelerator, for reports.
    cap_bytes_per_s
        Most that one transfer takes; None: nothing but the ports limits it.
    instance_bytes_per_s
        Of each instance's port, where KV has no such network; empty: as of an encoder's.
    interval_ns
        Over which the use of such ports is added up.
    """

    workers: int
    time: EncoderTime
    max_batch_requests: int
    bytes_per_token: float
    bandwidth_bytes_per_s: float
    latency_ns: int = 0
    device: str = ""
    cap_bytes_per_s: float | None = None
    instance_bytes_per_s: Sequence[float] = ()
    interval_ns: int = NS_PER_S

    def num_bytes(self, tokens: int) -> int:
        """Return the bytes of a request's embeddings."""
        return round(tokens * self.bytes_per_token)


@dataclass(frozen=True, slots=True)
class EncoderLog:
    """What the encoders did: columns of shape ``(requests,)``, ``NOT_YET`` for requests that had nothing for them.

    Attributes
    ----------
    start_ns, end_ns
        Of the batch that encoded a request.
    landed_ns
        When its embeddings were with the router's choice: it then joins that instance's queue.
    worker
        Which encoder.
    """

    start_ns: array[int]
    end_ns: array[int]
    landed_ns: array[int]
    worker: array[int]
    pool: EncoderPool


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """What one direction of a link carried.

    Attributes
    ----------
    bandwidth_bytes_per_s
        The most that it can carry.
    interval_ns
        Length of the intervals.
    start_ns, moved_bytes
        Begins of the intervals in which it carried anything, ascending, and how much; both of shape ``(n,)``.
    """

    name: str
    bandwidth_bytes_per_s: int
    interval_ns: int
    start_ns: NDArray[np.int64]
    moved_bytes: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TierRecord:
    """What a tier held and answered, and for which instances (their numbers)."""

    tier: TierSpec
    instances: list[int]
    log: TierLog


@dataclass(slots=True)
class SimulationOutcome:
    """What a simulation leaves behind: columns, to be summarised by ``metrics``."""

    workload: Workload
    instances: Sequence[InstanceSpec]
    requests: RequestLog
    logs: Sequence[InstanceLog]
    front_end: FrontEnd | None = None
    encoding: EncoderLog | None = None
    end_ns: int = 0
    """Time of the last event."""
    complete: bool = True
    """False when the run was interrupted."""
    notices: list[str] = field(default_factory=list)
    handoff_ns: int = 0
    """From the end of a prefill to the request's arrival at the instance that decodes, where these are apart."""
    links: Sequence[LinkRecord] = ()
    """What the links carried, if the transfers' object tells (``link_records()``)."""
    tiers: Sequence[TierRecord] = ()
    """The KV tiers below the devices, each once."""
