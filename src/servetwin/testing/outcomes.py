"""Outcomes made at random, without any engine: for tests of what reads an outcome (metrics, reports)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from servetwin.cluster.base import FrontEnd, InstanceSpec, SimulationOutcome
from servetwin.engine.base import (
    COMPLETED,
    REJECTED,
    EngineSettings,
    InstanceLog,
    RequestLog,
    SchedulerView,
    StepPolicy,
)
from servetwin.step.base import StepModelBase, StepShape
from servetwin.workload.base import Workload


class _AdmitAll:
    def plan(self, view: SchedulerView) -> StepPolicy:
        return StepPolicy(admit=True, chunk=view.enable_chunked_prefill)


class _ByArrival:
    preempts_by_key = False

    def key(self, arrival_ns: int, priority: int, prompt_tokens: int) -> tuple[int, ...]:
        return (arrival_ns,)


class _Parts(StepModelBase):
    def breakdown_ns(self, shape: StepShape) -> dict[str, float]:
        return {"weights": 700.0, "attention": 300.0 + shape.decode_kv_tokens}


@dataclass(slots=True)
class MadeOutcome:
    """An outcome, and when each token of each row appeared, written down one by one."""

    outcome: SimulationOutcome
    token_times_ns: list[list[int]]


@dataclass(slots=True)
class _Instance:
    """An instance that admits, starves, preempts and finishes requests at random.

    With several lanes it is a pipeline: a step may start before the one before has ended, and some compute nothing.
    """

    draw: random.Random
    log: InstanceLog
    requests: RequestLog
    workload: Workload
    tokens: list[list[int]]
    waiting: list[int]
    lanes: int = 1
    running: dict[int, bool] = field(default_factory=dict)
    """Whether the prompt is computed, by row."""
    open_spans: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Lane, first round and tokens so far, by row."""
    rounds: dict[int, int] = field(default_factory=dict)
    """How many there were, by lane."""
    free_ns: dict[int, int] = field(default_factory=dict)
    """When a running request's last step ends, by row."""
    now_ns: int = 0
    end_ns: int = 0
    """When the last step ends."""
    again: list[int] = field(default_factory=list)

    def run(self, end_ns: int | None) -> None:
        """Step until all is done, or until ``end_ns``."""
        while self.waiting or self.running or self.again:
            if end_ns is not None and self.now_ns >= end_ns:
                break
            self._admit()
            if not self.running:
                self.now_ns = max(self.now_ns, self.end_ns)
                self.log.idle_ns.append(self.now_ns)
                self.log.idle_cached_blocks.append(self.draw.randrange(50))
                self.log.idle_used_blocks.append(self.draw.randrange(5))
                next_ns = self.requests.arrival_ns[self.waiting[0]] if self.waiting and not self.again else 0
                self.now_ns = max(self.now_ns + 1, next_ns)
                continue
            self._step()
        for row in list(self.open_spans):
            self._close(row)

    def _admit(self) -> None:
        while self.again and self.draw.random() < 0.5:
            row = self.again.pop(0)
            self.running[row] = False
            self.log.readmitted_ns.append(self.now_ns)
            self.log.readmitted_request.append(row)
        while self.waiting and self.requests.arrival_ns[self.waiting[0]] <= self.now_ns:
            if len(self.running) >= 4 or (self.running and self.draw.random() < 0.3):
                break
            row = self.waiting.pop(0)
            self.running[row] = False
            self.requests.first_scheduled_ns[row] = self.now_ns
            self.requests.cached_tokens[row] = self.draw.randrange(int(self.workload.prompt_tokens[row]))

    def _step(self) -> None:
        start_ns, lane = self.now_ns, self.draw.randrange(self.lanes)
        self.end_ns = max(start_ns, self.end_ns) + self.draw.choice([1, 7, 1_000, 5_000_000, 300_000_000])
        free = [row for row in self.running if self.free_ns.get(row, 0) <= start_ns]
        mine = [row for row in free if self.open_spans.get(row, (lane,))[0] == lane]
        decoding = [row for row in mine if self.running[row] and self.draw.random() < 0.9]
        for row in [row for row, span in self.open_spans.items() if span[0] == lane and row not in decoding]:
            self._close(row)
        prefilled = [row for row in free if not self.running[row] and self.draw.random() < 0.6]
        for row in prefilled:
            self._end_prefill(row)
        for row in decoding:
            _, begin, count = self.open_spans.get(row, (lane, self.rounds.get(lane, 0), 0))
            self.open_spans[row] = (lane, begin, count + 1)
            self._token(row)
        self.rounds[lane] = self.rounds.get(lane, 0) + bool(decoding)
        is_dummy = self.lanes > 1 and not decoding and not prefilled
        self._write_step(start_ns, len(decoding), 0 if is_dummy else len(decoding) + self.draw.randrange(100), lane)
        self.now_ns = self.end_ns if self.lanes == 1 else self.draw.randint(start_ns + 1, self.end_ns)
        for row in [
            row for row in self.running if self.free_ns.get(row, 0) <= self.now_ns and self.draw.random() < 0.03
        ]:
            self._preempt(row)

    def _write_step(self, start_ns: int, decoded: int, tokens: int, lane: int) -> None:
        self.log.start_ns.append(start_ns)
        self.log.end_ns.append(self.end_ns)
        self.log.decoded.append(decoded)
        self.log.tokens.append(tokens)
        self.log.kv_used_blocks.append(self.draw.randrange(1, 60))
        self.log.kv_cached_blocks.append(self.draw.randrange(40))
        if self.lanes > 1:
            self.log.lane.append(lane)

    def _end_prefill(self, row: int) -> None:
        self.running[row] = True
        if self.tokens[row]:
            self.log.resumed_request.append(row)
            self.log.resumed_ns.append(self.end_ns)
        else:
            self.requests.first_token_ns[row] = self.end_ns
        self._token(row)

    def _token(self, row: int) -> None:
        self.free_ns[row] = self.end_ns
        self.tokens[row].append(self.end_ns)
        if len(self.tokens[row]) == self.workload.output_tokens[row]:
            self._close(row)
            del self.running[row]
            self.requests.finish_ns[row] = self.end_ns
            self.requests.state[row] = COMPLETED

    def _preempt(self, row: int) -> None:
        self._close(row)
        del self.running[row]
        self.again.append(row)
        self.log.preempted_ns.append(self.now_ns)
        self.log.preempted_request.append(row)
        self.requests.preemptions[row] += 1
        self.requests.recomputed_tokens[row] += self.draw.randrange(10)

    def _close(self, row: int) -> None:
        if row in self.open_spans:
            lane, begin, count = self.open_spans.pop(row)
            self.log.span_request.append(row)
            self.log.span_round.append(begin)
            self.log.span_tokens.append(count)
            if self.lanes > 1:
                self.log.span_lane.append(lane)


