"""Truncated BPTT of the sine wave: its three meanings by hand, through scan, and cut by the book."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.sources import sine_wave
from tinygrad_rnn.sources.record import relative_error


def unrolled(params, X, Y, detached):
    """A plain loop over ops; the state that enters a step of `detached` is cut off."""
    s = params["s0"]
    for t in range(X.shape[1]):
        s = tg.stop_gradient(s) if t in detached else s
        s = tg.sigmoid(params["U"][:, t : t + 1] * X[:, t, 0] + params["W"] @ s)
        yield t, 0.5 * tg.sum(tg.square(params["V"] @ s - Y(t).T))


def last(losses):
    return list(losses)[-1][1]


def windows(params, X, Y, k):
    """Scheme B by the book: for every t a graph of its own of k + 1 cells, of which the last one has the error."""
    starts, s = [params["s0"]], params["s0"]
    for t in range(X.shape[1]):
        s = tg.stop_gradient(tg.sigmoid(params["U"][:, t : t + 1] * X[:, t, 0] + params["W"] @ s))
        starts.append(s)
    total = 0.0
    for t in range(X.shape[1]):
        first = max(0, t - k)
        s = starts[first]
        for j in range(first, t + 1):
            s = tg.sigmoid(params["U"][:, j : j + 1] * X[:, j, 0] + params["W"] @ s)
        total = total + 0.5 * tg.sum(tg.square(params["V"] @ s - Y[:, t].T))
    return total


def truncated_case(seed):
    params, (X, Y) = sine_wave.example(seed)
    return params, X, Y, np.random.default_rng(seed).normal(size=(3, 6, 2))


def assert_gradients(found, expected):
    for name in expected:
        assert np.linalg.norm(np.subtract(found[name], expected[name])) <= 1e-10 * max(
            1e-3, np.linalg.norm(expected[name])
        ), name


def automatic(loss, params, X, *rest, **options):
    grads, dx = tg.grad(lambda p, x: loss(p, x, *rest, **options), argnums=(0, 1))(params, X)
    return grads | {"x": dx}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(0, 8))
def test_scheme_a(seed, k):
    params, X, Y, _ = truncated_case(seed)
    value, by_hand = sine_wave.bptt(params, X, Y, truncate=k)
    assert value == sine_wave.bptt(params, X, Y)[0]
    assert float(sine_wave.loss(params, X, Y, truncate=k)) == pytest.approx(value, rel=1e-13)
    assert_gradients(automatic(sine_wave.loss, params, X, Y, truncate=k), by_hand)
    cut = {5 - k} if k < 5 else set()
    assert_gradients(automatic(lambda p, x: last(unrolled(p, x, lambda t: Y, cut)), params, X), by_hand)
    full = sine_wave.bptt(params, X, Y)[1]
    assert (k >= 5) == all(np.array_equal(by_hand[name], full[name]) for name in full)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(0, 8))
def test_scheme_b(seed, k):
    params, X, _, Y = truncated_case(seed)
    _, by_hand = sine_wave.bptt_every_step(params, X, Y, blocks=(1, k + 1))
    assert_gradients(automatic(sine_wave.loss_every_step, params, X, Y, blocks=(1, k + 1)), by_hand)
    assert_gradients(automatic(windows, params, X, Y, k), by_hand)
    full = sine_wave.bptt_every_step(params, X, Y)[1]
    assert (k >= 5) == all(relative_error(by_hand[name], full[name]) < 1e-12 for name in full)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), c=st.integers(1, 8))
def test_scheme_c(seed, c):
    params, X, _, Y = truncated_case(seed)
    _, by_hand = sine_wave.bptt_every_step(params, X, Y, blocks=(c, c))
    assert_gradients(automatic(sine_wave.loss_every_step, params, X, Y, blocks=(c, c)), by_hand)
    cut = set(range(c, 6, c))
    chunks = lambda p, x: sum(one for _, one in unrolled(p, x, lambda t: Y[:, t], cut))
    assert_gradients(automatic(chunks, params, X), by_hand)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), k1=st.integers(1, 6), more=st.integers(0, 4))
def test_blocks(seed, k1, more):
    """Each block by itself: its errors alone, and the state that enters cell b − (k2 − k1) cut off."""
    params, X, _, Y = truncated_case(seed)
    _, by_hand = sine_wave.bptt_every_step(params, X, Y, blocks=(k1, k1 + more))
    assert_gradients(automatic(sine_wave.loss_every_step, params, X, Y, blocks=(k1, k1 + more)), by_hand)

    def blockwise(p, x):
        for b in range(0, 6, k1):
            cut = {b - more} if b - more > 0 else set()
            yield sum(one for t, one in unrolled(p, x, lambda t: Y[:, t], cut) if b <= t < b + k1)

    # V sees each error in its own block only, so the sum over the blocks is the gradient.
    assert_gradients(automatic(lambda p, x: sum(blockwise(p, x)), params, X), by_hand)


@pytest.mark.parametrize("k", range(5))
def test_one_transition_more_or_less_is_seen(k):
    params, X, Y, every = truncated_case(0)
    with pytest.raises(AssertionError):
        assert_gradients(
            automatic(sine_wave.loss, params, X, Y, truncate=k), sine_wave.bptt(params, X, Y, truncate=k + 1)[1]
        )
    for blocks, other in (((1, k + 1), (1, k + 2)), ((k + 1, k + 1), (k + 2, k + 2))):
        with pytest.raises(AssertionError):
            assert_gradients(
                automatic(sine_wave.loss_every_step, params, X, every, blocks=blocks),
                sine_wave.bptt_every_step(params, X, every, blocks=other)[1],
            )


def test_the_three_schemes_differ():
    """One loss, an error at every step, cut after 2: sliding windows, chunks of 3, and the last step alone."""
    params, X, _, Y = truncated_case(0)
    a = sine_wave.bptt(params, X, Y[:, -1], truncate=2)[1]["W"]
    b, c, full = (sine_wave.bptt_every_step(params, X, Y, blocks)[1]["W"] for blocks in ((1, 3), (3, 3), None))
    matrices = (a, b, c, full)
    for i, one in enumerate(matrices):
        assert all(relative_error(one, other) > 1e-3 for other in matrices[:i])
    only_last = np.copy(Y)
    states = sine_wave._states(params, X)
    for t in range(5):
        only_last[:, t] = (params["V"] @ states[t + 1]).T  # no error but at the last step
    blocks = sine_wave.bptt_every_step(params, X, only_last, (6, 3))[1]
    assert_gradients(blocks, sine_wave.bptt(params, X, Y[:, -1], truncate=2)[1])
