"""The cells against their equations in plain NumPy, their derivatives against differences, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg

I, H = 3, 4


def sigma(z):
    return 1 / (1 + np.exp(-z))


def normalised(z):
    return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)


# ---- the equations, once more and gate by gate --------------------------------------------------------------


def rnn(p, state, x, phi=np.tanh):
    h = phi(p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] @ state + p["bias_hh"])
    return h, h


def lstm(p, state, x):
    h, c = state
    gates = []
    for k, name in enumerate("ifgo"):
        rows = slice(k * H, (k + 1) * H)
        z = p["weight_ih"][rows] @ x + p["bias_ih"][rows] + p["weight_hh"][rows] @ h + p["bias_hh"][rows]
        if name in "if" and "peephole_i" in p:
            z = z + p["peephole_" + name] * c
        gates.append(z)
    i, f, g, o = gates
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    if "peephole_o" in p:
        o = o + p["peephole_o"] * c
    h = sigma(o) * np.tanh(c)
    h = p["weight_hr"] @ h if "weight_hr" in p else h
    return (h, c), h


def gru(p, h, x, reset_after=True):
    def part(k):
        rows = slice(k * H, (k + 1) * H)
        return p["weight_ih"][rows] @ x + p["bias_ih"][rows], p["weight_hh"][rows], p["bias_hh"][rows]

    (xr, Ur, br), (xz, Uz, bz), (xn, Un, bn) = part(0), part(1), part(2)
    r, z = sigma(xr + Ur @ h + br), sigma(xz + Uz @ h + bz)
    n = np.tanh(xn + r * (Un @ h + bn)) if reset_after else np.tanh(xn + Un @ (r * h) + bn)
    h = (1 - z) * n + z * h
    return h, h


def mgu(p, h, x):
    W, U, b = p["weight_ih"], p["weight_hh"], p["bias_ih"]
    f = sigma(W[:H] @ x + b[:H] + U[:H] @ h)
    n = np.tanh(W[H:] @ x + b[H:] + U[H:] @ (f * h))
    h = (1 - f) * h + f * n
    return h, h


def indrnn(p, h, x):
    h = np.maximum(p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] * h, 0)
    return h, h


def lnlstm(p, state, x):
    h, c = state
    z = normalised(p["weight_ih"] @ x) * p["scale_ih"] + normalised(p["weight_hh"] @ h) * p["scale_hh"] + p["bias_ih"]
    i, f, g, o = np.split(z, 4)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    h = sigma(o) * np.tanh(normalised(c) * p["scale_c"] + p["bias_c"])
    return (h, c), h


CELLS = {
    "tanh": (lambda **o: tg.nn.RNNCell(I, H, **o), rnn),
    "relu": (lambda **o: tg.nn.RNNCell(I, H, nonlinearity="relu", **o), lambda p, s, x: rnn(p, s, x, lambda z: np.maximum(z, 0))),
    "sigmoid": (lambda **o: tg.nn.RNNCell(I, H, nonlinearity="sigmoid", **o), lambda p, s, x: rnn(p, s, x, sigma)),
    "identity": (lambda **o: tg.nn.RNNCell(I, H, nonlinearity="identity", **o), lambda p, s, x: rnn(p, s, x, lambda z: z)),
    "lstm": (lambda **o: tg.nn.LSTMCell(I, H, **o), lstm),
    "peephole": (lambda **o: tg.nn.LSTMCell(I, H, peephole=True, **o), lstm),
    "projection": (lambda **o: tg.nn.LSTMCell(I, H, proj_size=2, peephole=True, **o), lstm),
    "gru": (lambda **o: tg.nn.GRUCell(I, H, **o), gru),
    "cho": (lambda **o: tg.nn.GRUCell(I, H, reset_after=False, **o), lambda p, s, x: gru(p, s, x, False)),
    "mgu": (lambda **o: tg.nn.MGUCell(I, H, **o), mgu),
    "indrnn": (lambda **o: tg.nn.IndRNNCell(I, H, **o), indrnn),
    "lnlstm": (lambda **o: tg.nn.LayerNormLSTMCell(I, H, **o), lnlstm),
}
every = pytest.mark.parametrize("name", CELLS)


def drawn(cell, rng, batch):
    """Parameters without any special value, a state and an input."""
    for p in cell.parameters():
        p.data = rng.normal(size=p.shape)
    state = tg.trees.map(lambda s: rng.normal(size=s.shape), cell.initial_state(batch))
    return state, rng.normal(size=(*batch, I))


@every
@given(seed=st.integers(0, 2**32 - 1), B=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_equations(name, seed, B):
    make, reference = CELLS[name]
    cell, rng = make(rng=0), np.random.default_rng(seed)
    state, x = drawn(cell, rng, (B,))
    new, y = cell(state, x)
    p = cell.state_dict()
    for b in range(B):
        row = tg.trees.map(lambda s: s[b], state)
        expected, out = reference(p, row, x[b])
        alone, _ = cell(row, x[b])  # without a batch axis
        for mine, single, want in zip(*(tg.trees.flatten(s)[0] for s in (new, alone, expected))):
            np.testing.assert_allclose(mine.numpy()[b], want, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(single.numpy(), want, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(y.numpy()[b], out, rtol=1e-12, atol=1e-12)


def test_a_planted_fault_in_the_equations_is_found():
    """Gates in another order (i, g, f, o): the comparison above must see it."""
    cell, rng = tg.nn.LSTMCell(I, H, rng=0), np.random.default_rng(0)
    state, x = drawn(cell, rng, ())
    p = {k: np.concatenate([v[:H], v[2 * H:3 * H], v[H:2 * H], v[3 * H:]]) for k, v in cell.state_dict().items()}
    assert not np.allclose(lstm(p, state, x)[1], cell(state, x)[1].numpy())


@every
def test_gradients_against_differences(name):
    """Every parameter, the state and the input over five steps, by central differences."""
    cell, rng = CELLS[name][0](rng=0), np.random.default_rng(1)
    state, _ = drawn(cell, rng, (2,))
    values = dict(model=tg.trees.map(lambda p: 0.5 * p.numpy(), cell), state=state, xs=rng.normal(size=(5, 2, I)))
    weights = rng.normal(size=(5, 2, cell.output_size))

    def loss(v):
        end, ys = tg.scan(v["model"], v["state"], v["xs"])
        return tg.sum(ys * weights) + sum((tg.sum(tg.sin(leaf)) for leaf in tg.trees.flatten(end)[0]), 0.0)

    grads, structure = tg.trees.flatten(tg.grad(loss)(values))
    leaves = tg.trees.flatten(values)[0]
    for k, (leaf, g) in enumerate(zip(leaves, grads)):
        direction = rng.normal(size=leaf.shape)

        def moved(step, k=k, leaf=leaf, direction=direction):
            return float(loss(tg.trees.unflatten(structure, [*leaves[:k], leaf + step * direction, *leaves[k + 1:]])))

        expected = (8 * (moved(1e-4) - moved(-1e-4)) - (moved(2e-4) - moved(-2e-4))) / 12e-4
        np.testing.assert_allclose(np.sum(g * direction), expected, rtol=1e-7, atol=1e-8, err_msg=tg.trees.paths(values)[k])


@every
def test_float32_stays_and_one_seed_gives_one_cell(name):
    make, _ = CELLS[name]
    cell, again, narrow = make(rng=7), make(rng=np.random.default_rng(7)), make(rng=7, dtype=np.float32)
    state, ys = tg.scan(narrow, narrow.initial_state((2,)), np.ones((3, 2, I), np.float32))
    assert {leaf.dtype for leaf in (*tg.trees.flatten(state)[0], ys)} == {np.dtype(np.float32)}
    ys.sum().backward()
    assert {p.grad.dtype for p in narrow.parameters()} == {np.dtype(np.float32)}
    for a, b, c in zip(*(tg.trees.flatten(m)[0] for m in (cell, again, narrow))):
        assert np.array_equal(a.numpy(), b.numpy()) and np.array_equal(a.numpy().astype(np.float32), c.numpy())


@pytest.mark.parametrize("name", [name for name in CELLS if name not in ("relu", "indrnn")])
def test_complex_numbers_flow_through(name):
    """The complex step sees the derivative: state and input may be complex in a real cell (relu compares, which they cannot)."""
    cell, rng = CELLS[name][0](rng=0), np.random.default_rng(0)
    state, x = drawn(cell, rng, ())
    plain = cell.tree_replace({n: p.numpy() for n, p in cell.tree_children().items()})
    _, pullback = tg.vjp(lambda x: tg.sum(plain(state, x)[1]), x)
    step = np.array([plain(state, x + 1e-30j * e)[1].sum().imag / 1e-30 for e in np.eye(I)])
    np.testing.assert_allclose(pullback(np.ones(()))[0], step, rtol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_bias_and_forget_bias(bias):
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else [])]
    for kind in (tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.GRUCell):
        cell = kind(I, H, bias, rng=0)
        assert list(cell.state_dict()) == names
        cell(cell.initial_state((2,)), np.ones((2, I)))
    if bias:
        cell = tg.nn.LSTMCell(I, H, forget_bias=1.0, rng=0)
        np.testing.assert_array_equal((cell.bias_ih.data + cell.bias_hh.data)[H:2 * H], 1.0)
        assert np.abs(cell.bias_ih.data[:H]).min() > 0


# ---- what a cell refuses ------------------------------------------------------------------------------------


def text(error, call):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def zeros(*shape, dtype=float):
    return np.zeros(shape, dtype)


def test_messages():
    cell, memory = tg.nn.GRUCell(3, 5, rng=0), tg.nn.LSTMCell(3, 5, rng=0)
    assert text(tg.errors.ShapeError, lambda: memory((zeros(16, 5), zeros(16, 5)), zeros(16, 4))) == """\
