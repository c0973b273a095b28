"""The recursion: what one step does, and where many lead."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icl_plugins.errors import NonFiniteError
from icl_plugins.thinking.recursion import Memory

STEPS = st.floats(0, 1)


def layers(seed, count=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 2, 5, 3)
    make = lambda: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return [(make(), make()) for _ in range(count)]


def test_the_first_step_moves_by_the_gradient_alone():
    first, present = layers(0), layers(1)
    memory = Memory.of(first)
    norms = memory.advance(present, step_size=0.1, momentum=0.9)
    for at, (before, now) in enumerate(zip(first, present, strict=True)):
        for part in range(2):
            gradient = now[part] - before[part]
            torch.testing.assert_close(memory.velocity[at][part], gradient)
            torch.testing.assert_close(memory.history[at][part], before[part] + 0.1 * gradient)
            assert norms[at, part] == pytest.approx(float(gradient.norm()))


@given(STEPS, STEPS, st.integers(1, 8))
def test_many_steps_are_the_recursion_written_out(step_size, momentum, steps):
    """Present tensors change from step to step, as the model makes them do."""
    first = layers(0, 1)
    memory, history = Memory.of(first), first[0][0].clone()
    velocity = torch.zeros_like(history)
    for step in range(steps):
        present = layers(step + 1, 1)
        velocity = present[0][0] - history + momentum * velocity
        history = history + step_size * velocity
        memory.advance(present, step_size, momentum)
    torch.testing.assert_close(memory.history[0][0], history)


@given(STEPS, STEPS, st.integers(1, 12))
def test_a_constant_reading_is_approached_as_a_heavy_ball_does(step_size, momentum, steps):
    """The displacement is one number times (present - first): methods page A1."""
    first, present = layers(0, 1), layers(1, 1)
    memory, way, speed = Memory.of(first), 0.0, 0.0
    for _ in range(steps):
        memory.advance(present, step_size, momentum)
        speed = (1 - way) + momentum * speed
        way += step_size * speed
    expected = first[0][1] + way * (present[0][1] - first[0][1])
    torch.testing.assert_close(memory.history[0][1], expected, rtol=1e-9, atol=1e-9)


def test_the_first_reading_is_not_changed():
    first = layers(0)
    kept = [keys.clone() for keys, _ in first]
    Memory.of(first).advance(layers(1), 0.5, 0.9)
    assert all(torch.equal(keys, before) for (keys, _), before in zip(first, kept, strict=True))


def test_half_precision_is_moved_in_float32():
    memory = Memory.of(layers(0, dtype=torch.bfloat16))
    before = memory.history[0][0].clone()
    memory.advance(layers(1, dtype=torch.bfloat16), 1e-4, 0.0)
    assert memory.history[0][0].dtype == torch.float32
    assert (memory.history[0][0] != before).all()  # steps that bfloat16 would round away


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_reading_that_is_not_finite_is_refused_by_its_layer(wrong):
    present = layers(1)
    present[1][0][0, 0, 0, 0] = wrong
    with pytest.raises(NonFiniteError, match="layer 1"):
        Memory.of(layers(0)).advance(present, 0.1, 0.9)


def test_a_step_that_overflows_is_refused():
    first, present = layers(0), layers(1)
    present[0][0].mul_(1e200)
    with np.errstate(over="ignore"), pytest.raises(NonFiniteError, match="layer 0"):
        Memory.of([(k.float(), v.float()) for k, v in first]).advance(present, 1.0, 0.9)
