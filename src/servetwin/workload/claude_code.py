"""Traces of Claude Code sessions (kv-cache-tester) as workloads."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.core.random import stream
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, Workload
from servetwin.workload.claude_sessions import CHUNK_TOKENS, Call, read_session
from servetwin.workload.columns import nanoseconds
from servetwin.workload.files import read_bytes
from servetwin.workload.id_tree import IdTree


class ClaudeCodeSource:
    """Recorded Claude Code sessions: one JSON object per session, with ``hash_ids`` per 64 tokens of each prompt.

    A call comes after the end of the one before it, ``think_time`` later; a subagent's first call after the main
    agent's latest one, and the main agent goes on after the subagent that ended last (one launched to run beside it is
    not waited for). Where a call's ``api_time`` is
    not known, the whole time between the two starts is the pause.

    Parameters
    ----------
    path
        A tar archive (``.tar``, ``.tar.gz``, ``.tar.xz``) or a folder of ``*.json``, or one such file.
    sessions_per_s
        How many sessions begin per second, at random times (the trace does not know when they did).
    limit
        Read only the first so many sessions (of an archive in its own order, of a folder in order of the names).
    max_pause_s
        Longer pauses between calls are cut to this; whole where left out.
    shared_system_prompts
        Whether sessions with as many tokens of tools and of system prompt begin with the same text. The trace's ids
        cannot say it: they are comparable only within a session.
    """

    def __init__(
        self,
        path: str | Path,
        sessions_per_s: float,
        limit: int | None = None,
        max_pause_s: float | None = None,
        shared_system_prompts: bool = False,
    ) -> None:
        self.path = Path(path)
        self.sessions_per_s = sessions_per_s
        self.limit = limit
        self.max_pause_s = max_pause_s
        self.shared_system_prompts = shared_system_prompts

    def build(self, seed: int) -> Workload:
        """Return the calls of all sessions; the seed decides when sessions begin.

        Raises
        ------
        InputError
            If a file cannot be read or a session is wrong; it names the file, the call, the key and what is allowed.
        """
        collector = _Collector(IdTree(), self.shared_system_prompts)
        for name, text in islice(_sessions(self.path), self.limit):
            collector.add(Path(name).name.removesuffix(".json"), read_session(text, f"{self.path}: {name}"))
        if not collector.sizes:
            raise InputError("the workload is empty: there is no session (*.json)", where=str(self.path))
        gaps = stream(seed, "workload", "arrivals").exponential(1 / self.sessions_per_s, len(collector.sizes))
        return collector.workload(nanoseconds(np.cumsum(gaps)), self.max_pause_s, str(self.path))


class _Collector:
    """Collects the calls of sessions, session by session."""

    def __init__(self, tree: IdTree, shared_system_prompts: bool) -> None:
        self.sizes: list[int] = []
        self._names: list[str] = []
        self._tree = tree
        self._shared: dict[tuple[int, int], int] | None = {} if shared_system_prompts else None
        self._next_id = 0
        self._rows: list[tuple[int, int, int]] = []
        self._delays_s: list[float] = []

    def add(self, name: str, calls: list[Call]) -> None:
        self._names.append(name)
        before = len(self._rows)
        own = self._next_id
        self._next_id += 1 + max((int(call.ids.max()) for call in calls if len(call.ids)), default=0)
        first_ids: dict[tuple[int, int], NDArray[np.int64]] = {}
        for call in calls:
            ids = call.ids + own
            if self._shared is not None:
                self._share(ids, first_ids.setdefault(call.shared_key, ids[: call.shared_chunks].copy()), call)
            self._tree.add(ids - own, own, call.where)
            parent = before + call.parent if call.parent >= 0 else NO_PARENT
            self._rows.append((call.prompt_tokens, call.output_tokens, parent))
            self._delays_s.append(call.delay_s)
        self.sizes.append(len(calls))

    def _share(self, ids: NDArray[np.int64], first: NDArray[np.int64], call: Call) -> None:
        """Give the beginning that a call has in common with its session's first the ids that all sessions share."""
        assert self._shared is not None
        if call.shared_key not in self._shared:
            self._shared[call.shared_key] = self._next_id
            self._next_id += call.shared_chunks
        width = min(len(first), len(ids))
        differs = np.flatnonzero(ids[:width] != first[:width])
        common = int(differs[0]) if len(differs) else width
        start = self._shared[call.shared_key]
        ids[:common] = np.arange(start, start + common)

    def workload(self, starts_ns: NDArray[np.int64], max_pause_s: float | None, source: str) -> Workload:
        """Return the first calls of all sessions, in order, then all later ones."""
        numbers = np.array(self._rows, dtype=np.int64)
        prompt, output, parent = numbers.T
        notices = _notices(output, source)
        output = np.maximum(output, 1)
        is_first = parent == NO_PARENT
        rows = np.arange(len(numbers))
        order = np.concatenate([rows[is_first], rows[~is_first]])
        row_of = np.empty_like(order)
        row_of[order] = rows
        delays_s = np.array(self._delays_s)
        session = np.repeat(np.arange(len(self.sizes)), self.sizes)[order]
        known = prompt // CHUNK_TOKENS * CHUNK_TOKENS
        return Workload(
            arrival_ns=np.where(is_first[order], starts_ns[session], RELEASED_LATER),
            prompt_tokens=prompt[order],
            output_tokens=output[order],
            session_id=[self._names[number] for number in session.tolist()],
            parent=np.where(is_first, NO_PARENT, row_of[np.maximum(parent, 0)])[order],
            delay_ns=nanoseconds(delays_s if max_pause_s is None else np.minimum(delays_s, max_pause_s))[order],
            contents=self._tree.contents(CHUNK_TOKENS, order, known[order], (prompt + output)[order]),
            source=source,
            notices=notices,
        )


def _notices(output: NDArray[np.int64], source: str) -> list[str]:
    notices = [f"{source}: the trace does not know when sessions began; they begin at random times"]
    if silent := int((output == 0).sum()):
        notices.append(f"{source}: {silent} calls have no output tokens; they are taken to have 1")
    return notices


def _sessions(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of each session: an archive's in its own order, a folder's in order of their names."""
    if path.is_dir():
        for file in sorted(path.glob("*.json")):
            yield file.name, read_bytes(file)
    elif path.suffix == ".json" or path.name.endswith(".json.gz"):
        yield path.name.removesuffix(".gz"), read_bytes(path)
    else:
        yield from _archived(path)


def _archived(path: Path) -> Iterator[tuple[str, bytes]]:
    raw = read_bytes(path)
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r|*") as archive:
            for member in archive:
                if member.name.endswith(".json") and (file := archive.extractfile(member)) is not None:
                    yield member.name, file.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, zlib.error) as error:
        message = f"cannot be read as a tar archive, and is no folder or .json file: {error}"
        raise InputError(message, where=str(path)) from None