LSTMCell(state, x): x has 4 columns, this cell was made for 3
  x          (16, 4)
  weight_ih  (20, 3)
Make the cell with input_size=4, or feed it 3 columns."""
    assert text(tg.errors.ArgumentError, lambda: cell(zeros(16, 3), zeros(16, 5))) == """\
GRUCell(state, x): state and x look swapped
  state      (16, 3)
  x          (16, 5)
  weight_ih  (15, 3)
  state is   h of 5 columns
Call cell(state, x): the state comes first, the other way round than in PyTorch."""
    assert text(tg.errors.ArgumentError, lambda: memory(zeros(16, 3), (zeros(16, 5), zeros(16, 5)))) == """\
LSTMCell(state, x): state and x look swapped
  state      (16, 3)
  x          a tuple of (16, 5), (16, 5)
  weight_ih  (20, 3)
  state is   (h, c) of 5, 5 columns
Call cell(state, x): the state comes first, the other way round than in PyTorch."""
    assert text(tg.errors.ArgumentError, lambda: memory(zeros(16, 5), zeros(16, 3))) == """\
LSTMCell(state, x): the state is not (h, c)
  state      (16, 5)
  x          (16, 3)
  weight_ih  (20, 3)
  state is   (h, c) of 5, 5 columns
Start from cell.initial_state((B,))."""
    assert text(tg.errors.ShapeError, lambda: cell(zeros(16, 4), zeros(16, 3))) == """\
