"""A command that is asked how long operators take: JSON on its standard input, JSON on its standard output."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError
from servetwin.llm.operators import AttentionKernel, Elementwise, Gemm, GroupedGemm
from servetwin.step.operator_times.base import OperatorOverRows
from servetwin.step.operator_times.tables import OperatorTables, Sample

VERSION = 1
SHOWN_CHARACTERS = 2000
MOST_US = 1e9
"""A thousand seconds: no operator takes longer."""

ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
DECODE_ROWS = (1, 4, 16, 64, 128, 256)
CHUNK_ROWS = (1, 64, 256, 512, 1024, 2048, 4096, 8192)
CONTEXTS = (0, 128, 512, 2048, 8192, 32768)


class OperatorCommandError(InputError):
    """An external command failed, hung, or answered nonsense; the message shows what it was asked and answered."""


@dataclass(frozen=True)
class OperatorCommand:
    """A command and how it is run.

    Attributes
    ----------
    arguments
        The program and its arguments; no shell is involved.
    folder
        Where it runs.
    timeout_s
        After which it is ended, with all processes that it started.
    cache
        A folder in which answers are kept, by command and question; None: for this run only.
    """

    arguments: tuple[str, ...]
    folder: Path
    timeout_s: float = 60.0
    cache: Path | None = None

    def ask(self, question: dict[str, Any]) -> list[float] | None:
        """Return the times in microseconds, one per point of the question; None if the command knows no answer.

        Raises
        ------
        OperatorCommandError
            If it cannot be started, fails, takes too long, or answers with something else than what was asked for.
        """
        text = json.dumps(question, sort_keys=True)
        kept = self._kept(text)
        answer = kept.read_text(encoding="utf-8") if kept is not None and kept.is_file() else self._run(text)
        times = self._times(answer, len(question["points"]), text)
        if kept is not None and not kept.is_file():
            _keep(kept, answer)
        return times

    def _kept(self, text: str) -> Path | None:
        if self.cache is None:
            return None
        key = hashlib.sha256(json.dumps([self.arguments, text]).encode()).hexdigest()[:32]
        return self.cache / f"{key}.json"

    def _run(self, text: str) -> str:
        try:
            process = subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            raise self._error(f"cannot be started: {error.strerror or error}", text, "", "") from None
        try:
            output, errors = process.communicate(text, timeout=self.timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            raise self._error(f"has not answered within {self.timeout_s:g} s", text, "", "") from None
        except BaseException:
            _end(process)
            raise
        if process.returncode != 0:
            raise self._error(f"failed with exit code {process.returncode}", text, output, errors)
        return output

    def _times(self, answer: str, count: int, text: str) -> list[float] | None:
        try:
            times = json.loads(answer)["time_us"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._error('answered something else than a JSON object {"time_us": [...]}', text, answer) from None
        if times is None:
            return None
        if not isinstance(times, list) or len(times) != count:
            raise self._error(f"must answer one time per point ({count}), or null for all", text, answer)
        for time in times:
            if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time <= MOST_US:
                raise self._error(f"answered {time!r}, which is no time from 0 to {MOST_US:.0e} us", text, answer)
        return [float(time) for time in times]

    def _error(self, problem: str, text: str, output: str, errors: str = "") -> OperatorCommandError:
        parts = [f"the operator command {' '.join(self.arguments)} {problem}", f"its input: {_shown(text)}"]
        parts += [f"its output: {_shown(output)}"] if output.strip() else ["its output: nothing"]
        parts += [f"its messages: {_shown(errors)}"] if errors.strip() else []
        return OperatorCommandError("\n  ".join(parts))


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def _keep(path: Path, answer: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(answer, encoding="utf-8")
    part.replace(path)


class CommandTimes:
    """Operator times by a command: each operator is asked for once, at the points of a grid; see `OperatorTables`.

    Parameters
    ----------
    command
        Whom to ask.
    device, model, tensor_parallel_size
        What the question is about.
    """

    def __init__(self, command: OperatorCommand, device: str, model: str, tensor_parallel_size: int) -> None:
        self.notices: list[str] = []
        self._command = command
        self._about = {
            "version": VERSION,
            "device": device,
            "model": model,
            "tensor_parallel_size": tensor_parallel_size,
        }
        self._known: dict[object, OperatorTables | None] = {}

    def rows_ns(self, op: OperatorOverRows, rows: int) -> float | None:
        """See `OperatorTimes`."""
        found = self._ask(op, op.name, [(count, None) for count in ROWS])
        return found.rows_ns(op, rows) if found is not None else None

    def decode_ns(self, op: AttentionKernel, decodes: int, kv_tokens: int) -> float | None:
        """See `OperatorTimes`."""
        found = self._ask(op, "attention_decode", [(n, context) for n in DECODE_ROWS for context in CONTEXTS])
        return found.decode_ns(op, decodes, kv_tokens) if found is not None else None

    def prefill_ns(self, op: AttentionKernel, new: int, context: int) -> float | None:
        """See `OperatorTimes`."""
        found = self._ask(op, "attention_prefill", [(n, before) for n in CHUNK_ROWS for before in CONTEXTS])
        return found.prefill_ns(op, new, context) if found is not None else None

    def _ask(
        self, op: OperatorOverRows | AttentionKernel, name: str, points: Sequence[tuple[int, int | None]]
    ) -> OperatorTables | None:
        if (op, name) not in self._known:
            asked = [_point(rows, context) for rows, context in points]
            question = self._about | {"operator": name} | _described(op) | {"points": asked}
            times = self._command.ask(question)
            if times is None:
                self.notices.append(f"operator {name}: the command knows no time; the roofline counts")
            self._known[op, name] = None if times is None else _tables(name, points, times)
        return self._known[op, name]


def _point(rows: int, context: int | None) -> dict[str, int]:
    return {"rows": rows} if context is None else {"rows": rows, "context_tokens": context}


def _tables(name: str, points: Sequence[tuple[int, int | None]], times_us: Sequence[float]) -> OperatorTables:
    pairs = zip(points, times_us, strict=True)
    return OperatorTables({name: [Sample(rows, context or 0, us * 1000, "") for (rows, context), us in pairs]})


def _described(op: OperatorOverRows | AttentionKernel) -> dict[str, Any]:
    """Return what a command should know of an operator."""
    if isinstance(op, Gemm):
        return {
            "kind": "gemm", "n": op.n, "k": op.k, "batch": op.batch, "weight_bytes": op.weight_bytes,
            "activation_bytes": op.activation_bytes,
        }  # fmt: skip
    if isinstance(op, GroupedGemm):
        return {
            "kind": "grouped_gemm", "n": op.n, "k": op.k, "num_experts": op.num_experts, "top_k": op.top_k,
            "local_experts": op.local_experts, "weight_bytes": op.weight_bytes, "activation_bytes": op.activation_bytes,
        }  # fmt: skip
    if isinstance(op, Elementwise):
        return {
            "kind": "elementwise", "elements_read": op.elements_read, "elements_written": op.elements_written,
            "weight_bytes": op.weight_bytes, "activation_bytes": op.activation_bytes,
        }  # fmt: skip
    return {
        "kind": "attention", "num_heads": op.num_heads, "num_kv_heads": op.num_kv_heads, "head_dim": op.head_dim,
        "v_head_dim": op.v_head_dim, "window": op.window, "kv_bytes_per_token": op.kv_bytes_per_token,
        "activation_bytes": op.activation_bytes,
    }  # fmt: skip
