"""The power of encoders: a batch draws what it computes; between batches accelerators stand by, idle, sleep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.cluster.encoder_batches import EncoderBatches, batches_of
from servetwin.core.units import NS_PER_S
from servetwin.energy.base import ACCELERATORS, EncoderPower, Traffic
from servetwin.energy.curves import PowerCurve, pulses
from servetwin.energy.instance import state_curve, stretches
from servetwin.energy.pool import (
    EncoderRecord,
    PoolRecord,
    add_surroundings,
    add_traffic,
    host_power_w,
    last_ns,
    no_curves,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_DTYPE = "bf16"
"""In which vision transformers compute."""


def record_encoders(power: EncoderPower, outcome: SimulationOutcome, traffic: Sequence[Traffic]) -> PoolRecord:
    """Return the record of the encoders; the requests of a batch share its energy by their embeddings."""
    end_ns, curves = last_ns(outcome), no_curves()
    batches, tokens = _batches(outcome)
    ends = np.minimum(batches.end_ns, end_ns)  # of an interrupted run
    above_standby = _above_standby_j(power, batches, tokens, (ends - batches.start_ns) / NS_PER_S)
    host_w = host_power_w(power)
    drawn = []
    for worker in range(power.instances):
        own = batches.worker == worker
        busy = batches.start_ns[own], ends[own]
        lasting = np.maximum(busy[1] - busy[0], 1)
        drawn.append((state_curve(power, stretches(*busy), end_ns), _spread(*busy, above_standby[own] / lasting)))
        curves[ACCELERATORS] += drawn[-1]
        if host_w:
            curves["host"].append(_spread(*busy, np.full(len(lasting), host_w / NS_PER_S)))
    add_surroundings(power, curves, end_ns)
    add_traffic(power, curves, traffic)
    batch_j = above_standby + host_w * (ends - batches.start_ns) / NS_PER_S
    shared = EncoderRecord(shares(batches, batch_j, tokens, len(outcome.workload)), drawn)
    return PoolRecord(power.name, power.node.psu_efficiency, [], curves, shared)


def encoder_seconds(outcome: SimulationOutcome) -> Floats:
    """Return how long each request had an encoder, shape ``(requests,)``: batches' times, shared by embeddings."""
    batches, tokens = _batches(outcome)
    seconds = (np.minimum(batches.end_ns, last_ns(outcome)) - batches.start_ns) / NS_PER_S
    return shares(batches, seconds, tokens, len(outcome.workload))


def shares(batches: EncoderBatches, values: Floats, tokens: Integers, requests: int) -> Floats:
    """Return each request's share of a quantity of batches; ``tokens`` are those of the rows in them."""
    per_token = values / np.maximum(np.bincount(batches.batch, tokens, minlength=len(values)), 1)
    return np.bincount(batches.row, tokens * per_token[batches.batch], minlength=requests).astype(np.float64)


def _batches(outcome: SimulationOutcome) -> tuple[EncoderBatches, Integers]:
    """Return the batches and the embeddings of the rows in them; nothing where no request had any."""
    if outcome.encoding is None:
        nothing = np.zeros(0, np.int64)
        return EncoderBatches(*(nothing,) * 5), nothing
    batches = batches_of(outcome.encoding)
    return batches, np.asarray(outcome.workload.encoder_tokens, dtype=np.int64)[batches.row]


def _above_standby_j(power: EncoderPower, batches: EncoderBatches, tokens: Integers, seconds: Floats) -> Floats:
    """Return what batches take beyond standby, within the board's limit."""
    device = power.device
    most = (device.limit_w - device.standby_w) * seconds
    if power.busy_w is not None:
        return np.minimum((power.busy_w - device.standby_w) * seconds, most)
    floor = (device.kernel_w - device.standby_w) * seconds
    return np.minimum(floor + _operations_j(power, batches, tokens), most)


def _operations_j(power: EncoderPower, batches: EncoderBatches, tokens: Integers) -> Floats:
    device, work = power.device, power.work
    assert work is not None  # validated: without it there is busy_w
    cuts = np.searchsorted(batches.batch, np.arange(1, len(batches.worker)))
    done = [work.work(part.tolist()) for part in np.split(tokens, cuts) if len(part)]
    flops, weights, kv = np.array(done, dtype=np.float64).reshape(-1, 3).T
    joules: Floats = flops * device.flop_energy(_DTYPE)
    return joules + weights * device.joules_per_weight_byte + kv * device.joules_per_kv_byte


def _spread(start_ns: Integers, end_ns: Integers, joules_per_ns: Floats) -> PowerCurve:
    return pulses(start_ns, end_ns, joules_per_ns * NS_PER_S)
