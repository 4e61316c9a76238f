"""What moves between nodes in a run: KV from prefill to decode instances, embeddings from encoders to instances."""

from __future__ import annotations

import numpy as np

from servetwin.cluster.base import SimulationOutcome
from servetwin.energy.base import ENCODERS, Traffic


def kv_transfers(outcome: SimulationOutcome) -> list[Traffic]:
    """Return the KV that instances handed over, as traffic of the network cards of both pools."""
    log, traffic = outcome.requests, []
    begun, landed = np.asarray(log.transfer_ns), np.asarray(log.landed_ns)
    rows = np.flatnonzero((begun >= 0) & (landed > begun))
    if not len(rows):
        return []
    per_token = np.array([spec.kv_bytes_per_block / spec.settings.block_size for spec in outcome.instances])
    num_bytes = outcome.workload.prompt_tokens[rows] * per_token[np.asarray(log.prefill_instance)[rows]]
    pools = np.array([spec.pool for spec in outcome.instances])
    for side in (np.asarray(log.prefill_instance)[rows], np.asarray(log.instance)[rows]):
        for pool in dict.fromkeys(pools[side].tolist()):
            own = pools[side] == pool
            traffic.append(Traffic(pool, "nics", begun[rows][own], landed[rows][own], num_bytes[own]))
    return traffic


def embedding_transfers(outcome: SimulationOutcome) -> list[Traffic]:
    """Return the embeddings that encoders sent, as traffic of their network cards and of the receiving pools'."""
    log = outcome.encoding
    if log is None:
        return []
    sent, landed = np.asarray(log.end_ns), np.asarray(log.landed_ns)
    rows = np.flatnonzero(landed > sent)
    num_bytes = np.asarray(outcome.workload.encoder_tokens)[rows] * log.pool.bytes_per_token
    before, last = np.asarray(outcome.requests.prefill_instance)[rows], np.asarray(outcome.requests.instance)[rows]
    pools = np.array([spec.pool for spec in outcome.instances])[np.where(before >= 0, before, last)]
    traffic = [Traffic(ENCODERS, "nics", sent[rows], landed[rows], num_bytes)] if len(rows) else []
    for pool in dict.fromkeys(pools.tolist()):
        own = pools == pool
        traffic.append(Traffic(pool, "nics", sent[rows][own], landed[rows][own], num_bytes[own]))
    return traffic
