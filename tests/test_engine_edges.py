"""At the edges: infinities, ties, kinks and poles, where other libraries give nan or disagree. Warnings are errors here."""

import numpy as np
import pytest

import tinygrad_rnn as tg

INF, NAN = np.inf, np.nan
SIDES = np.array([-INF, -1000.0, 0.0, 1000.0, INF])


def slope(f, x):
    """∂ Σ f(x) / ∂x, without a warning."""
    return tg.grad(lambda x: tg.sum(f(x)))(np.asarray(x, float))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("f, values, slopes", [
    (tg.sigmoid, [0, 0, 0.5, 1, 1], [0, 0, 0.25, 0, 0]),
    (tg.tanh, [-1, -1, 0, 1, 1], [0, 0, 1, 0, 0]),
    (tg.softplus, [0, 0, np.log(2), 1000, INF], [0, 0, 0.5, 1, 1]),
    (tg.relu, [0, 0, 0, 1000, INF], [0, 0, 0, 1, 1]),
], ids=["sigmoid", "tanh", "softplus", "relu"])
def test_squashing_far_out(f, values, slopes, dtype):
    x = SIDES.astype(dtype)
    np.testing.assert_allclose(f(x), values, rtol=1e-6, atol=1e-38)  # a sigmoid ends at the smallest normal number
    np.testing.assert_allclose(tg.grad(lambda x: tg.sum(f(x)))(x), slopes, rtol=1e-6, atol=1e-30)
    assert np.isnan(f(np.array([NAN], dtype))).all() and f(x).dtype == dtype


def test_softmax_with_extremes_and_masks():
    x = np.array([1000.0, 0.0, -1000.0, -INF])
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(tg.softmax(x), [1, 0, 0, 0])
    np.testing.assert_array_equal(tg.log_softmax(x), [0, -1000, -2000, -INF])
    assert np.isfinite(slope(lambda x: tg.softmax(x) * weights, x)).all()
    assert np.isfinite(slope(lambda x: tg.log_softmax(x)[:3] * weights[:3], x)).all()
    masked = tg.grad(lambda x: (tg.softmax(x) * weights).sum())(np.array([0.0, 1.0, -INF, 0.5]))
    assert masked[2] == 0 and abs(masked.sum()) < 1e-12


def test_logsumexp_of_nothing_but_masks():
    x = np.array([[-INF, -INF], [0.0, -INF]])
    np.testing.assert_array_equal(tg.logsumexp(x, axis=1), [-INF, 0.0])
    np.testing.assert_array_equal(slope(lambda x: tg.logsumexp(x, axis=1)[1:], x), [[0, 0], [1, 0]])
    np.testing.assert_array_equal(slope(lambda x: tg.logsumexp(x, axis=1), x), [[0, 0], [1, 0]])
    np.testing.assert_array_equal(tg.grad(lambda a: tg.logaddexp(a, -INF))(-INF), 0.0)


def test_tips_of_cones():
    with np.errstate(divide="ignore"):
        assert slope(tg.sqrt, [0.0]) == INF
    np.testing.assert_array_equal(slope(tg.norm, [0.0, 0.0]), [0, 0])
    np.testing.assert_array_equal(slope(tg.std, [3.0, 3.0]), [0, 0])
    np.testing.assert_array_equal(slope(lambda x: tg.norm(x, axis=1), [[0.0, 0.0], [3.0, 4.0]]), [[0, 0], [0.6, 0.8]])


def test_powers_and_products_at_zero():
    assert slope(lambda x: x**0, [0.0]) == 0 and slope(lambda x: x ** np.array([0.0]), [0.0]) == 0
    assert slope(lambda x: x**1, [0.0]) == 1 and slope(lambda x: x**2, [0.0]) == 0
    assert tg.grad(lambda b: 0.0**b)(2.0) == 0
    np.testing.assert_array_equal(slope(tg.prod, [0.0, 2.0, 3.0]), [6, 0, 0])
    np.testing.assert_array_equal(slope(tg.prod, [0.0, 2.0, 0.0]), [0, 0, 0])
    np.testing.assert_array_equal(tg.hessian(tg.prod)(np.array([0.0, 2.0, 3.0])), [[0, 3, 2], [3, 0, 0], [2, 0, 0]])
    assert slope(tg.sinc, [0.0]) == 0 and tg.sinc(0.0) == 1


def test_a_branch_that_is_not_taken():
    x = np.array([0.0, 2.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        naive = slope(lambda x: tg.where(x > 0, tg.log(x), 0.0), x)
    assert np.isnan(naive[0]) and naive[1] == 0.5  # documented: 0 · inf
    np.testing.assert_array_equal(slope(lambda x: tg.where(x > 0, tg.log(tg.where(x > 0, x, 1.0)), 0.0), x), [0, 0.5])


def test_ties_and_kinks():
    np.testing.assert_array_equal(slope(tg.max, [1.0, 3.0, 3.0]), [0, 0.5, 0.5])
    np.testing.assert_array_equal(slope(tg.min, [1.0, 1.0, 3.0]), [0.5, 0.5, 0])
    a, b = tg.grad(lambda a, b: tg.sum(tg.maximum(a, b)), (0, 1))(np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    assert a.tolist() == [0.5, 1.0] and b.tolist() == [0.5, 0.0]
    assert slope(abs, [0.0]) == 0 and slope(tg.relu, [0.0]) == 0
    np.testing.assert_array_equal(slope(lambda x: x.clip(-1, 1), [-1.0, 0.0, 1.0, 2.0]), [0, 1, 0, 0])


@pytest.mark.parametrize("f", [tg.where, lambda m, a, b: tg.where(m, a, 0.0) + tg.where(m, 0.0, b)], ids=["where", "two wheres"])
def test_broadcast_operands_get_gradients_of_their_own_shape(f):
    mask = np.array([[True, False, True], [False, False, True]])
    a, b = tg.grad(lambda a, b: tg.sum(f(mask, a, b)), (0, 1))(np.float64(2.0), np.ones((1, 3)))
    assert a.shape == () and a == 3 and b.shape == (1, 3) and b.tolist() == [[1, 2, 0]]


def test_sequences_of_no_and_one_step_and_no_rows():
    def run(h, xs):
        for x in xs:
            h = tg.tanh(h + x)
        return h

    for T, B in ((0, 2), (1, 2), (3, 0)):
        h, xs = np.ones((B, 2)), np.zeros((T, B, 2))
        gh, gx = tg.grad(lambda h, xs: tg.sum(run(h, xs)), (0, 1))(h, xs)
        assert gh.shape == h.shape and gx.shape == xs.shape
        if T == 0:
            np.testing.assert_array_equal(gh, 1.0)