GRUCell(state, x): h has 4 columns, this cell was made for 5
  h          (16, 4)
  x          (16, 3)
  weight_ih  (15, 3)
Make the cell with hidden_size=4, or start from cell.initial_state((B,))."""
    assert text(tg.errors.ShapeError, lambda: cell(zeros(1, 5), zeros(16, 3))) == """\
GRUCell(state, x): h and x have different batches
  h          (1, 5)
  x          (16, 3)
  weight_ih  (15, 3)
Give both the same axes before the last one."""
    assert text(tg.errors.DtypeError, lambda: tg.nn.GRUCell(3, 5, dtype=np.float32)(zeros(16, 5), zeros(16, 3, dtype=np.float32))) == """\
GRUCell(state, x): h is float64, this layer computes in float32
  h          (16, 5) float64
  weight_ih  (15, 3) float32
Pass h.astype(np.float32), or make the layer with dtype=np.float64."""
    assert text(tg.errors.DtypeError, lambda: cell(zeros(16, 5), zeros(16, 3, dtype=int))).startswith("GRUCell(state, x): x is int64")
    assert text(tg.errors.ArgumentError, lambda: cell(0.0, zeros(16, 3))).startswith("GRUCell(state, x): h is not an array")


@every
def test_every_cell_refuses_what_does_not_fit(name):
    cell = CELLS[name][0](rng=0)
    state = cell.initial_state((2,))
    for bad_state, bad_x in ((state, zeros(2, I + 1)), (state, zeros(3, I)), (state, zeros(2, I, dtype=np.float32)), (state, zeros()),
                             (tg.trees.map(lambda s: s[:, 1:], state), zeros(2, I)), (None, zeros(2, I)), (zeros(2, I), state), ([state], zeros(2, I))):
        with pytest.raises((tg.errors.ShapeError, tg.errors.DtypeError, tg.errors.ArgumentError), match=type(cell).__name__):
            cell(bad_state, bad_x)


def test_sizes_and_options():
    assert text(tg.errors.DomainError, lambda: tg.nn.GRUCell(3, 0)) == """\
GRUCell(input_size, hidden_size): hidden_size is not a positive int
  hidden_size  0
Pass hidden_size=1 or more."""
    for make in (lambda: tg.nn.RNNCell(-1, 2), lambda: tg.nn.LSTMCell(2.0, 2), lambda: tg.nn.RNNCell(2, 2, nonlinearity="softsign"),
                 lambda: tg.nn.LSTMCell(2, 2, proj_size=2), lambda: tg.nn.LSTMCell(2, 2, proj_size=-1),
                 lambda: tg.nn.LSTMCell(2, 2, bias=False, forget_bias=1.0)):
        with pytest.raises(tg.errors.DomainError):
            make()
    with pytest.raises(tg.errors.ArgumentError, match="neither a generator nor a seed"):
        tg.nn.RNNCell(2, 2, rng="seed")


def test_a_cell_of_your_own():
    """The example in the text of the module that defines Cell."""
    class Leaky(tg.nn.Cell):
        def __init__(self, input_size, hidden_size, *, dtype=np.float64, rng=None):
            super().__init__(input_size, hidden_size)
            self.add(dtype, rng, weight_ih=(hidden_size, input_size), decay=(hidden_size,))

        def __call__(self, h, x):
            self.check(h, x)
            h = tg.sigmoid(self.decay) * h + x @ self.weight_ih.T
            return h, h

    cell = Leaky(3, 4, rng=0)
    ys, _ = tg.nn.Recurrent(cell)(np.ones((5, 2, 3)))
    ys.sum().backward()
    assert ys.shape == (5, 2, 4) and all(p.grad is not None for p in cell.parameters())
    with pytest.raises(tg.errors.ShapeError, match="Leaky"):
        cell(zeros(2, 4), zeros(2, 2))