def make_outcome(
    seed: int,
    *,
    requests: int = 30,
    instances: int = 2,
    front_end: FrontEnd | None = None,
    end_ns: int | None = None,
) -> MadeOutcome:
    """Return a random outcome in which requests wait, are starved, preempted and rejected.

    Every second instance has three lanes, as a pipeline has.

    Parameters
    ----------
    seed
        Equal seeds make equal outcomes.
    requests, instances
        How many.
    front_end
        As in the outcome.
    end_ns
        Time at which the run is interrupted; None for a complete run.
    """
    draw = random.Random(seed)
    arrivals = np.cumsum([draw.choice([0, 1, 50_000_000, 700_000_000]) for _ in range(requests)]).astype(np.int64)
    prompts = np.array([draw.randrange(1, 200) for _ in range(requests)], dtype=np.int64)
    outputs = np.array([draw.choice([1, 2, draw.randrange(1, 40)]) for _ in range(requests)], dtype=np.int64)
    workload = Workload(arrivals, prompts, outputs)
    log, logs = RequestLog.of_size(requests), []
    tokens: list[list[int]] = [[] for _ in range(requests)]
    for row in range(requests):
        log.arrival_ns[row] = int(arrivals[row])
        log.instance[row] = draw.randrange(instances)
        if draw.random() < 0.1:
            log.state[row], log.instance[row] = REJECTED, draw.choice([-1, log.instance[row]])
            log.reasons[row] = "prompt + output exceed max_model_len"
    for number in range(instances):
        mine = [row for row in range(requests) if log.instance[row] == number and log.state[row] != REJECTED]
        instance = _Instance(draw, InstanceLog(), log, workload, tokens, mine, lanes=1 + 2 * (number % 2))
        instance.run(end_ns)
        logs.append(instance.log)
    last_ns = max([0, *(entry.end_ns[-1] for entry in logs if entry.end_ns)])
    specs = [_spec(number) for number in range(instances)]
    outcome = SimulationOutcome(
        workload, specs, log, logs, front_end=front_end, end_ns=last_ns, complete=end_ns is None, notices=["made"]
    )
    return MadeOutcome(outcome, tokens)


def _spec(number: int) -> InstanceSpec:
    settings = EngineSettings(num_blocks=60, max_model_len=1_000, max_num_seqs=4, max_num_batched_tokens=256)
    return InstanceSpec(
        f"pool-{number}", "pool", "device", "model", settings, _AdmitAll(), _ByArrival(), _Parts(), 1_000 + number
    )
