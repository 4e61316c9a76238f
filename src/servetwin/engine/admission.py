"""Requests that an instance can never serve are rejected when they arrive, with the reason."""

from __future__ import annotations

from servetwin.engine.base import EngineSettings


def rejection_reason(settings: EngineSettings, prompt_tokens: int, output_tokens: int) -> str | None:
    """Return why a request can never be served, or None.

    vLLM refuses a request whose prompt and ``max_tokens`` exceed ``max_model_len``, and does not start when one
    sequence of ``max_model_len`` has no room in the KV cache; here the room is checked request by request.
    """
    total = prompt_tokens + output_tokens
    if total > settings.max_model_len:
        return f"prompt + output is {total} tokens, max_model_len is {settings.max_model_len}"
    blocks = -(-(total - 1) // settings.block_size)
    if blocks > settings.num_blocks:
        return f"needs {blocks} KV blocks, the instance has {settings.num_blocks}"
    return None
