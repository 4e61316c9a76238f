"""Writing any workload as a file of LLMServingSim's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError
from servetwin.workload.base import NO_PARENT, Contents, DistinctContents, Workload
from servetwin.workload.contents import HasTokenIds

Record = dict[str, Any]


def write_jsonl(workload: Workload, path: str | Path) -> None:
    """Write a workload as JSONL: requests as flat lines, chains of requests as sessions.

    Reading the file back gives the same arrivals, lengths, chains and labels. Where requests share contents, token ids
    are written that share in the same way.

    Parameters
    ----------
    workload
        What to write.
    path
        The file; it is replaced.

    Raises
    ------
    InputError
        If the format cannot say it (a closed loop, two requests that wait for the same one), or the file cannot be
        written.
    """
    if workload.encoder_tokens is not None and workload.encoder_tokens.any():
        raise InputError("the format has no encoder_tokens; write the requests without images, or run the scenario")
    chains = _chains(workload)
    names = _session_names(workload, chains)
    tokens = _Tokens(workload.contents)
    lines = (_line(workload, chain, names, tokens) for chain in chains)
    try:
        with Path(path).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None


def _chains(workload: Workload) -> list[list[int]]:
    """Return the rows of each line: a request, and those that follow it one after the other."""
    if workload.concurrency is not None:
        raise InputError(
            "a closed loop cannot be written as a file: its arrivals depend on when other requests end. "
            "Write an open loop (arrivals: constant, poisson, ...), or run the scenario itself"
        )
    rows = range(len(workload))
    if workload.parent is None:
        return [[row] for row in rows]
    parents = workload.parent.tolist()
    child = {parent: row for row, parent in enumerate(parents) if parent != NO_PARENT}
    if len(child) < sum(parent != NO_PARENT for parent in parents):
        raise InputError("two requests wait for the same one; a session of the file is one request after the other")
    return [_chain(row, child) for row in rows if parents[row] == NO_PARENT]


def _chain(row: int, child: dict[int, int]) -> list[int]:
    chain = [row]
    while chain[-1] in child:
        chain.append(child[chain[-1]])
    return chain


def _session_names(workload: Workload, chains: list[list[int]]) -> dict[int, str]:
    """Return, by first row, the names of sessions of several requests; invented where they have none."""
    labels = workload.session_id
    sessions = [chain for chain in chains if len(chain) > 1]
    if labels is None:
        return {chain[0]: f"session_{number}" for number, chain in enumerate(sessions)}
    taken = set(labels)
    free = (name for number in range(2 * len(labels) + 1) if (name := f"session_{number}") not in taken)
    names = {chain[0]: labels[chain[0]] or next(free) for chain in sessions}
    if len(set(names.values())) < len(names):
        raise InputError("two sessions have the same session_id; in a file each needs its own")
    return names


def _line(workload: Workload, chain: list[int], names: dict[int, str], tokens: _Tokens) -> str:
    """Return the line of a request or session."""
    root = chain[0]
    requests = [_request(workload, row, tokens) for row in chain]
    if len(chain) == 1:
        record = requests[0]
        if workload.session_id is not None and workload.session_id[root] is not None:
            record["session_id"] = workload.session_id[root]
    else:
        for request, follower in zip(requests, chain[1:], strict=False):
            request["tool_duration_ns"] = int(workload.delay_ns[follower]) if workload.delay_ns is not None else 0
        record = {"session_id": names[root], "sub_requests": requests}
    record["arrival_time_ns"] = int(workload.arrival_ns[root])
    return json.dumps(record, separators=(",", ":")) + "\n"


def _request(workload: Workload, row: int, tokens: _Tokens) -> Record:
    prompt, output = int(workload.prompt_tokens[row]), int(workload.output_tokens[row])
    record: Record = {"input_toks": prompt, "output_toks": output}
    ids = tokens.of(row)
    if ids:
        record["input_tok_ids"] = list(ids[:prompt])
    if len(ids) == prompt + output:
        record["output_tok_ids"] = list(ids[prompt:])
    if workload.request_id is not None:
        record["request_id"] = workload.request_id[row]
    if workload.model is not None and workload.model[row] is not None:
        record["model"] = workload.model[row]
    if workload.priority is not None:
        record["priority"] = int(workload.priority[row])
    return record


class _Tokens:
    """Token ids for contents: their own, or made up so that prefixes are equal where block keys are."""

    def __init__(self, contents: Contents | None) -> None:
        self._contents = None if isinstance(contents, DistinctContents) else contents
        self._made_up: dict[int, int] = {}

    def of(self, row: int) -> Sequence[int]:
        """Return the known tokens of a request."""
        if self._contents is None:
            return ()
        if isinstance(self._contents, HasTokenIds):
            return self._contents.token_ids(row)
        made_up = self._made_up
        return [made_up.setdefault(key, len(made_up)) for key in self._contents.block_keys(row, 1)]
