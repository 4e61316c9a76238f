"""The sessions of the Claude Code traces, read strictly: calls, subagents, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.workload.limits import MAX_NS, MAX_SECONDS, MAX_TOKENS
from servetwin.workload.trace_lines import Record, check_keys, decode, hash_ids, integer, seconds, shown

CHUNK_TOKENS = 64
"""Tokens per hash id."""

_SESSION = frozenset(
    {"id", "models", "block_size", "hash_id_scope", "tool_tokens", "system_tokens", "totals", "requests"}
)
_CALL = frozenset(
    {"t", "type", "model", "in", "out", "hash_ids", "input_types", "output_types", "stop", "api_time", "think_time"}
    | {"ttft"}
)
_SUBAGENT = frozenset(
    {"t", "type", "agent_id", "subagent_type", "duration_ms", "total_tokens", "tool_use_count", "status", "requests"}
    | {"models", "tool_tokens", "system_tokens"}
)
_MAX_MS = MAX_NS // 10**6


@dataclass(slots=True)
class Call:
    """One call of a session.

    ``start_s`` counts from the session's start; ``api_s`` and ``think_s`` are NaN where the trace does not know them.
    ``parent`` is the call after whose end it comes, -1 for the first; ``delay_s`` the pause between.
    """

    where: str
    start_s: float
    api_s: float
    think_s: float
    prompt_tokens: int
    output_tokens: int
    ids: NDArray[np.int64]
    shared_chunks: int
    shared_key: tuple[int, int]
    parent: int = -1
    delay_s: float = 0.0


def read_session(text: bytes, where: str) -> list[Call]:
    """Return the calls of one session, each behind its parent; the first has none.

    Raises
    ------
    InputError
        For anything that is wrong with the text; it names the place and what is allowed.
    """
    record = decode(text, where)
    check_keys(record, _SESSION, where)
    integer(record, "block_size", CHUNK_TOKENS, CHUNK_TOKENS, where)
    if record.get("hash_id_scope") != "local":
        given = shown(record.get("hash_id_scope"))
        raise InputError(f'hash_id_scope is {given}; allowed: "local"', where=where)
    reader = _SessionReader(*_prompt_sizes(record, where))
    for entry, place in _entries(record, where):
        if "requests" in entry:
            reader.add_subagent(entry, place)
        else:
            reader.add_call(entry, place)
    if not reader.calls:
        raise InputError("requests is empty; a session has at least one call", where=where)
    return reader.calls


class _SessionReader:
    def __init__(self, tool_tokens: int, system_tokens: int) -> None:
        self.calls: list[Call] = []
        self._key = (tool_tokens, system_tokens)
        self._last = -1
        """The main agent's latest call."""
        self._ends: list[int] = []
        """The last calls of the subagents since then that the main agent waits for."""

    def add_call(self, record: Record, where: str) -> None:
        call = _call(record, where, 0.0, self._key)
        if self._last >= 0:
            self._release(call, max([self._last, *self._ends], key=self._end_s), paused=not self._ends)
        self._ends = []
        self._last = len(self.calls)
        self.calls.append(call)

    def add_subagent(self, record: Record, where: str) -> None:
        """Add a subagent's calls, the first of which comes after the main agent's latest call.

        ``t`` is when it ended; of one that runs beside the main agent (without ``duration_ms``), when it began.
        """
        if self._last < 0:
            raise InputError("a session begins with a call of its own, not with a subagent", where=where)
        check_keys(record, _SUBAGENT, where)
        waits = record.get("duration_ms") is not None
        duration_s = integer(record, "duration_ms", 0, _MAX_MS, where) / 1000 if waits else 0.0
        start_s = max(seconds(record, "t", MAX_SECONDS, where) - duration_s, 0.0)
        key = _prompt_sizes(record, where)
        before = self._last
        for entry, place in _entries(record, where):
            call = _call(entry, place, start_s, key)
            self._release(call, before, paused=before != self._last)
            before = len(self.calls)
            self.calls.append(call)
        if waits and before != self._last:
            self._ends.append(before)

    def _release(self, call: Call, parent: int, *, paused: bool) -> None:
        """Let a call wait for another one, and then as long as its times tell.

        ``paused`` says that it follows a call of its own agent: then its ``think_time`` is the pause, if it is known.
        """
        call.parent = parent
        before = self.calls[parent]
        paused = paused and not np.isnan(before.api_s) and not np.isnan(call.think_s)
        gap_s = call.start_s - (before.start_s if np.isnan(before.api_s) else before.start_s + before.api_s)
        call.delay_s = call.think_s if paused else max(gap_s, 0.0)

    def _end_s(self, number: int) -> float:
        call = self.calls[number]
        return call.start_s + (0.0 if np.isnan(call.api_s) else call.api_s)


def _entries(record: Record, where: str) -> Iterable[tuple[Record, str]]:
    entries: Any = record.get("requests")
    if not isinstance(entries, list):
        raise InputError(f"requests must be a list of calls, not {shown(entries)}", where=where)
    for number, entry in enumerate(entries):
        place = f"{where}: requests[{number}]"
        if not isinstance(entry, dict):
            raise InputError(f"must be a JSON object, not {shown(entry)}", where=place)
        yield entry, place


def _prompt_sizes(record: Record, where: str) -> tuple[int, int]:
    """Return the tokens of an agent's tools and of its system prompt."""
    return integer(record, "tool_tokens", 0, MAX_TOKENS, where), integer(record, "system_tokens", 0, MAX_TOKENS, where)


def _call(record: Record, where: str, start_s: float, key: tuple[int, int]) -> Call:
    check_keys(record, _CALL, where)
    prompt = integer(record, "in", 1, MAX_TOKENS, where)
    rule = f"one per {CHUNK_TOKENS} whole tokens of the {prompt} of in"
    return Call(
        where=where,
        start_s=start_s + seconds(record, "t", MAX_SECONDS, where),
        api_s=seconds(record, "api_time", MAX_SECONDS, where) if "api_time" in record else np.nan,
        think_s=seconds(record, "think_time", MAX_SECONDS, where) if "think_time" in record else np.nan,
        prompt_tokens=prompt,
        output_tokens=integer(record, "out", 0, MAX_TOKENS, where),
        ids=hash_ids(record, prompt // CHUNK_TOKENS, rule, where),
        shared_chunks=sum(key) // CHUNK_TOKENS,
        shared_key=key,
    )
