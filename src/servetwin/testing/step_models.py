"""Conformance of step models: what built-in and third-party models must have in common. Needs pytest and Hypothesis."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servetwin.step.base import StepModel, StepModelBase, StepShape


def decode_shapes(max_decodes: int = 256, max_context: int = 8192) -> st.SearchStrategy[StepShape]:
    """Return a strategy of steps that only decode; contexts lie between the shape's extremes."""

    @st.composite
    def draw_shape(draw: st.DrawFn) -> StepShape:
        n = draw(st.integers(1, max_decodes))
        low = draw(st.integers(1, max_context))
        high = draw(st.integers(low, max_context)) if n > 1 else low
        kv_tokens = low + high + (n - 2) * draw(st.integers(low, high)) if n > 1 else low
        return StepShape(n, kv_tokens, (), high, low)

    return draw_shape()


def step_shapes(max_tokens: int = 2048, max_context: int = 8192) -> st.SearchStrategy[StepShape]:
    """Return a strategy of steps with at least one token: decodes, prefill chunks, or both."""
    chunk = st.tuples(st.integers(1, max_tokens // 4), st.integers(0, max_context))
    chunks = st.lists(chunk, min_size=1, max_size=3).map(tuple)
    beside = st.builds(
        lambda shape, prefills: StepShape(
            shape.num_decodes, shape.decode_kv_tokens, prefills, shape.decode_kv_max, shape.decode_kv_min
        ),
        st.one_of(st.just(StepShape(0, 0)), decode_shapes(max_context=max_context)),
        chunks,
    )
    return st.one_of(decode_shapes(max_context=max_context), beside)


def step_by_step_ns(model: StepModel, shape: StepShape, max_steps: int, limit_ns: int) -> list[int]:
    """Return what ``decode_run_ns`` must return: one call of ``duration_ns`` per step."""
    return list(StepModelBase.decode_run_ns(model, shape, max_steps, limit_ns))  # type: ignore[arg-type]


# Every class that inherits the tests calls them on its own model; nothing is shared but Hypothesis's own examples.
_inherited = settings(suppress_health_check=[HealthCheck.differing_executors])


class StepModelConformance:
    """Inherit from this, give ``make``, and pytest runs the tests."""

    def make(self) -> StepModel:
        """Return the model under test."""
        raise NotImplementedError

    @_inherited
    @given(shape=step_shapes())
    def test_durations_are_whole_positive_and_repeatable(self, shape: StepShape) -> None:
        """A duration is a whole number of at least 1 ns, and the same for the same shape."""
        model = self.make()
        duration = model.duration_ns(shape)
        assert type(duration) is int
        assert duration >= 1
        assert model.duration_ns(shape) == duration

    @_inherited
    @given(shape=step_shapes())
    def test_the_breakdown_adds_up(self, shape: StepShape) -> None:
        """No part is negative, and the parts add up to the duration but for its rounding."""
        model = self.make()
        parts = model.breakdown_ns(shape)
        assert all(part >= 0 for part in parts.values())
        assert abs(max(1.0, sum(parts.values())) - model.duration_ns(shape)) <= 1

    @_inherited
    @given(shape=decode_shapes(), max_steps=st.integers(1, 200), limit_ns=st.integers(1, 4 * 10**9))
    def test_a_run_equals_single_steps(self, shape: StepShape, max_steps: int, limit_ns: int) -> None:
        """A run of decode steps has the durations of single steps, to the nanosecond, and ends where they end."""
        model = self.make()
        run = list(model.decode_run_ns(shape, max_steps, limit_ns))
        assert run == step_by_step_ns(model, shape, max_steps, limit_ns)
        assert all(type(duration) is int for duration in run)
