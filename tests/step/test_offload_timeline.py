"""The makespan of a step with loads: closed forms, bounds, and a second evaluation event by event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.step.offload.timeline import (
    Line,
    Lines,
    Module,
    Row,
    busiest_ns,
    issued_at_start,
    loaded_ahead,
    serial_ns,
)


def every_layer(layers: int, load_ns: int) -> list[Module]:
    """Return modules of all layers on one device."""
    return [Module(layer, (("host", load_ns),)) for layer in range(layers)]


@pytest.mark.parametrize(("layer", "load", "step"), [(100, 40, 1000), (40, 100, 1000), (70, 70, 700)])
def test_double_buffering_takes_the_longer_of_computing_and_loading(layer: int, load: int, step: int) -> None:
    """Two buffers, every layer elsewhere: loads of one step run into the next."""
    assert loaded_ahead(0, 0, 10, every_layer(10, load), 2, layer).at(layer) == step


def test_one_buffer_or_none_loads_between_layers() -> None:
    """With every layer elsewhere there is nothing to hide behind: all loads are waited for."""
    for buffers in (0, 1):
        hidden = 12 if buffers else 0  # behind what comes before the first and after the last layer
        assert loaded_ahead(5, 7, 10, every_layer(10, 40), buffers, 100).at(100) == 12 + 10 * 140 - hidden


def test_one_buffer_hides_loads_behind_the_layers_between() -> None:
    """One layer in four elsewhere: its load has three layers' time, as with vLLM's offload_group_size 4."""
    modules = [Module(layer, (("host", 290),)) for layer in (3, 7, 11)]
    assert loaded_ahead(0, 0, 12, modules, 1, 100).at(100) == 1200
    late = [Module(layer, (("host", 350),)) for layer in (3, 7, 11)]
    assert loaded_ahead(0, 0, 12, late, 1, 100).at(100) == 3 * (350 + 100)


def test_a_module_at_the_end_is_waited_for_there() -> None:
    """An LM head that lies elsewhere is module number ``num_layers``."""
    assert loaded_ahead(10, 20, 2, [Module(2, (("host", 500),))], 0, 100).at(100) == 10 + 200 + 500 + 20


def test_two_devices_serve_at_the_same_time() -> None:
    """Layers that alternate between two devices load twice as fast, with buffers enough."""
    modules = [Module(layer, (("ab"[layer % 2], 100),)) for layer in range(10)]
    assert loaded_ahead(0, 0, 10, modules, 4, 10).at(10) == pytest.approx(500, rel=0.05)


@st.composite
def steps(draw: st.DrawFn) -> tuple[int, int, int, list[Module], int, int]:
    """Draw a step: start, end, layers, modules, buffers, a layer's time."""
    layers = draw(st.integers(1, 9))
    chosen = draw(st.sets(st.integers(0, layers)))
    loads = st.dictionaries(st.sampled_from("abc"), st.integers(0, 300), min_size=1)
    modules = [Module(layer, tuple(sorted(draw(loads).items()))) for layer in sorted(chosen)]
    times = st.integers(0, 200)
    return draw(times), draw(times), layers, modules, draw(st.integers(0, 5)), draw(times)


@given(steps())
def test_never_faster_than_either_nor_slower_than_both_in_turn(
    step: tuple[int, int, int, list[Module], int, int],
) -> None:
    """Computing alone, and the busiest device, are lower bounds; one after the other is the upper one."""
    start, end, layers, modules, buffers, layer_ns = step
    length = loaded_ahead(start, end, layers, modules, buffers, layer_ns).at(layer_ns)
    alone = start + end + layers * layer_ns
    assert max(alone, busiest_ns(modules)) <= length <= alone + serial_ns(modules)


@given(steps())
def test_more_buffers_and_faster_layers_never_take_longer(step: tuple[int, int, int, list[Module], int, int]) -> None:
    """Another buffer only lets loads begin earlier."""
    start, end, layers, modules, buffers, layer_ns = step
    first = loaded_ahead(start, end, layers, modules, buffers, layer_ns).at(layer_ns)
    assert loaded_ahead(start, end, layers, modules, buffers + 1, layer_ns).at(layer_ns) <= first
    assert loaded_ahead(start, end, layers, modules, buffers, layer_ns + 1).at(layer_ns + 1) >= first


