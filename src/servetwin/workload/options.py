"""The ``workload:`` of a scenario: one model of options per kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from servetwin.workload.arrivals import ArrivalOptions
from servetwin.workload.base import WorkloadSource, workload_sources
from servetwin.workload.lengths import LengthOptions
from servetwin.workload.mix import ModelMix, PriorityMix
from servetwin.workload.prefixes import SessionOptions, SharedPrefixOptions, SystemPromptOptions
from servetwin.workload.schema import Count, Options, Rate, Seconds, absolute


class SyntheticOptions(Options):
    """Requests that are drawn at random.

    Attributes
    ----------
    requests
        How many; where the arrivals say it (stages, pulses), at most so many. Left out with ``sessions``, which have
        their own ``count``.
    arrivals
        When requests arrive, or sessions where there are ``sessions``.
    prompt_tokens, output_tokens
        Lengths; in a session those of the new text of a turn, and of its answer.
    sessions
        Conversations of several turns with a growing prefix.
    system_prompts
        Shared beginnings, in front of ``prompt_tokens``.
    shared_prefix
        inference-perf's fixed set of prompts, in place of ``prompt_tokens``, ``output_tokens`` and the two above.
    encoder_tokens, encoder_share
        Embeddings of images that an encoder makes, in addition to ``prompt_tokens``, of such a share of the requests.
    model, priority
        One for all, or a mix by weight (drawn per session where there are sessions).
    """

    kind: Literal["synthetic"] = "synthetic"
    requests: Count | None = None
    arrivals: ArrivalOptions
    prompt_tokens: LengthOptions | None = None
    output_tokens: LengthOptions | None = None
    sessions: SessionOptions | None = None
    system_prompts: SystemPromptOptions | None = None
    shared_prefix: SharedPrefixOptions | None = None
    encoder_tokens: LengthOptions | None = None
    encoder_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    model: ModelMix | None = None
    priority: PriorityMix | None = None

    @model_validator(mode="after")
    def _one_kind_of_prompts(self) -> Self:
        others = ("prompt_tokens", "output_tokens", "sessions", "system_prompts")
        if self.shared_prefix is not None:
            if given := [name for name in others if getattr(self, name) is not None]:
                raise ValueError(f"shared_prefix makes whole requests; leave out {', '.join(given)}")
        elif missing := [name for name in others[:2] if getattr(self, name) is None]:
            raise ValueError(
                f"{' and '.join(missing)} missing (a number, or a distribution such as {{kind: lognormal}})"
            )
        return self

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if self.sessions is not None and self.requests is not None:
            raise ValueError("with sessions, say sessions.count (how many sessions) and leave out requests")
        if self.asked is None and self.arrivals.total is None:
            name = "requests" if self.sessions is None else "sessions.count"
            raise ValueError(f"{name} missing: {self.arrivals.kind} arrivals have no end of their own")
        return self

    @model_validator(mode="after")
    def _images_of_single_requests(self) -> Self:
        if self.encoder_tokens is not None:
            others = ("sessions", "system_prompts", "shared_prefix")
            if given := [name for name in others if getattr(self, name) is not None]:
                raise ValueError(f"encoder_tokens are for requests that share nothing; leave out {', '.join(given)}")
        elif self.encoder_share != 1.0:
            raise ValueError("encoder_share is of requests with encoder_tokens; give these too")
        return self

    @property
    def asked(self) -> int | None:
        """How many requests (or sessions) were asked for."""
        return self.requests if self.sessions is None else self.sessions.count

    @property
    def items(self) -> int:
        """How many requests (or sessions) there are at most."""
        most = self.asked if self.asked is not None else self.arrivals.total
        assert most is not None  # validated above
        return most

    @property
    def lengths(self) -> tuple[LengthOptions, LengthOptions]:
        """``prompt_tokens`` and ``output_tokens``, where there is no ``shared_prefix``."""
        assert self.prompt_tokens is not None  # validated above
        assert self.output_tokens is not None
        return self.prompt_tokens, self.output_tokens

    def source(self) -> WorkloadSource:
        """Return the generator."""
        from servetwin.workload.synthetic import SyntheticSource

        return SyntheticSource(self)


class _FileOptions(Options):
    """A file of requests; only its first ``limit`` lines (a session is one line) are read."""

    path: Annotated[str, Field(min_length=1)]
    limit: Count | None = None

    def at(self, folder: Path) -> Self:
        """Return the same options with an absolute path."""
        return self.model_copy(update={"path": absolute(self.path, folder)})


class LssJsonlOptions(_FileOptions):
    """A workload file of LLMServingSim: one JSON object per line."""

    kind: Literal["lss_jsonl"] = "lss_jsonl"

    def source(self) -> WorkloadSource:
        """Return the file's reader."""
        from servetwin.workload.lss_jsonl import LssJsonlSource

        return LssJsonlSource(Path(self.path), limit=self.limit)


