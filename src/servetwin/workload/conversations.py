"""Conversations with a growing prefix, and shared system prompts: requests as chains of segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.core.random import stream
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, Workload
from servetwin.workload.columns import Integers, nanoseconds
from servetwin.workload.contents import SegmentContents
from servetwin.workload.lengths import draw_pairs
from servetwin.workload.limits import MAX_REQUESTS
from servetwin.workload.options import SyntheticOptions
from servetwin.workload.prefixes import SessionOptions


@dataclass(slots=True)
class _Turns:
    """The turns of all sessions, session by session, one row each.

    ``session`` ascends without gaps; ``number`` counts a session's turns from 0; ``system_prompt`` and
    ``system_tokens`` are those of the row's session (-1 and 0 without system prompts).
    """

    session: Integers
    number: Integers
    prompt_tokens: Integers
    output_tokens: Integers
    system_prompt: Integers
    system_tokens: Integers

    def keep(self, rows: NDArray[np.bool_]) -> _Turns:
        """Return only some rows."""
        return _Turns(
            self.session[rows], self.number[rows], self.prompt_tokens[rows], self.output_tokens[rows],
            self.system_prompt[rows], self.system_tokens[rows],
        )  # fmt: skip


def converse(items: Workload, options: SyntheticOptions, seed: int) -> Workload:
    """Turn each of ``items`` into a session (of one turn where there are no ``sessions``).

    Raises
    ------
    InputError
        If there are too many turns.
    """
    turns = _grow(*_draw_turns(len(items), options, seed), options, seed)
    if options.sessions is not None and options.sessions.max_tokens is not None:
        fits = turns.prompt_tokens + turns.output_tokens <= options.sessions.max_tokens
        turns = turns.keep(fits | (turns.number == 0))
    return _workload(items, turns, options.sessions, seed)


def _draw_turns(n: int, options: SyntheticOptions, seed: int) -> tuple[Integers, Integers]:
    """Return the session of each row, and the number of its turn."""
    if options.sessions is None:
        return np.arange(n), np.zeros(n, dtype=np.int64)
    turns = options.sessions.turns.draw(n, stream(seed, "workload", "turns"))
    if (total := int(turns.sum())) > MAX_REQUESTS:
        message = f"{n} sessions have {total} turns in all; allowed: {MAX_REQUESTS}"
        raise InputError(message, where="workload.sessions")
    starts = np.cumsum(turns) - turns
    return np.repeat(np.arange(n), turns), np.arange(total) - np.repeat(starts, turns)


def _grow(session: Integers, number: Integers, options: SyntheticOptions, seed: int) -> _Turns:
    """Draw the text of each turn; a prompt is the system prompt, all earlier turns and the new text."""
    text, outputs = draw_pairs(*options.lengths, len(session), seed)
    said = np.cumsum(text + outputs)
    before_session = (said - text - outputs)[np.flatnonzero(number == 0)]
    prompts = said - outputs - before_session[session]
    if options.system_prompts is None:
        return _Turns(session, number, prompts, outputs, np.full_like(session, -1), np.zeros_like(session))
    system = options.system_prompts
    lengths = system.tokens.draw(system.count, stream(seed, "workload", "system_prompt_tokens"))
    chosen = system.choose(int(session[-1]) + 1, stream(seed, "workload", "system_prompts"))[session]
    return _Turns(session, number, prompts + lengths[chosen], outputs, chosen, lengths[chosen])


def _workload(items: Workload, turns: _Turns, sessions: SessionOptions | None, seed: int) -> Workload:
    """Return the turns as requests: known arrivals first, later turns after them (a closed loop as it is)."""
    is_first = turns.number == 0
    rows = np.arange(len(is_first))
    order = rows if items.concurrency else np.concatenate([rows[is_first], rows[~is_first]])
    session = turns.session[order]
    workload = Workload(
        arrival_ns=np.where(is_first, items.arrival_ns[turns.session], RELEASED_LATER)[order],
        prompt_tokens=turns.prompt_tokens[order],
        output_tokens=turns.output_tokens[order],
        model=[items.model[row] for row in session.tolist()] if items.model is not None else None,
        priority=items.priority[session] if items.priority is not None else None,
        delay_ns=items.delay_ns,
        concurrency=items.concurrency,
        contents=_contents(turns, order),
        source=items.source,
        notices=items.notices,
    )
    if sessions is not None:
        workload.session_id = [f"session_{number}" for number in session.tolist()]
        workload.parent, workload.delay_ns = _chain(items, turns, sessions, order, seed)
    return workload


def _chain(
    items: Workload, turns: _Turns, sessions: SessionOptions, order: Integers, seed: int
) -> tuple[Integers, Integers]:
    """Return the parent of each request and the delay after it, in the order of the workload."""
    later = turns.number > 0
    row_of_turn = np.empty_like(order)
    row_of_turn[order] = np.arange(len(order))
    parent = np.full(len(order), NO_PARENT, dtype=np.int64)
    parent[later] = row_of_turn[np.flatnonzero(later) - 1]
    think = nanoseconds(sessions.think_s.draw(len(order), stream(seed, "workload", "turn_think")))
    before_session = items.delay_ns[turns.session] if items.delay_ns is not None else np.zeros_like(think)
    return parent[order], np.where(later, think, before_session)[order]


def _contents(turns: _Turns, order: Integers) -> SegmentContents:
    """Return the segments of all sessions, one after the other; a request has its session's first ones.

    Per session: the system prompt (none: nothing), then text and answer of each turn.
    """
    has_system = int(turns.system_prompt[0] >= 0)
    rows = np.arange(len(turns.session))
    first_row = np.flatnonzero(turns.number == 0)
    begin = 2 * first_row + has_system * np.arange(len(first_row))
    text = 2 * rows + has_system * (turns.session + 1)
    chain = np.empty(2 * len(rows) + has_system * len(first_row), dtype=np.int64)
    end = np.empty_like(chain)
    if has_system:
        chain[begin], end[begin] = turns.system_prompt[first_row], turns.system_tokens[first_row]
    own = int(turns.system_prompt.max()) + 1
    chain[text], end[text] = own + 2 * rows, turns.prompt_tokens
    chain[text + 1], end[text + 1] = own + 2 * rows + 1, turns.prompt_tokens + turns.output_tokens
    first, count = begin[turns.session], has_system + 2 * (turns.number + 1)
    return SegmentContents(chain, end, first[order], count[order])
