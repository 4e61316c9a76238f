"""Measured popularities and recorded routings: reading, replaying, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.step.experts.capacity import Capacity
from servetwin.step.experts.eplb import Eplb
from servetwin.step.experts.placements import linear
from servetwin.step.experts.popular import popularity, uniform
from servetwin.step.experts.popularity import read_popularity
from servetwin.step.experts.trace import TraceRouting
from servetwin.step.experts.trace_file import read_trace

EVEN = "layer,expert,share\n" + "".join(f"{layer},{e},0.25\n" for layer in range(2) for e in range(4))


def write(folder: Path, text: str, name: str = "file.csv") -> Path:
    """Write a file."""
    path = folder / name
    path.write_text(text)
    return path


def test_popularity_file_is_read(tmp_path: Path) -> None:
    """Even shares give even pairs; layer 0 alone holds for all layers; the file lies beside the scenario."""
    write(tmp_path, EVEN)
    shape = {"num_experts": 4, "top_k": 2, "placement": linear(4, 2), "seed": 1, "slowest_rank": False}
    routing = popularity(num_layers=2, path="file.csv", folder=tmp_path, **shape)  # type: ignore[arg-type]
    ((layers, load),) = routing.loads(10, 0, 2, 0)
    assert (layers, load.pairs.tolist()) == (2, [10.0, 10.0])
    write(tmp_path, "layer,expert,share\n0,0,0.5\n0,1,0.3\n0,3,0.2\n")
    routing = popularity(num_layers=7, path="file.csv", folder=tmp_path, **shape)  # type: ignore[arg-type]
    ((layers, load),) = routing.loads(10, 0, 7, 0)
    np.testing.assert_allclose(load.pairs, [16.0, 4.0])
    assert layers == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,expert,part\n", "unknown column 'part'"),
        ("layer,share,expert\n", "the first line must be layer,expert,share"),
        (EVEN.replace("1,3,0.25", "1,3,0.2"), "layer 1 sum to 0.95; they must sum to 1"),
        (EVEN.replace("1,3,0.25", "1,4,0.25"), r":9: expert is 4, but this model has experts 0 to 3"),
        (EVEN.replace("1,3,0.25", "2,3,0.25"), r":9: layer is 2, but this model has layers 0 to 1"),
        (EVEN.replace("1,3,0.25", "1,2,0.25"), "layer 1, expert 2 stands twice"),
        (EVEN.replace("1,3,0.25", "1,3,nan"), "share is 'nan'; allowed: numbers of 0 to 1"),
        (EVEN.replace("1,3,0.25", "1,-3,0.25"), "expert is '-3'; allowed: whole numbers"),
        (EVEN.replace("1,3,0.25", "1,3"), "has 2 values, but there are 3 columns"),
        ("layer,expert,share\n1,0,1.0\n", "has 1 of 2 layers with experts; layer 0 is missing"),
        ("layer,expert,share\n0,0,0.7\n0,1,0.3\n", "expert 0 of layer 0 has a share of 0.7 .* 1/2 = 0.5"),
    ],
)
def test_wrong_popularity_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """One error each, with the place and the numbers."""
    with pytest.raises(InputError, match=message):
        read_popularity(write(tmp_path, text), 2, 4, 2)


@given(text=st.text(alphabet='layer,xpts0123456789.-\n"e', max_size=80))
def test_any_popularity_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """No text does anything but give chances or an error that is meant for users."""
    path = write(tmp_path_factory.getbasetemp(), "layer,expert,share\n" + text)
    try:
        chances = read_popularity(path, 2, 4, 2)
    except InputError:
        return
    np.testing.assert_allclose(chances.sum(axis=1), 2.0)


def npz(folder: Path, experts: list[list[list[int]]], step: list[int] | None = None) -> Path:
    """Write a trace."""
    arrays = {"experts": np.array(experts)} | ({} if step is None else {"step": np.array(step)})
    np.savez(folder / "trace.npz", **arrays)  # type: ignore[arg-type]
    return folder / "trace.npz"


def test_csv_and_npz_traces_are_the_same(tmp_path: Path) -> None:
    """Both formats give the same experts and steps."""
    rows = "5,0,0,0,1\n5,0,1,2,3\n5,1,0,1,2\n5,1,1,3,0\n6,0,0,2,3\n6,0,1,0,1\n"
    one = read_trace(write(tmp_path, "step,token,layer,expert_0,expert_1\n" + rows), 2, 4, 2)
    other = read_trace(npz(tmp_path, [[[0, 1], [2, 3]], [[1, 2], [3, 0]], [[2, 3], [0, 1]]], [5, 5, 6]), 2, 4, 2)
    np.testing.assert_array_equal(one.experts, other.experts)
    assert one.first_token.tolist() == other.first_token.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ((3, 4, 2), "the trace has 2 layers with 2 experts per token, this model 3 with 2: it is of another model"),
        ((2, 4, 1), "2 layers with 2 experts per token, this model 2 with 1"),
        ((2, 3, 2), "the trace names experts 0 to 3, this model has 0 to 2"),
    ],
)
def test_traces_of_other_models_are_refused(tmp_path: Path, model: tuple[int, int, int], message: str) -> None:
    """The error has the numbers of both."""
    with pytest.raises(InputError, match=message):
        read_trace(npz(tmp_path, [[[0, 1], [2, 3]]]), *model)


def test_broken_traces_are_refused(tmp_path: Path) -> None:
    """Steps that fall, experts taken twice, files that are none, rows out of order."""
    with pytest.raises(InputError, match="never fall"):
        read_trace(npz(tmp_path, [[[0, 1]], [[0, 1]]], [2, 1]), 1, 4, 2)
    with pytest.raises(InputError, match="token 0 takes an expert twice in layer 0"):
        read_trace(npz(tmp_path, [[[1, 1]]]), 1, 4, 2)
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(write(tmp_path, "no archive", "x.npz"), 1, 4, 2)
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(tmp_path / "absent.csv", 1, 4, 2)
    with pytest.raises(InputError, match=":2: layer 1 comes where layer 0 of 2 should"):
        read_trace(write(tmp_path, "step,token,layer,expert_0,expert_1\n0,0,1,0,1\n"), 2, 4, 2)
    with pytest.raises(InputError, match="has 1 rows, no multiple of the model's 2 layers"):
        read_trace(write(tmp_path, "step,token,layer,expert_0,expert_1\n0,0,0,0,1\n"), 2, 4, 2)


def test_a_trace_is_replayed_step_by_step(tmp_path: Path) -> None:
    """Step n takes the tokens from recorded step n on, and begins anew at the end."""
    path = npz(tmp_path, [[[0, 1]], [[0, 1]], [[2, 3]]], [0, 0, 1])
    routing = TraceRouting(4, 2, 1, linear(4, 2), seed=1, path=path)
    assert routing.loads(2, 0, 1, 0)[0].load.pairs.tolist() == [4, 0]
    assert routing.loads(2, 0, 1, 1)[0].load.pairs.tolist() == [2, 2]
    assert routing.loads(1, 0, 1, 1)[0].load.pairs.tolist() == [0, 2]
    assert routing.loads(3, 0, 1, 2 + (5 << 40))[0].load.tokens.tolist() == [2, 1]


def test_rebalancing_lags_what_a_trace_does(tmp_path: Path) -> None:
    """Experts lie by what was popular before the last rebalancing, even where others are by now.

    First all tokens take experts 0 and 1, which lie together until step 10; from step 40 on 0 and 2, which then lie
    together until step 50.
    """
    path = npz(tmp_path, [[[0, 1]]] * 40 + [[[0, 2]]] * 40, list(range(80)))
    placement = Eplb(4, 2, window_size=20, step_interval=40)
    routing = TraceRouting(4, 2, 1, placement, seed=1, path=path)
    busiest = [routing.loads(1, 0, 1, step)[0].load.pairs.max() for step in (0, 9, 10, 39, 40, 49, 50, 79, 9)]
    assert busiest == [2, 2, 1, 1, 2, 2, 1, 1, 2]
    moves = routing.rebalances(60)
    assert [move.step for move in moves] == [10, 50]
    assert moves[0].received.tolist() == [1, 1]
    assert moves[0].moved_bytes(1e6) == 2e6
    assert TraceRouting(4, 2, 1, linear(4, 2), seed=1, path=path).rebalances(60) == []


def test_impossible_options_are_refused() -> None:
    """Top-k beyond the experts, another model's placement, correlation, capacity, layers that are not there."""
    with pytest.raises(InputError, match="a token takes 5 of 4 experts"):
        uniform(4, 5, 1, linear(4, 2), seed=1)
    with pytest.raises(InputError, match="the placement is of 8 experts, the model has 4"):
        uniform(4, 2, 1, linear(8, 2), seed=1)
    with pytest.raises(InputError, match="allowed: 0 to 1"):
        uniform(4, 2, 1, linear(4, 2), seed=1, correlation=1.5)
    with pytest.raises(InputError, match="a capacity that is filled needs a factor"):
        Capacity(fill=True)
    with pytest.raises(InputError, match="factor is 0"):
        Capacity(factor=0)
    with pytest.raises(InputError, match="the model has 2 layers with experts"):
        uniform(4, 2, 2, linear(4, 2), seed=1).loads(1, 1, 2, 0)
