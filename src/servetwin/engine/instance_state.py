"""What a serving instance holds: its queues, its batch, and the step or run that is under way."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.engine.admission import longest_request
from servetwin.engine.base import (
    EngineSettings,
    FirstToken,
    InstanceLog,
    Ordering,
    RequestLog,
    Scheduler,
    SchedulerView,
    StepPolicy,
)
from servetwin.engine.caches import make_kv_cache
from servetwin.engine.cohort import DecodeCohort
from servetwin.engine.orderings import FirstComeFirstServed
from servetwin.engine.queues import FifoQueue, KeyedQueue
from servetwin.engine.request import Request
from servetwin.engine.runs import FIRST_RUN_STEPS
from servetwin.engine.tiers import InstanceTiers
from servetwin.step.base import StepModel, StepShape


class InstanceState:
    """The state of one serving instance, as it is before anything has come.

    Parameters
    ----------
    requests
        The simulation's request columns, shared by all instances.
    number
        Its number among the instances, from which random draws follow.
    distinct
        Whether no two requests of the workload share content.
    distinct_answers
        Whether no two requests share blocks that hold tokens of answers.
    first_poll_ns
        When the instance polls first (only with ``idle_poll_ns``).
    skipping
        Whether unchanged batches may run for many steps on one plan; the result is the same either way.
    tiers
        The KV tiers below its device.
    """

    __slots__ = (
        "_admissions",
        "_deaf",
        "_keeps_extremes",
        "_known_ns",
        "_needs_draw",
        "_needs_more",
        "_needs_prompts",
        "_only_policy",
        "_skipping",
        "asks_once",
        "batch_started",
        "block_size",
        "budget",
        "busy",
        "cache",
        "chunks",
        "closed",
        "cohort",
        "decoding",
        "ends_ns",
        "fifo",
        "handed_over",
        "hands_over",
        "has_lanes",
        "held",
        "idle_since_ns",
        "instant_transfers",
        "loading",
        "log",
        "longest_request",
        "may_notice",
        "next_event_ns",
        "number",
        "ordering",
        "paused",
        "planned_blocks",
        "planned_shape",
        "planned_steps",
        "policy",
        "preempted",
        "preemptions_since_token",
        "prefilling",
        "ready_ns",
        "registers_answers",
        "requests",
        "reserved",
        "run_limit",
        "running",
        "scheduler",
        "settings",
        "shares_blocks",
        "span_rows",
        "start_ns",
        "step_budget",
        "step_model",
        "step_rows",
        "steps_ended",
        "tiers",
        "view",
        "waiting",
    )

    def __init__(
        self,
        settings: EngineSettings,
        scheduler: Scheduler,
        ordering: Ordering,
        step_model: StepModel,
        requests: RequestLog,
        *,
        number: int = 0,
        distinct: bool = True,
        distinct_answers: bool = False,
        first_poll_ns: int = 0,
        skipping: bool = True,
        tiers: InstanceTiers | None = None,
    ) -> None:
        self.settings = settings
        self.scheduler = scheduler
        self.ordering = ordering
        self.step_model = step_model
        self.requests = requests
        self.log = InstanceLog()
        self.step_rows: list[tuple[int, int, int, int, int, int]] = []
        self.span_rows: list[tuple[int, int, int]] = []
        """Steps and spans that are not yet in the log's columns."""
        self.block_size = settings.block_size
        self.shares_blocks = settings.enable_prefix_caching and not distinct
        self.registers_answers = self.shares_blocks and not distinct_answers
        """Whether others may look for blocks that decodes fill; else it is enough to register them in the end."""
        self.cache = make_kv_cache(
            settings,
            distinct=distinct,
            distinct_answers=distinct_answers,
            preempts_by_key=ordering.preempts_by_key,
        )
        self.number = number
        self.has_lanes = False
        """Whether several batches may be in flight, each with a cohort of its own."""
        self.steps_ended = 0
        self._needs_draw = "draw" in step_model.needs
        self._needs_prompts = "decode_prompts" in step_model.needs
        self._needs_more = bool(step_model.needs)
        self._keeps_extremes = "kv_extremes" in step_model.needs
        self.tiers = tiers
        self.ready_ns = 0
        """When the present step may begin to compute: when the KV has come that it recalls from tiers."""
        self.cohort = DecodeCohort(settings.block_size, extremes=self._keeps_extremes, members=self._knows_members)
        self.longest_request = longest_request(settings)
        """Most prompt + output tokens that it can serve."""
        self.may_notice = True
        """Whether an arrival may change when its next event is: false in the middle of a single step."""
        self.fifo = type(ordering) is FirstComeFirstServed
        self.waiting: FifoQueue | KeyedQueue = FifoQueue() if self.fifo else KeyedQueue()
        self.running: dict[int, Request] = {}
        """By row, in running order (that of admission)."""
        self.prefilling: list[Request] = []
        """The running requests whose prompt is not computed to its end, in running order."""
        self.hands_over: FirstToken | None = None
        """Where the first token is made, if requests go elsewhere when their prompt is computed."""
        self.instant_transfers = False
        """Whether KV from elsewhere is there at once."""
        self.handed_over: list[Request] = []
        """Requests whose prompt is computed and that the cluster has not taken on yet."""
        self.held: dict[int, Request] = {}
        """By row: requests that went on, whose blocks stay until somebody else has their KV."""
        self.loading: dict[int, Request] = {}
        """By row: requests that have their blocks, whose KV is on its way."""
        self.reserved: list[tuple[Request, int]] = []
        """Requests that got their blocks, and how many tokens' KV must come: what the cluster has not taken on yet."""
        self.planned_shape = StepShape(0, 0)
        """Of the present step, or of the first of a run."""
        self.planned_blocks: tuple[int, int] | None = None
        """Used and cached blocks when the step was planned, where they may change before it ends."""
        self.paused: list[Request] = []
        """Decoding requests that this step leaves out; they are back in the cohort when it ends."""
        self.chunks: list[tuple[Request, int]] = []
        """Prefills of this step, and how many tokens of each."""
        self.budget = self.step_budget = 0
        """Tokens that the present step may still compute, and that it might compute at its beginning."""
        self.preempted = False
        self.decoding = False
        """Whether the cohort advances in this step."""
        self.busy = False
        self.next_event_ns = -1
        """When the present step or run ends, or an idle instance wakes; other events are out of date."""
        self.view = SchedulerView(0, 0, 0, False, settings.enable_chunked_prefill)
        self.asks_once = getattr(scheduler, "reads", None) == frozenset()
        """Whether the scheduler's answer cannot change."""
        self._only_policy: StepPolicy | None = None
        self._admissions = 0
        self.preemptions_since_token = 0
        self.batch_started = False
        self._skipping = skipping
        self.run_limit = FIRST_RUN_STEPS
        self.start_ns = 0
        self._known_ns = 0
        self.ends_ns: Sequence[int] = ()
        self.planned_steps = 0
        self.policy: StepPolicy | None = None
        self.closed = False
        """Whether nobody can enter as long as the scheduler's answer stays."""
        self._deaf = False
        """Whether nobody can enter whatever it answers, so that an arrival changes nothing."""
        self.idle_since_ns = first_poll_ns
        """When it fell idle last."""

    @property
    def _knows_members(self) -> bool:
        """Whether cohorts must know who fills a block."""
        return self.registers_answers or (self.tiers is not None and self.tiers.saves_all)
