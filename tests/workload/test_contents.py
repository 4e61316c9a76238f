"""Block keys: equal if and only if everything up to the block's end is equal."""

from __future__ import annotations

from array import array
from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servetwin.workload.base import Contents, DistinctContents
from servetwin.workload.contents import SegmentContents, TokenContents

BLOCK_SIZES = (1, 2, 3, 5)

token_lists = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=1, max_size=6)


def assert_keys_mean_prefixes(contents: Contents, sequences: list[list[object]]) -> None:
    """Compare keys with the sequences themselves, for all pairs of blocks of all requests."""
    for block_size in BLOCK_SIZES:
        prefixes = [
            (key, tuple(sequence[: (block + 1) * block_size]))
            for row, sequence in enumerate(sequences)
            for block, key in enumerate(contents.block_keys(row, block_size))
        ]
        assert len(prefixes) == sum(len(sequence) // block_size for sequence in sequences)
        for (key, prefix), (other_key, other_prefix) in product(prefixes, prefixes):
            assert (key == other_key) == (prefix == other_prefix)


@given(token_lists)
def test_token_keys_mean_prefixes(sequences: list[list[int]]) -> None:
    """Keys of known tokens are equal if and only if the prefixes are."""
    lengths = np.array([len(sequence) for sequence in sequences])
    contents = TokenContents([array("i", sequence) for sequence in sequences], lengths)
    assert_keys_mean_prefixes(contents, [list(sequence) for sequence in sequences])


@given(token_lists, st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_unknown_tokens_are_like_no_others(sequences: list[list[int]], unknown: list[int]) -> None:
    """Blocks that reach beyond the known tokens share with nothing, also where nothing is known."""
    known = [array("i", sequence[: len(sequence) - cut]) for sequence, cut in zip(sequences, unknown, strict=False)]
    contents = TokenContents(known, np.array([len(sequence) for sequence in sequences]))
    tokens: list[list[object]] = [
        [*ids, *((row, place) for place in range(len(ids), len(sequence)))]
        for row, (ids, sequence) in enumerate(zip(known, sequences, strict=True))
    ]
    assert_keys_mean_prefixes(contents, tokens)


segment_trees = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=4), min_size=1, max_size=5
)


@given(segment_trees)
def test_segment_keys_mean_prefixes(requests: list[list[tuple[int, int]]]) -> None:
    """Keys of segments are equal if and only if the chains are, and so are the tokens made up for a file."""
    chain_ids: dict[tuple[tuple[int, int], ...], int] = {}
    chain, end, first, count = [], [], [], []
    sequences: list[list[object]] = []
    for segments in requests:
        first.append(len(chain))
        count.append(len(segments))
        tokens: list[object] = []
        for depth, (_, length) in enumerate(segments):
            number = chain_ids.setdefault(tuple(segments[: depth + 1]), len(chain_ids))
            tokens += [(number, place) for place in range(length)]
            chain.append(number)
            end.append(len(tokens))
        sequences.append(tokens)
    contents = SegmentContents(*(np.array(column, dtype=np.int64) for column in (chain, end, first, count)))
    assert_keys_mean_prefixes(contents, sequences)
    made_up = [list(contents.token_ids(row)) for row in range(len(sequences))]
    assert [len(tokens) for tokens in made_up] == [len(tokens) for tokens in sequences]
    assert_keys_mean_prefixes(contents, [list(tokens) for tokens in made_up])


def test_distinct_contents_share_nothing() -> None:
    """No key occurs twice among requests that share nothing."""
    contents = DistinctContents(np.array([33, 33, 16]))
    keys = [key for row in range(3) for key in contents.block_keys(row, 16)]
    assert len(keys) == len(set(keys)) == 2 + 2 + 1


def test_keys_do_not_depend_on_the_order_of_asking() -> None:
    """Asking for the second request first shows the same sharing."""
    tokens = [array("i", [1, 2, 3, 4]), array("i", [1, 2, 9, 9])]
    contents = TokenContents(tokens, np.array([4, 4]))
    second, first = contents.block_keys(1, 2), contents.block_keys(0, 2)
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert contents.block_keys(1, 2) == second
