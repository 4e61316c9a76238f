"""What a device's profile consists of: the grid, the work in a point, and the statistics of samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.calibrate.device_profile import OPERATORS, Point, device_points, point_work
from servetwin.calibrate.device_profile.grid import CPU_MAX_FLOPS
from servetwin.calibrate.device_profile.sampling import Plan, statistics_of, take_samples
from servetwin.core.errors import InputError


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
@pytest.mark.parametrize("quick", [True, False])
def test_a_grid_has_no_point_twice(device_type: str, quick: bool) -> None:
    """Each point stands once, with a value for each of its keys; the quick grid is a small one."""
    points = device_points(device_type, quick=quick)
    assert len(points) == len(set(points))
    assert all(len(point.keys) == len(OPERATORS[point.operator]) for point in points)
    assert (30 < len(points) < 80) if quick else (200 < len(points) < 2_000)


def test_all_operators_are_measured_on_a_gpu() -> None:
    """A GPU's profile covers every operator, in bf16 and (products) fp8."""
    points = device_points("cuda")
    assert {point.operator for point in points} == set(OPERATORS)
    assert {point.word("format") for point in points if point.operator == "gemm"} == {"bf16", "fp8"}
    assert {point.word("mode") for point in points if point.operator == "launch"} == {"eager", "graph_replay"}


def test_a_cpu_gets_what_it_can_do() -> None:
    """No graphs, no power, no copies to itself, no huge products on a CPU."""
    points = device_points("cpu")
    assert "power" not in {point.operator for point in points}
    assert {point.word("direction") for point in points if point.operator == "copy"} == {"device_to_device"}
    assert max(point_work(point).flops for point in points) <= CPU_MAX_FLOPS


@pytest.mark.parametrize(
    ("device_type", "choice", "message"),
    [
        ("cuda", {"formats": ["bf61"]}, "unknown format 'bf61'; did you mean 'bf16'"),
        ("cuda", {"operators": ["gem"]}, "unknown operator 'gem'; did you mean 'gemm'"),
        ("cpu", {"formats": ["fp8"]}, "format fp8 is not measured with these operators on a cpu"),
        ("cpu", {"operators": ["power"]}, "none of these operators can be measured on a cpu"),
    ],
)
def test_a_choice_that_cannot_be(device_type: str, choice: dict[str, list[str]], message: str) -> None:
    """An unknown or impossible format or operator is said, never skipped in silence."""
    with pytest.raises(InputError, match=message):
        device_points(device_type, **choice)


def test_the_order_and_the_choice_are_kept() -> None:
    """Only what was asked for is measured, once, in the order asked."""
    points = device_points("cuda", formats=["fp16", "fp16"], operators=["copy", "gemm"], quick=True)
    assert list(dict.fromkeys(point.operator for point in points)) == ["copy", "gemm"]
    assert {point.word("format") for point in points if point.operator == "gemm"} == {"fp16"}


def test_work_by_hand() -> None:
    """FLOPs and bytes of each operator, counted by hand for small sizes."""
    assert point_work(Point("gemm", ("bf16", 2, 3, 5))) == (60, (10 + 15 + 6) * 2)
    assert point_work(Point("gemm", ("fp8", 2, 3, 5))) == (60, 10 + 15 + 6 * 2)
    assert point_work(Point("grouped_gemm", ("bf16", 4, 2, 3, 5))) == (240, 4 * 62)
    # 3 tokens on 10 see 11, 12 and 13 others: 36 pairs; each is two products of the head's size.
    assert point_work(Point("attention_prefill", ("bf16", 4, 2, 8, 3, 10))) == (
        4 * 36 * 4 * 8,
        (2 * 3 * 4 * 8 + 2 * 13 * 2 * 8) * 2,
    )
    assert point_work(Point("attention_decode", ("fp16", 4, 2, 8, 3, 10))) == (
        4 * 30 * 4 * 8,
        (2 * 3 * 4 * 8 + 2 * 30 * 2 * 8) * 2,
    )
    assert point_work(Point("rms_norm", ("fp32", 2, 8))).num_bytes == 2 * 16 * 4
    assert point_work(Point("silu_and_mul", ("bf16", 2, 8))).num_bytes == 3 * 16 * 2
    assert point_work(Point("copy", ("device_to_device", 100))).num_bytes == 200
    assert point_work(Point("copy", ("host_to_device", 100))).num_bytes == 100
    assert point_work(Point("launch", ("eager", 100))) == (0, 0)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_statistics_lie_within_the_samples(samples: list[float]) -> None:
    """The percentiles are ordered and lie within the samples; the order of the samples does not matter."""
    found = statistics_of(samples)
    assert min(samples) <= found.p10 <= found.median <= found.p90 <= max(samples)
    assert found == statistics_of(samples[::-1])
    assert found.samples == len(samples)


def test_statistics_by_hand() -> None:
    """Quantiles are linear between neighbours."""
    found = statistics_of([4.0, 1.0, 2.0, 3.0])
    assert (found.median, found.p10, found.p90) == (2.5, pytest.approx(1.3), pytest.approx(3.7))


@pytest.mark.parametrize(
    ("each_s", "runs"),
    [
        (1e-4, 2 + 8),  # ten milliseconds are reached only after more samples than are allowed
        (4e-3, 2 + 3),
        (1.0, 2 + 3),  # the most is not reached yet after two
        (2.0, 2 + 2),
    ],
)
def test_when_sampling_stops(each_s: float, runs: int) -> None:
    """Warm-up, then enough samples for long enough, but neither too many nor for too long."""
    plan = Plan(warm_up_runs=2, warm_up_s=0.0, min_samples=3, min_s=0.01, max_samples=8, max_s=3.5)
    calls: list[float] = []

    def run_s() -> float:
        calls.append(each_s)
        return each_s

    samples = take_samples(run_s, plan)
    assert (len(samples), len(calls)) == (runs - 2, runs)
