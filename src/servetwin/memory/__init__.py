"""KV capacity: how many blocks fit beside the weights and all else that lies in a device's memory."""

from servetwin.memory.kv_capacity import KvCapacity, kv_capacity
from servetwin.memory.lss import lss_kv_bytes_per_token, lss_kv_capacity, lss_weight_bytes
from servetwin.memory.overheads import Coefficients
from servetwin.memory.profiling import ProfilingStep

__all__ = [
    "Coefficients",
    "KvCapacity",
    "ProfilingStep",
    "kv_capacity",
    "lss_kv_bytes_per_token",
    "lss_kv_capacity",
    "lss_weight_bytes",
]
