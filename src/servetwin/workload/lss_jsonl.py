"""LLMServingSim's workload files as workloads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from servetwin.core.errors import InputError
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, Workload
from servetwin.workload.contents import TokenContents
from servetwin.workload.lss_lines import Item, LineReader, Request


class LssJsonlSource:
    """A workload file of LLMServingSim.

    A line is a request (``input_toks, output_toks, arrival_time_ns`` and perhaps ``input_tok_ids, output_tok_ids``) or
    a session (``arrival_time_ns, sub_requests``), whose requests follow each other: each arrives ``tool_duration_ns``
    of the one before after that one's end. Beyond that format a line may have ``request_id``, ``session_id``,
    ``model`` and ``priority``.

    Parameters
    ----------
    path
        The file; ``.gz`` is unpacked.
    limit
        Read only so many lines (a session is one line), as ``--num-reqs`` does.
    """

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        self.path = Path(path)
        self.limit = limit

    def build(self, seed: int) -> Workload:
        """Return the file's requests, sorted by arrival; the seed changes nothing.

        Raises
        ------
        InputError
            If the file cannot be read, or a line is wrong; it names the file, the line, the key and what is allowed.
        """
        reader = LineReader(self.path)
        items = reader.read(self.limit)
        if not items:
            raise InputError("the workload is empty: the file has no request", where=str(self.path))
        notices = reader.notices()
        for before, item in pairwise(items):
            if item.arrival_ns < before.arrival_ns:
                where = f"{self.path}:{item.line}"
                notices.append(f"{where}: arrives before the line above it; all requests were sorted by arrival")
                items.sort(key=lambda each: each.arrival_ns)
                break
        return _columns(items, str(self.path), notices)


def _columns(items: list[Item], source: str, notices: list[str]) -> Workload:
    """Return items as columns: each item's first request, in order, then the later ones of sessions."""
    later = [item for item in items if len(item.requests) > 1]
    requests = [item.requests[0] for item in items] + [request for item in later for request in item.requests[1:]]
    sessions = [item.session_id for item in items] + [item.session_id for item in later for _ in item.requests[1:]]
    arrivals = [item.arrival_ns for item in items] + [RELEASED_LATER] * (len(requests) - len(items))
    lengths = np.array([(request.prompt_tokens, request.output_tokens) for request in requests], dtype=np.int64)
    workload = Workload(
        arrival_ns=np.array(arrivals, dtype=np.int64),
        prompt_tokens=lengths[:, 0].copy(),
        output_tokens=lengths[:, 1].copy(),
        request_id=_names(requests),
        session_id=sessions if any(name is not None for name in sessions) else None,
        source=source,
        notices=notices,
    )
    _add_labels(workload, requests)
    if later:
        _add_chains(workload, items)
    if any(request.tokens for request in requests):
        workload.contents = TokenContents([request.tokens for request in requests], lengths.sum(axis=1))
    return workload


def _names(requests: list[Request]) -> list[str] | None:
    """Return the request ids, the row number where a request has none; None if no request has one."""
    if all(request.request_id is None for request in requests):
        return None
    return [request.request_id or str(row) for row, request in enumerate(requests)]


def _add_labels(workload: Workload, requests: list[Request]) -> None:
    if any(request.model is not None for request in requests):
        workload.model = [request.model for request in requests]
    if any(request.priority is not None for request in requests):
        workload.priority = np.array([request.priority or 0 for request in requests], dtype=np.int64)


def _add_chains(workload: Workload, items: list[Item]) -> None:
    """Make each later request of a session wait for the one before it."""
    parent = np.full(len(workload), NO_PARENT, dtype=np.int64)
    delay = np.zeros(len(workload), dtype=np.int64)
    row = len(items)
    for first, item in enumerate(items):
        before = first
        for earlier in item.requests[:-1]:
            parent[row], delay[row] = before, earlier.tool_duration_ns
            before, row = row, row + 1
    workload.parent, workload.delay_ns = parent, delay
