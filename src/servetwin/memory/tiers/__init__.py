"""KV below the device: tiers that hold chunks by key, and their eviction policies."""

from servetwin.memory.tiers import arc as _arc
from servetwin.memory.tiers import prefix_evictions as _prefix_evictions
from servetwin.memory.tiers import s3_fifo as _s3_fifo
from servetwin.memory.tiers.base import ChunkTree, Eviction, evictions
from servetwin.memory.tiers.hierarchy import KvTiers, Part, Recall, Write
from servetwin.memory.tiers.log import TierLog
from servetwin.memory.tiers.spec import TierDevice, TierSpec, TiersSpec
from servetwin.memory.tiers.store import ChunkStore
from servetwin.memory.tiers.traffic import TierTraffic, TimedTiers

__all__ = [
    "ChunkStore",
    "ChunkTree",
    "Eviction",
    "KvTiers",
    "Part",
    "Recall",
    "TierDevice",
    "TierLog",
    "TierSpec",
    "TierTraffic",
    "TiersSpec",
    "TimedTiers",
    "Write",
    "evictions",
]

_BUILT_IN = (_arc, _prefix_evictions, _s3_fifo)
"""Imported for what they register."""
