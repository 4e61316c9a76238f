"""Requests that go round a fixed, shuffled set of prompts (inference-perf's ``shared_prefix``)."""

from __future__ import annotations

import numpy as np

from servetwin.core.random import stream
from servetwin.workload.base import Workload
from servetwin.workload.contents import SegmentContents
from servetwin.workload.prefixes import SharedPrefixOptions


def go_round(items: Workload, options: SharedPrefixOptions, seed: int) -> Workload:
    """Give each of ``items`` the next prompt of the set; answers are all different."""
    groups, size = options.num_groups, options.num_groups * options.num_prompts_per_group
    system = options.system_prompt_len.draw(groups, stream(seed, "workload", "system_prompt_len"))
    question = options.question_len.draw(size, stream(seed, "workload", "question_len"))
    answer = options.output_len.draw(size, stream(seed, "workload", "output_len"))
    n = len(items)
    prompt = np.resize(stream(seed, "workload", "shuffle").permutation(size), n)
    group = prompt // options.num_prompts_per_group
    items.prompt_tokens = system[group] + question[prompt]
    items.output_tokens = answer[prompt]
    chain = np.column_stack([group, groups + prompt, groups + size + np.arange(n)])
    end = np.column_stack([system[group], items.prompt_tokens, items.prompt_tokens + items.output_tokens])
    items.contents = SegmentContents(chain.ravel(), end.ravel(), 3 * np.arange(n), np.full(n, 3))
    return items
