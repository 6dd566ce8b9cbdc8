"""ledger: shares add up to the gradient, and flows are those of a linear network's powers."""

import numpy as np
import pytest
import random_cells
from explain_cases import NAMES, SOURCES, gated, gated_case, scalar
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import explain
from tinygrad_rnn.errors import ArgumentError, GradientError, ShapeError


@pytest.mark.parametrize("loss, params, data", SOURCES, ids=NAMES)
def test_ledger_sums_to_the_gradient_of_every_source(loss, params, data):
    account, grads = explain.ledger(loss, params, data), tg.grad(loss)(params, *data)
    for name in params:
        np.testing.assert_allclose(account.gradient[name], grads[name], rtol=1e-13, atol=1e-15, err_msg=name)
        np.testing.assert_array_equal(account.gradient[name], account.weights[name].sum(axis=0) + account.rest[name])


OPTIONS = st.sampled_from([{}, {"reverse": True}, {"checkpoint": 2}, {"lengths": np.array([4, 2])}, {"truncate": (2, 3)},
                           {"truncate": (1, 1)}, {"truncate": (2, 4), "reverse": True}])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), T=st.integers(4, 7), options=OPTIONS)
def test_ledger_sums_to_the_gradient_under_every_option(seed, T, options):
    params, xs = gated_case(T, seed=seed)
    account, grads = explain.ledger(lambda p, xs: gated(p, xs, **options), params, xs), tg.grad(scalar)(params, xs, **options)
    for name in params:
        np.testing.assert_allclose(account.gradient[name], grads[name], rtol=1e-12, atol=1e-14, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(random_cells.with_options())
def test_ledger_sums_to_the_gradient_of_random_cells(drawn):
    recipe, options = drawn
    at, f = recipe.arrays(), random_cells.loss(recipe, **options)
    grads = tg.grad(f)(at)
    names, leaves = tg.trees.paths(grads), tg.trees.flatten(grads)[0]
    try:
        account = explain.ledger(f, at)
    except GradientError:  # a truncation may leave nothing
        assert not any(np.any(g) for g in leaves)
        return
    for name, g in zip(names, leaves):
        np.testing.assert_allclose(account.gradient[name], g, rtol=1e-10, atol=1e-11, err_msg=name)


def test_shares_are_those_of_weights_that_differ_in_time():
    """Untie the weights: one copy per step, fed through xs; the gradient of copy t is dW_t."""
    params, xs = gated_case()

    def untied(stacked, xs):
        def cell(h, at):
            p, x = at
            f = tg.sigmoid(x @ p["Wf"] + h @ p["Uf"] + p["b"])
            c = tg.tanh(x @ p["Wc"] + (f * h) @ p["Uc"])
            h = h + f * (c - h)
            return h, h

        _, ys = tg.scan(cell, params["h0"], (stacked, xs))
        return tg.sum(ys * ys)

    weights = {name: value for name, value in params.items() if name != "h0"}
    copies = {name: np.stack([value] * len(xs)) for name, value in weights.items()}
    expected, account = tg.grad(untied)(copies, xs), explain.ledger(scalar, params, xs)
    for name in weights:
        np.testing.assert_allclose(account.weights[name], expected[name], rtol=1e-12, atol=1e-14, err_msg=name)
        np.testing.assert_allclose(account.norms(name), np.linalg.norm(expected[name].reshape(len(xs), -1), axis=1))
    assert not account.rest["Uf"].any() and account.weights["h0"][0].any() and not account.weights["h0"][1:].any()


@pytest.mark.parametrize("vector", [True, False])
def test_a_linear_network_matches_the_powers_of_its_matrix(vector):
    rng = np.random.default_rng(3)
    W, V, xs, h0 = rng.normal(size=(4, 4)), rng.normal(size=(4, 2)), rng.normal(size=(7, 4)), rng.normal(size=4)

    def loss(p):
        _, ys = tg.scan(lambda h, x: ((h := h @ p["W"] + x), h @ V), h0, xs)
        return tg.sum(tg.square(ys), axis=1) if vector else tg.sum(tg.square(ys))

    flow = explain.ledger(loss, {"W": W}).flow
    h, states = h0, []
    for x in xs:
        states.append(h := h @ W + x)
    for s in range(7):
        for t in range(7):
            expected = np.linalg.norm(2 * states[s] @ V @ V.T @ np.linalg.matrix_power(W, s - t).T) if s >= t else 0.0
            np.testing.assert_allclose(flow[s, t], expected, rtol=1e-11, atol=1e-300, err_msg=f"{s} {t}")


NUDGED = [{}, {"reverse": True}, {"checkpoint": 2}, {"lengths": np.array([6, 3, 0])}, {"lengths": np.array([2, 6, 4]), "reverse": True},
          {"lengths": np.array([4, 3, 6]), "checkpoint": 4}, {"truncate": (2, 3)}, {"truncate": (1, 2), "lengths": np.array([6, 4, 1])}]


@pytest.mark.parametrize("options", NUDGED, ids=str)
def test_a_flow_is_what_a_nudge_to_that_state_does(options):
    """Add e_t to the state that step t makes: ∂L_s/∂e_t at e = 0 is ∂L_s/∂h_t."""
    r = np.random.default_rng(5).normal
    p, xs, (h0, c0) = {"W": r(size=(3, 4)), "U": r(size=(4, 4)), "V": r(size=(4, 4))}, r(size=(6, 3, 3)), r(size=(2, 3, 4))

    def losses(p, e):
        def nudged(state, x_and_e):
            (h, c), (x, (eh, ec)) = state, x_and_e
            z = tg.tanh(x @ p["W"] + h @ p["U"])
            c = tg.sigmoid(z) * c + h + ec
            h = z * tg.tanh(c @ p["V"]) + eh
            return (h, c), (1.5 * h, z)

        _, (y, z) = tg.scan(nudged, (h0, c0), (xs, e), **options)
        return tg.sum(y * y + z**3, axis=(1, 2))

    e = (np.zeros((6, 3, 4)), np.zeros((6, 3, 4)))
    (flow,) = explain.ledger(lambda p: losses(p, e), p).flows
    assert flow.cell == "nudged"
    for name, jacobian in zip(("state[0]", "state[1]"), tg.jacobian(lambda e: losses(p, e))(e)):
        np.testing.assert_allclose(flow.leaves[name], np.sqrt(np.sum(jacobian**2, axis=(2, 3))), rtol=1e-11, atol=1e-12)


def test_the_last_state_of_a_row_that_ended_counts_for_the_last_step():
    """h' = 2 h + x, and a loss of the last states alone: each row's reaches back from the step at which it ended."""
    xs, lengths = np.zeros((5, 2)), np.array([5, 3])
    account = explain.ledger(lambda w: tg.sum(tg.scan(lambda h, x: (w * h + x, None), np.ones(2), xs, lengths=lengths)[0]), 2.0)
    expected = np.zeros((5, 5))
    expected[4] = np.sqrt([16**2 + 4**2, 8**2 + 2**2, 4**2 + 1, 2**2, 1])
    np.testing.assert_allclose(account.flow, expected)
    np.testing.assert_allclose(account.gradient["params"], 5 * 16 + 3 * 4)


def test_states_that_pass_through_swap_or_wait_keep_their_step():
    def loss(p):
        def cell(state, x):
            a, b, before = state
            return (b, a * p, a), a  # swapped, scaled, delayed

        _, ys = tg.scan(cell, (np.array(1.0), np.array(2.0), np.array(0.0)), np.zeros(4))
        return ys

    account = explain.ledger(loss, 0.5)
    leaves = account.flows[0].leaves
    # y_s is a_{s-1}: leaf 0 of the state that leaves step s − 1 reaches it whole, what leaves s − 2 in leaf 1 also
    np.testing.assert_allclose(np.diag(leaves["state[0]"], -1), 1.0)
    np.testing.assert_allclose(np.diag(leaves["state[1]"], -2), 1.0)
    np.testing.assert_allclose(np.diag(leaves["state[0]"], -3), 0.5)
    assert not leaves["state[2]"].any()
    np.testing.assert_allclose(account.gradient["params"], tg.grad(lambda p: tg.sum(loss(p)))(0.5))


def test_a_state_that_never_changes():
    account = explain.ledger(lambda p: tg.scan(lambda h, x: (h, h * x), p, np.arange(1.0, 4.0))[1], np.array(2.0))
    np.testing.assert_allclose(account.flow, np.tril(np.ones((3, 3)), -1) * np.arange(1.0, 4.0)[:, None])
    np.testing.assert_allclose(account.gradient["params"], 6.0)


@pytest.mark.parametrize("lengths", [None, np.array([5, 2])])
def test_a_layer_has_a_flow_for_every_cell(lengths):
    layer, x = tg.nn.LSTM(3, 4, num_layers=2, bidirectional=True, rng=0), np.random.default_rng(0).normal(size=(5, 2, 3))

    def loss(layer):
        return tg.sum(tg.square(layer(x, lengths=lengths)[0]), axis=(1, 2))

    account, grads = explain.ledger(loss, layer), tg.grad(lambda layer: tg.sum(loss(layer)))(layer)
    assert [flow.cell for flow in account.flows] == ["LSTMCell"] * 4 and all(np.isfinite(flow.matrix).all() for flow in account.flows)
    for (name, total), g in zip(account.gradient.items(), tg.trees.flatten(grads)[0]):
        np.testing.assert_allclose(total, np.asarray(g.detach() if isinstance(g, tg.Tensor) else g), rtol=1e-12, atol=1e-14, err_msg=name)
    last_forward, last_backward = account.flows[2].matrix, account.flows[3].matrix
    assert np.all(np.triu(last_forward, 1) == 0) and np.all(np.tril(last_backward[::-1], -1)[::-1] >= 0) and last_forward.any()


def test_two_layers_have_two_flows():
    def loss(p, xs):
        _, ys = tg.scan(lambda h, x: ((h := tg.tanh(x + h * p["a"])), h), np.zeros(2), xs)
        _, zs = tg.scan(lambda h, x: ((h := tg.tanh(x * p["b"] + h)), h), np.zeros(2), ys)
        return tg.sum(zs * zs, axis=1)

    params, xs = {"a": 0.3, "b": np.array([0.2, 1.1])}, np.random.default_rng(0).normal(size=(5, 2))
    account, grads = explain.ledger(loss, params, xs), tg.grad(lambda p: tg.sum(loss(p, xs)))(params)
    assert len(account.flows) == 2 and all(np.all(np.triu(flow.matrix, 1) == 0) for flow in account.flows)
    for name in params:
        np.testing.assert_allclose(account.gradient[name], grads[name], rtol=1e-13)


def test_a_cell_that_differentiates_inside_loses_no_share():
    def loss(p):
        def cell(h, x):
            return h - 0.1 * tg.grad(lambda h: tg.sum(tg.sin(h * p)))(h) + x, None

        return tg.sum(tg.scan(cell, np.ones(3), np.ones((4, 3)))[0])

    np.testing.assert_allclose(explain.ledger(loss, 0.7).gradient["params"], tg.grad(loss)(0.7), rtol=1e-13)


def test_ledger_text_and_refusals():
    def loss(p):
        return tg.sum(tg.scan(lambda h, x: (p["w"] * h, None), 1.0, np.zeros(3))[0]) + p["bias"]

    account = explain.ledger(loss, {"w": 0.5, "bias": 1.0})
    assert str(account) == """\
weight  shape  |gradient|  |rest|  |dW_0|  |dW_T-1|  largest at
w       ()           0.75       0    0.25      0.25      step 0
bias    ()              1       1       0         0           -"""
    with pytest.raises(ShapeError, match="neither a scalar nor a vector"):
        explain.ledger(lambda p: p, np.ones((2, 2)))
    with pytest.raises(GradientError, match="does not depend on params"):
        explain.ledger(lambda p: 1.0, np.ones(2))
    with pytest.raises(ArgumentError, match="the loss runs no scan"):
        _ = explain.ledger(lambda p: tg.sum(p), np.ones(2)).flow


def test_a_planted_fault_breaks_the_account(monkeypatch):
    """A piece that is counted at two steps must make the sum differ: the tests above can fail."""
    from tinygrad_rnn.explain.ledger import _Parting

    params, xs = gated_case()
    monkeypatch.setattr(_Parting, "piece", lambda self, value, t, piece=_Parting.piece: (piece(self, value, t + 1 if t else t)))
    shifted = explain.ledger(scalar, params, xs)
    right = tg.grad(scalar)(params, xs)
    np.testing.assert_allclose(shifted.gradient["Uf"], right["Uf"], rtol=1e-12)
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(shifted.weights["Uf"], np.resize(explain.ledger(scalar, params, xs).weights["Uf"], shifted.weights["Uf"].shape))
