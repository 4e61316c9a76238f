"""How large a workload may be."""

MAX_REQUESTS = 20_000_000
"""Most requests (or sessions) of one workload."""

MAX_TOKENS = 2**23
"""Longest prompt, and longest output, of one request."""

MAX_SECONDS = 10**9
"""Longest time, about 31 years, so that nanoseconds fit an int64."""

MAX_NS = MAX_SECONDS * 10**9