class CsvOptions(_FileOptions):
    """A CSV file with the columns ``arrival_s,prompt_tokens,output_tokens`` and optional others."""

    kind: Literal["csv"] = "csv"

    def source(self) -> WorkloadSource:
        """Return the file's reader."""
        from servetwin.workload.csv_file import CsvSource

        return CsvSource(Path(self.path), limit=self.limit)


class MooncakeOptions(_FileOptions):
    """A trace of Mooncake (FAST'25): one JSON object per line, prompts named by hashes of 512 tokens.

    Attributes
    ----------
    sessions_per_s
        Mean rate to which all times are stretched alike (the trace names no sessions, so a request is one); as recorded
        where left out.
    tick_s
        Over how many seconds, at most, the requests of one timestamp are spread evenly; 0 leaves them together.
    """

    kind: Literal["mooncake"] = "mooncake"
    sessions_per_s: Rate | None = None
    tick_s: Annotated[float, Field(ge=0, le=3600)] = 3.0

    def source(self) -> WorkloadSource:
        """Return the trace's reader."""
        from servetwin.workload.mooncake import MooncakeSource

        return MooncakeSource(Path(self.path), self.limit, self.sessions_per_s, self.tick_s)


class ClaudeCodeOptions(_FileOptions):
    """Recorded sessions of Claude Code: an archive or a folder of JSON files, prompts named by hashes of 64 tokens.

    Attributes
    ----------
    limit
        Read only the first so many sessions.
    sessions_per_s
        How many sessions begin per second, at random times.
    max_pause_s
        Longer pauses between the calls of a session are cut to this; whole where left out.
    shared_system_prompts
        Whether sessions with as many tokens of tools and of system prompt begin with the same text (the trace cannot
        say it).
    """

    kind: Literal["claude_code"] = "claude_code"
    sessions_per_s: Rate
    max_pause_s: Seconds | None = None
    shared_system_prompts: bool = False

    def source(self) -> WorkloadSource:
        """Return the trace's reader."""
        from servetwin.workload.claude_code import ClaudeCodeSource

        return ClaudeCodeSource(
            Path(self.path), self.sessions_per_s, self.limit, self.max_pause_s, self.shared_system_prompts
        )


BuiltInOptions: TypeAlias = SyntheticOptions | LssJsonlOptions | CsvOptions | MooncakeOptions | ClaudeCodeOptions

WorkloadOptions: TypeAlias = Annotated[BuiltInOptions, Field(discriminator="kind")]
"""The ``workload:`` of a scenario."""


def _register(name: str, options: type[BuiltInOptions]) -> None:
    """Let a built-in source be made by its name and its options' keys."""

    @workload_sources.register(name)
    def make(**keys: Any) -> WorkloadSource:
        return options.model_validate(keys).source()


_register("synthetic", SyntheticOptions)
_register("lss_jsonl", LssJsonlOptions)
_register("csv", CsvOptions)
_register("mooncake", MooncakeOptions)
_register("claude_code", ClaudeCodeOptions)
