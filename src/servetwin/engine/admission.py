"""Requests that an instance can never serve are rejected when they arrive, with the reason."""

from __future__ import annotations

from servetwin.engine.base import EngineSettings


def longest_request(settings: EngineSettings) -> int:
    """Return the most prompt + output tokens that an instance can ever serve.

    vLLM refuses a request whose prompt and ``max_tokens`` exceed ``max_model_len``, and does not start when one
    sequence of ``max_model_len`` has no room in the KV cache; here the room is checked request by request. The last
    output token needs none: its KV is never computed.
    """
    return min(settings.max_model_len, settings.num_blocks * settings.block_size + 1)


def rejection_reason(settings: EngineSettings, prompt_tokens: int, output_tokens: int) -> str:
    """Return why a request that is longer than `longest_request` is rejected."""
    total = prompt_tokens + output_tokens
    if total > settings.max_model_len:
        return f"prompt + output is {total} tokens, max_model_len is {settings.max_model_len}"
    blocks = -(-(total - 1) // settings.block_size)
    return f"needs {blocks} KV blocks, the instance has {settings.num_blocks}"
