"""KV capacity: how many blocks fit beside the weights."""

from servetwin.memory.kv_capacity import DEFAULT_RESERVE_BYTES, KvCapacity, kv_capacity
from servetwin.memory.lss import lss_kv_bytes_per_token, lss_kv_capacity, lss_weight_bytes

__all__ = [
    "DEFAULT_RESERVE_BYTES",
    "KvCapacity",
    "kv_capacity",
    "lss_kv_bytes_per_token",
    "lss_kv_capacity",
    "lss_weight_bytes",
]