def in_a_row(start: int, end: int, layers: int, modules: list[Module], buffers: int, layer_ns: int, count: int) -> int:
    """Return when the last of several equal steps ends, event by event, from a cold start."""
    at = {module.layer: module for module in modules}
    buffers = min(buffers, len(modules))
    free: dict[str, int] = {}
    ends: list[int] = []
    now = 0
    for _ in range(count):
        now += start
        for layer in range(layers + 1):
            module = at.get(layer)
            if module is not None:
                issued = now if not buffers else ends[-buffers] if len(ends) >= buffers else 0
                for device, load_ns in module.loads:
                    free[device] = max(free.get(device, 0), issued) + load_ns
                    now = max(now, free[device])
            now += end if layer == layers else layer_ns
            if module is not None:
                ends.append(now)
    return now


@given(steps())
def test_a_row_of_steps_event_by_event(step: tuple[int, int, int, list[Module], int, int]) -> None:
    """As many steps in a row as one likes, each load as early as can be: no more than the length, at least the bounds.

    With at most two buffers and one device the length is what a row of steps takes, but for loads that could begin
    before the last module computes.
    """
    start, end, layers, modules, buffers, layer_ns = step
    length = loaded_ahead(start, end, layers, modules, buffers, layer_ns).at(layer_ns)
    row = in_a_row(start, end, layers, modules, buffers, layer_ns, 80)
    mean = (row - in_a_row(start, end, layers, modules, buffers, layer_ns, 20)) / 60
    alone = start + end + layers * layer_ns
    slack = (serial_ns(modules) + alone) / 60
    assert max(alone, busiest_ns(modules)) - slack <= mean <= length + slack
    if buffers <= 1:
        assert mean == length


@pytest.mark.parametrize("layer_ns", [10, 70, 100, 400])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_two_buffers_are_exact_for_equal_groups(layer_ns: int, group: int) -> None:
    """The last layer of each group elsewhere: a row of steps takes the length, each."""
    modules = [Module(layer, (("host", 150),)) for layer in range(group - 1, 24, group)]
    length = loaded_ahead(20, 30, 24, modules, 2, layer_ns).at(layer_ns)
    row = [in_a_row(20, 30, 24, modules, 2, layer_ns, count) for count in (20, 80)]
    assert (row[1] - row[0]) / 60 == pytest.approx(length, abs=1)


@given(steps(), st.lists(st.integers(0, 400), min_size=1, max_size=30))
def test_lines_answer_as_the_evaluation_does(
    step: tuple[int, int, int, list[Module], int, int], asked: list[int]
) -> None:
    """In whatever order they are asked, and though most answers come from a line that was found before."""
    start, end, layers, modules, buffers, _ = step

    def find(layer_ns: float) -> Line:
        return loaded_ahead(start, end, layers, modules, buffers, layer_ns)

    lines = Lines(find)
    for layer_ns in asked:
        assert lines.at(layer_ns) == pytest.approx(find(layer_ns).at(layer_ns), abs=0.01)


def test_lines_are_found_once() -> None:
    """Many layer times in one range need few evaluations."""
    calls: list[float] = []

    def find(layer_ns: float) -> Line:
        calls.append(layer_ns)
        return loaded_ahead(10, 10, 32, every_layer(32, 1000), 2, layer_ns)

    lines = Lines(find)
    for layer_ns in [1.0, 5000.0, *range(1, 500), *range(1500, 4000)]:
        lines.at(layer_ns)
    assert len(calls) < 20


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Draw the operators of a step."""
    load = st.none() | st.tuples(st.sampled_from("ab"), st.integers(1, 300))
    kind = st.builds(Row, st.integers(0, 50), st.booleans(), load)
    return [row if not row.counts else row._replace(fixed_ns=0) for row in draw(st.lists(kind, max_size=20))]


@given(rows(), st.integers(0, 60), st.booleans())
def test_loads_at_the_start_against_operator_by_operator(chain: list[Row], layer_ns: int, queued: bool) -> None:
    """The longest of the lines is when the last operator of the chain ends."""
    now, free = 0, dict.fromkeys("ab", 0)
    for row in chain:
        if row.load is not None:
            device, load_ns = row.load
            ready = load_ns + (free[device] if queued else 0)
            free[device] = ready
            now = max(now, ready)
        now += layer_ns if row.counts else row.fixed_ns
    lines = issued_at_start(chain, lambda _: queued)
    assert max(line.at(layer_ns) for line in lines) == now
