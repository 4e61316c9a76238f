"""Keys of traces with coarse hashes: equal if and only if the ids up to the block's last token are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.workload.base import DistinctContents, Workload
from servetwin.workload.coarse import CoarseContents, KeyRuns, answers_are_distinct, keys_of
from servetwin.workload.contents import SegmentContents
from servetwin.workload.id_tree import IdTree

CHUNK = 12
BLOCK_SIZES = (1, 3, 4, 5, 6, 12, 13, 24, 36)


def ids_of(walks: list[list[bool]]) -> list[list[int]]:
    """Return ids for walks down a binary tree, numbered as they are met: a chain's are consecutive, as in traces."""
    numbers: dict[tuple[bool, ...], int] = {}
    return [[numbers.setdefault(tuple(walk[: n + 1]), len(numbers)) for n in range(len(walk))] for walk in walks]


def contents_of(ids: list[list[int]], known: list[int], lengths: list[int]) -> CoarseContents:
    """Return the contents of prompts with these ids, as the readers make them."""
    tree = IdTree()
    for row, own in enumerate(ids):
        tree.add(np.array(own, dtype=np.int64), 0, f"line {row}")
    return tree.contents(CHUNK, np.arange(len(ids)), np.array(known), np.array(lengths))


requests = st.lists(
    st.tuples(st.lists(st.booleans(), max_size=6), st.integers(0, CHUNK - 1), st.integers(0, 30)),
    min_size=1,
    max_size=6,
)


@given(requests)
def test_a_block_shares_its_last_chunk_s_fate(requests: list[tuple[list[bool], int, int]]) -> None:
    """Two blocks have one key if and only if they have one place and the ids up to their last token are equal."""
    ids = ids_of([walk for walk, _, _ in requests])
    known = [len(own) * CHUNK for own in ids]
    lengths = [have + extra + 1 for have, (_, _, extra) in zip(known, requests, strict=True)]
    contents = contents_of(ids, known, lengths)
    for block_size in BLOCK_SIZES:
        meaning: dict[int, object] = {}
        for row, own in enumerate(ids):
            keys = contents.block_keys(row, block_size)
            assert len(keys) == lengths[row] // block_size
            for block, key in enumerate(keys):
                end = (block + 1) * block_size
                through = own[: -(-end // CHUNK)] if end <= known[row] else row
                assert meaning.setdefault(key, (block, through)) == (block, through)
                assert 0 <= key < 2**62
        assert len(set(map(repr, meaning.values()))) == len(meaning)


@given(requests)
def test_equal_to_segments(requests: list[tuple[list[bool], int, int]]) -> None:
    """Ids are chains of segments of one chunk each: both ways of saying it share the same blocks."""
    ids = ids_of([walk for walk, _, _ in requests])
    known = [len(own) * CHUNK for own in ids]
    coarse = contents_of(ids, known, [have + 1 for have in known])
    rows = np.cumsum([0, *map(len, ids)])
    chain = np.array([number for own in ids for number in own], dtype=np.int64)
    end = np.array([(place + 1) * CHUNK for own in ids for place in range(len(own))], dtype=np.int64)
    segments = SegmentContents(chain, end, rows[:-1], np.diff(rows))
    for block_size in BLOCK_SIZES:
        translation: dict[int, int] = {}
        for row in range(len(ids)):
            blocks = known[row] // block_size
            pairs = zip(coarse.block_keys(row, block_size)[:blocks], segments.block_keys(row, block_size), strict=True)
            assert all(translation.setdefault(one, other) == other for one, other in pairs)
        assert len(set(translation.values())) == len(translation)


@given(st.lists(st.builds(range, st.integers(0, 20), st.integers(0, 20), st.integers(1, 3)), max_size=6), st.data())
def test_runs_are_a_sequence(ranges: list[range], data: st.DataObject) -> None:
    """Runs of keys behave as the list of their keys."""
    runs, plain = KeyRuns(ranges), [key for part in ranges for key in part]
    assert (list(runs), len(runs), list(reversed(runs))) == (plain, len(plain), plain[::-1])
    first, behind = data.draw(st.integers(-30, 30)), data.draw(st.integers(-30, 30))
    assert list(runs[first:behind]) == plain[first:behind]
    for index in (first, behind):
        if -len(plain) <= index < len(plain):
            assert runs[index] == plain[index]
        else:
            with pytest.raises(IndexError):
                runs[index]


def test_keys_come_as_runs_where_they_are_known_as_runs() -> None:
    """`keys_of` gives few runs for coarse ids, and the list for others."""
    contents = contents_of([list(range(100))], [1200], [1212])
    keys = keys_of(contents, 0, 4)
    assert isinstance(keys, KeyRuns)
    assert len(keys.runs) == 2
    assert list(keys) == contents.block_keys(0, 4)


def test_answers_are_distinct_where_ids_end_with_the_prompt() -> None:
    """Ids that cover no more than prompts leave answers to their own requests; contents that cannot say so may not."""
    zero, prompt, output = (np.full(2, value) for value in (0, 12, 5))
    workload = Workload(zero, prompt, output, contents=contents_of([[1, 2], [1, 3]], [12, 12], [17, 17]))
    assert answers_are_distinct(workload)
    workload.contents = contents_of([[1, 2], [1, 2]], [12, 13], [17, 17])
    assert not answers_are_distinct(workload)
    workload.contents = DistinctContents(prompt + output)
    assert not answers_are_distinct(workload)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2, 3], [1, 3]], "line 1: hash_ids has id 3 behind id 1, elsewhere it stands behind id 2"),
        ([[1, 3], [1, 2, 3]], "line 0: hash_ids has id 3 behind id 1, elsewhere it stands behind id 2"),
        ([[5, 9], [6, 9]], "line 1: hash_ids has id 9 behind id 6, elsewhere it stands behind id 5"),
        ([[4, 5], [5]], "line 1: hash_ids has id 5 behind the start, elsewhere it stands behind id 4"),
        ([[4, 4]], "line 0: hash_ids has id 4 behind id 4, elsewhere it stands behind the start"),
    ],
)
def test_an_id_has_one_predecessor(ids: list[list[int]], message: str) -> None:
    """An id that follows two others cannot stand for all before it; the error says where that is."""
    with pytest.raises(InputError, match=message):
        contents_of(ids, [0] * len(ids), [1] * len(ids))


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=5))
def test_every_wrong_tree_is_found(ids: list[list[int]]) -> None:
    """Ids are refused if and only if one of them has two predecessors."""
    before: dict[int, set[int]] = {}
    for own in ids:
        for one, other in zip([-1, *own], own, strict=False):
            before.setdefault(other, set()).add(one)
    is_tree = all(len(known) == 1 for known in before.values())
    try:
        contents_of(ids, [0] * len(ids), [1] * len(ids))
    except InputError:
        assert not is_tree
    else:
        assert is_tree
