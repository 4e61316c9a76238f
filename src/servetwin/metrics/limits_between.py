"""What limits a deployment between its prefill and its decode side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from servetwin.cluster.base import LinkRecord
from servetwin.core.units import NS_PER_S
from servetwin.metrics.breakdown import breakdown_ns
from servetwin.metrics.records import Records, column

WAITING_MATTERS = 0.05
"""Share of the mean end-to-end time from which on waiting is said to limit a deployment."""

_CROWDED = 0.9
"""Share of an instance's KV blocks from which on a wait is put down to blocks rather than seats."""

BACK_PRESSURE, TRANSFER = "back_pressure", "transfer"


class Limit(NamedTuple):
    """What limits a deployment.

    Attributes
    ----------
    kind
        ``"max_num_seqs"``, ``"max_num_batched_tokens"``, ``"kv_blocks"``, ``"scheduling"``, ``"back_pressure"``,
        ``"transfer"``, ``"encoders"``, ``"embeddings"``, ``"step_time"``, ``"load"`` (there is little) or
        ``"nothing_completed"``.
    sentence
        The same for a reader, with the numbers.
    """

    kind: str
    sentence: str


def what_limits_between(records: Records, waiting_share: float, *, held: bool) -> Limit | None:
    """Return the limit if it is the decode side's room, or the way there; None if neither outweighs the first queue.

    Parameters
    ----------
    waiting_share
        Share of the mean end-to-end time that requests wait in the first queue, or after a preemption.
    held
        Whether they wait there because computed prompts hold the blocks.
    """
    if not records.apart:
        return None
    done = np.flatnonzero(records.completed)
    parts = {name: float(values.mean()) / NS_PER_S for name, values in breakdown_ns(records, done).items()}
    total = sum(parts.values()) or 1.0
    shares = {TRANSFER: parts["transfer"] / total, BACK_PRESSURE: parts["decode_queue"] / total}
    kind = max(shares, key=lambda name: shares[name])
    if shares[kind] < WAITING_MATTERS or (shares[kind] < waiting_share and not held):
        return None
    if kind == TRANSFER:
        return Limit(TRANSFER, _transfer_sentence(records, parts["transfer"], shares[TRANSFER]))
    return Limit(BACK_PRESSURE, _pressure_sentence(records, parts["decode_queue"], shares[BACK_PRESSURE], held))


def _transfer_sentence(records: Records, seconds: float, share: float) -> str:
    handoff = in_time(records.outcome.handoff_ns / NS_PER_S)
    sentence = (
        f"The way from prefill to decode takes {in_time(seconds)}, {share:.0%} of the mean end-to-end time, "
        f"of which software's hand-off is {handoff}"
    )
    names = {spec.name for spec in records.instances}
    return f"{sentence}{busiest_link(records, [link for link in records.outcome.links if names & _ends(link)])}."


def busiest_link(records: Records, links: Sequence[LinkRecord]) -> str:
    """Return the end of a sentence: which of some links was used most; nothing where there are none."""
    use, name = max(((_mean_use(records, link), link.name) for link in links), default=(0.0, ""))
    return f"; the busiest link, {name}, is used to {in_percent(use)}" if name else ""


def _ends(link: LinkRecord) -> set[str]:
    return set(link.name.split("->"))


def _mean_use(records: Records, link: LinkRecord) -> float:
    """Return the share of a link's bandwidth that was used over the run."""
    duration_s = max(records.stop_ns - records.start_ns, 1) / NS_PER_S
    return float(link.moved_bytes.sum()) / duration_s / link.bandwidth_bytes_per_s


def _pressure_sentence(records: Records, seconds: float, share: float, held: bool) -> str:
    peak = max(
        int(column(log.kv_used_blocks).max(initial=0)) / spec.settings.num_blocks
        for log, spec in zip(records.logs, records.instances, strict=True)
        if spec.role == "decode"
    )
    short_of = "KV blocks" if peak >= _CROWDED else "one of max_num_seqs seats, or the next step"
    behind = "; on the prefill side prompts wait for the blocks that they hold meanwhile" if held else ""
    return (
        f"The decode side is full: computed prompts wait {in_time(seconds)} there, {share:.0%} of the mean end-to-end "
        f"time, for {short_of} (KV blocks are used to {in_percent(peak)} at most){behind}."
    )


def in_time(seconds: float) -> str:
    """Return a time for a sentence."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def in_percent(share: float) -> str:
    """Return a share for a sentence."""
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
