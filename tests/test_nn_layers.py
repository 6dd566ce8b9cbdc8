"""The containers: any cell, layers, directions, lengths, noise, PyTorch's shapes, and what they refuse."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg

KINDS = {"RNN": tg.nn.RNN, "LSTM": tg.nn.LSTM, "GRU": tg.nn.GRU}


def by_hand(cells, directions, xs, states, lengths):
    """A stack in plain Python: rows one by one, each cut to its own length, so no padding exists."""
    T, B = xs.shape[:2]
    lengths = [T] * B if lengths is None else lengths
    rows, ends = [], []
    for b in range(B):
        x, last = [xs[t, b] for t in range(lengths[b])], []
        for first in range(0, len(cells), directions):
            ways = []
            for i in range(first, first + directions):
                s, out = tg.trees.map(lambda a, b=b: a[b], states[i]), []
                for v in x[::-1] if i > first else x:
                    s, y = cells[i](s, v)
                    out.append(y.numpy())
                last.append(tg.trees.map(lambda t: t.numpy() if isinstance(t, tg.Tensor) else t, s))
                ways.append(out[::-1] if i > first else out)
            x = [np.concatenate(parts) for parts in zip(*ways)]
        width = directions * cells[-1].output_size
        rows.append(np.stack([*x, *[np.zeros(width)] * (T - lengths[b])]) if T else np.zeros((0, width)))
        ends.append(last)
    return np.stack(rows, 1), [tg.trees.map(lambda *leaves: np.stack(leaves), *(e[i] for e in ends)) for i in range(len(cells))]


def close(a, b):
    for x, y in zip(tg.trees.flatten(a)[0], tg.trees.flatten(b)[0], strict=True):
        np.testing.assert_allclose(x.numpy() if isinstance(x, tg.Tensor) else x, y, rtol=1e-11, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), layers=st.integers(1, 3), D=st.integers(1, 2), T=st.integers(1, 5), B=st.integers(1, 4),
       batch_first=st.booleans(), ragged=st.booleans(), given_state=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_cells_in_a_stack(seed, layers, D, T, B, batch_first, ragged, given_state):
    rng, cells, width = np.random.default_rng(seed), [], 2
    makers = (tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.GRUCell, tg.nn.MGUCell, tg.nn.IndRNNCell, tg.nn.LayerNormLSTMCell)
    for _ in range(layers):
        sizes = rng.integers(1, 4, D)
        cells += [makers[rng.integers(6)](width, int(n), rng=rng) for n in sizes]
        width = int(sum(sizes))
    if D == 2:
        cells[-1] = type(cells[-1])(cells[-1].input_size, cells[-2].hidden_size, rng=rng)
    xs = rng.normal(size=(T, B, 2))
    states = [tg.trees.map(lambda s: rng.normal(size=s.shape) * given_state, cell.initial_state((B,))) for cell in cells]
    lengths = rng.integers(1, T + 1, B) if ragged else None
    layer = tg.nn.Recurrent(cells, bidirectional=D == 2, batch_first=batch_first)
    ys, ends = layer(xs.swapaxes(0, 1) if batch_first else xs, states if given_state else None, lengths=lengths)
    expected, last = by_hand(cells, D, xs, states, lengths)
    close(ys, expected.swapaxes(0, 1) if batch_first else expected)
    close(ends, last)


def test_planted_faults_in_the_stack_are_found():
    """Directions exchanged, a length that is one too long, a state of the wrong layer: each moves the numbers."""
    rng = np.random.default_rng(0)
    cells = [tg.nn.GRUCell(3, 3, rng=rng), tg.nn.GRUCell(3, 3, rng=rng)]
    xs, lengths = rng.normal(size=(4, 2, 3)), np.array([4, 2])
    states = [rng.normal(size=(2, 3)) for _ in cells]
    ys, _ = tg.nn.Recurrent(cells, bidirectional=True)(xs, states, lengths=lengths)
    for fault in ((cells[::-1], states, lengths), (cells, states[::-1], lengths), (cells, states, lengths + [0, 1])):
        assert not np.allclose(by_hand(fault[0], 2, xs, fault[1], fault[2])[0], ys.numpy())
    assert np.allclose(by_hand(cells, 2, xs, states, lengths)[0], ys.numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_pytorch_shapes_and_names(kind, batch_first):
    layer = KINDS[kind](3, 5, num_layers=2, bidirectional=True, batch_first=batch_first, rng=0)
    G = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind] * 5
    shapes = {f"{name}_l{k}{end}": shape for k, width in ((0, 3), (1, 10)) for end in ("", "_reverse")
              for name, shape in (("weight_ih", (G, width)), ("weight_hh", (G, 5)), ("bias_ih", (G,)), ("bias_hh", (G,)))}
    assert {name: a.shape for name, a in layer.state_dict().items()} == shapes and list(layer.state_dict()) == list(shapes)
    assert layer.weight_ih_l1_reverse is layer.cells[3].weight_ih
    layer.weight_ih_l1_reverse = tg.tensor(np.zeros((G, 10)), requires_grad=True)
    assert not layer.cells[3].weight_ih.numpy().any()
    for x, batch in ((np.ones((2, 6, 3) if batch_first else (6, 2, 3)), (2,)), (np.ones((6, 3)), ())):
        output, last = layer(x)
        assert output.shape == (*x.shape[:-1], 10)
        for part in last if kind == "LSTM" else (last,):
            assert part.shape == (4, *batch, 5)
        again, _ = layer(x, last)
        assert not np.allclose(again.numpy(), output.numpy())


def test_unbatched_is_a_batch_of_one():
    layer, x = tg.nn.LSTM(3, 5, num_layers=2, bidirectional=True, rng=0), np.random.default_rng(0).normal(size=(6, 3))
    (y, last), (row, last_row) = layer(x[:, None]), layer(x)
    close(row, y.numpy()[:, 0])
    close(last_row, [part.numpy()[:, 0] for part in last])


@pytest.mark.parametrize("kind", KINDS)
def test_edges_of_the_sequence(kind):
    """No steps: the state goes through, and so does its gradient. No rows: empty results."""
    layer, D = KINDS[kind](3, 5, bidirectional=True, rng=0), 2
    h = tuple(np.random.default_rng(i).normal(size=(D, 2, 5)) for i in range(1 + (kind == "LSTM")))

    def run(h):
        output, last = layer(np.zeros((0, 2, 3)), h if len(h) > 1 else h[0])
        assert output.shape == (0, 2, 10)
        return sum((tg.sum(part * part) for part in (last if len(h) > 1 else (last,))), 0.0)

    close(tg.grad(run)(h), [2 * part for part in h])
    output, _ = layer(np.zeros((4, 0, 3)))
    assert output.shape == (4, 0, 10)
    output.sum().backward()
    assert not any(p.grad.any() for p in layer.parameters())
    assert layer(np.zeros((1, 2, 3)))[0].shape == (1, 2, 10)


def test_padding_reaches_nothing():
    layer, rng, lengths = tg.nn.GRU(3, 4, num_layers=2, bidirectional=True, rng=0), np.random.default_rng(0), np.array([5, 2, 4])
    x = rng.normal(size=(5, 3, 3))
    padded = np.where((np.arange(5)[:, None] < lengths)[..., None], x, np.nan)
    first = None
    for data in (x, padded):
        layer.zero_grad()
        output, h = layer(data, lengths=lengths)
        (output * output).sum().backward()
        grads = [p.grad for p in layer.parameters()]
        assert all(np.isfinite(g).all() for g in grads)
        first = first or grads
        close(first, grads)
        assert not output.numpy()[2:, 1].any()


@pytest.mark.parametrize("options", [dict(truncate=(2, 3)), dict(checkpoint=2), dict(compiled=False)])
def test_options_go_to_scan(options):
    layer, x = tg.nn.LSTM(3, 4, rng=0), np.random.default_rng(0).normal(size=(6, 2, 3))
    cell = layer.cells[0]
    _, expected = tg.scan(cell, cell.initial_state((2,)), x, **options)
    output, _ = layer(x, **options)
    close(output, expected.numpy())
    expected.sum().backward()
    wanted = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    output.sum().backward()
    close([p.grad for p in layer.parameters()], wanted)


# ---- noise --------------------------------------------------------------------------------------------------


def noisy(seed=0, **options):
    rng = np.random.default_rng(seed)
    return tg.nn.Recurrent([tg.nn.GRUCell(3, 4, rng=rng), tg.nn.LSTMCell(4, 4, rng=rng)], rng=rng, **options)


NOISES = [dict(dropout=0.5), dict(dropout=0.5, variational=True), dict(recurrent_dropout=0.5), dict(zoneout=0.3),
          dict(dropout=0.3, recurrent_dropout=0.2, zoneout=0.1, batch_first=True)]


@pytest.mark.parametrize("options", NOISES)
def test_noise_is_one_mask_per_forward(options):
    """The gradient is that of the function with this forward's mask: differences with the generator set back agree."""
    layer, x = noisy(**options), np.random.default_rng(1).normal(size=(5, 2, 3))
    start = copy.deepcopy(layer.rng.bit_generator.state)

    def loss(x, **scan_options):
        layer.rng.bit_generator.state = copy.deepcopy(start)
        return tg.sum(tg.sin(layer(x, **scan_options)[0]))

    direction = np.random.default_rng(2).normal(size=x.shape)
    h = 1e-5
    expected = (float(loss(x + h * direction)) - float(loss(x - h * direction))) / (2 * h)
    for scan_options in (dict(), dict(compiled=False), dict(checkpoint=2)):
        g = tg.grad(lambda x, o=scan_options: loss(x, **o))(x)
        np.testing.assert_allclose(np.sum(g.numpy() * direction), expected, rtol=1e-6)
    assert float(tg.sum(tg.sin(layer(x)[0]))) != float(loss(x))  # the next forward has another mask
    layer.eval()
    assert np.array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())


@pytest.mark.parametrize("compiled", [True, False])
def test_noise_with_lengths_and_directions(compiled):
    """Rows that end early: no gradient to the padding, and that of the masks of this forward to the rest."""
    rng, lengths = np.random.default_rng(0), np.array([4, 1])
    cells = [tg.nn.GRUCell(3, 4, rng=rng), tg.nn.GRUCell(3, 4, rng=rng), tg.nn.LSTMCell(8, 2, rng=rng), tg.nn.LSTMCell(8, 2, rng=rng)]
    layer = tg.nn.Recurrent(cells, bidirectional=True, dropout=0.3, recurrent_dropout=0.3, zoneout=0.3, rng=1)
    x, v = rng.normal(size=(2, 4, 2, 3))
    start = copy.deepcopy(layer.rng.bit_generator.state)

    def loss(x):
        layer.rng.bit_generator.state = copy.deepcopy(start)
        return tg.sum(tg.sin(layer(x, lengths=lengths, compiled=compiled)[0]))

    g, h = tg.grad(loss)(x).numpy(), 1e-5
    np.testing.assert_allclose(np.sum(g * v), (float(loss(x + h * v)) - float(loss(x - h * v))) / (2 * h), rtol=1e-6)
    assert not g[1:, 1].any() and g[0, 1].any() and g[3, 0].any()


@pytest.mark.parametrize("options", NOISES)
def test_one_seed_one_run(options):
    """Weights, masks and ten steps of training, bit for bit."""
    def run():
        layer = noisy(3, **options)
        optimizer, losses = tg.optim.Adam(layer), []
        for k in range(10):
            x = np.random.default_rng(k).normal(size=(5, 2, 3))
            optimizer.zero_grad()
            loss = tg.sum(tg.square(layer(x)[0]))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, layer.state_dict()

    (a, first), (b, second) = run(), run()
    assert a == b and all(np.array_equal(first[k], second[k]) for k in first)


def test_which_numbers_the_masks_touch():
    cell = lambda s, x: (s, x)
    plain = tg.nn.Recurrent([cell, cell], dropout=0.5, rng=0)
    ys, _ = plain(np.ones((50, 4, 3)), [np.zeros((4, 3))] * 2)
    assert set(np.unique(ys)) == {0.0, 2.0} and not (ys == ys[0]).all()
    ys, _ = tg.nn.Recurrent([cell, cell], dropout=0.5, variational=True, rng=0)(np.ones((50, 4, 3)), [np.zeros((4, 3))] * 2)
    assert set(np.unique(ys)) == {0.0, 2.0} and (ys == ys[0]).all()
    reads = lambda s, x: ((s[0] * 0 + 1, s[1] + 1), s[0])
    ys, (h, c) = tg.nn.Recurrent(reads, recurrent_dropout=0.5, rng=0)(np.zeros((50, 4, 3)), (np.ones((4, 3)), np.zeros((4, 3))))
    assert set(np.unique(ys)) == {0.0, 2.0} and (ys == ys[0]).all() and (c == 50).all()
    counts = lambda s, x: (s + 1.0, s + 1.0)
    zone = tg.nn.Recurrent(counts, zoneout=0.25, rng=0)
    ys, last = zone(np.zeros((4000, 1, 2)), np.zeros((1, 2)))
    assert set(np.unique(np.diff(ys, axis=0))) == {0.0, 1.0} and abs(last.mean() / 4000 - 0.75) < 0.03
    ys, last = zone.eval()(np.zeros((8, 1, 2)), np.zeros((1, 2)))
    np.testing.assert_allclose(last, 6.0)


def test_dropout_between_layers_only():
    with pytest.warns(UserWarning, match="acts between layers"):
        tg.nn.GRU(3, 4, dropout=0.5)
    layer = tg.nn.GRU(3, 4, num_layers=2, dropout=1.0, rng=0)
    output, _ = layer(np.ones((5, 2, 3)))
    layer.cells[0].weight_ih.data = np.zeros((12, 3))
    again, _ = layer(np.zeros((5, 2, 3)))
    assert np.array_equal(output.numpy(), again.numpy()) and output.numpy().any()


# ---- trees, copies, states ----------------------------------------------------------------------------------


def test_a_model_is_a_tree():
    model = tg.nn.LSTM(3, 4, num_layers=2, rng=0)
    x = np.ones((5, 2, 3))
    grads = tg.grad(lambda m: tg.sum(m(x)[0]))(tg.trees.map(lambda p: p.numpy(), model))
    assert type(grads) is tg.nn.LSTM and tg.trees.paths(grads) == list(model.state_dict())
    model(x)[0].sum().backward()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(getattr(grads, name), p.grad, rtol=1e-12)
    moved = tg.trees.map(lambda p, g: p - 0.1 * g, tg.trees.map(lambda p: p.numpy(), model), grads)
    assert float(tg.sum(moved(x)[0])) < model(x)[0].sum().item()
    model.train(False)
    assert not model.training and moved.training


def test_copies_hold_their_own_numbers():
    model = tg.nn.Sequential(tg.nn.Embedding(5, 3, rng=0), tg.nn.GRU(3, 4, rng=1, return_state=False), tg.nn.Dropout(0.2, rng=2), tg.nn.Linear(4, 2, rng=3))
    x = np.array([[1, 2], [3, 4], [0, 0]])
    expected = model.eval()(x).numpy()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.astype(np.float64)):
        assert np.array_equal(other(x).numpy(), expected)
        other[3].weight.data = np.zeros((2, 4))
        assert np.array_equal(model(x).numpy(), expected)
    assert model.astype(np.float32)(x).dtype == np.float32


def test_one_tensor_under_two_names_is_one_parameter():
    class Tied(tg.nn.Module):
        def __init__(self):
            self.embed = tg.nn.Embedding(5, 3, rng=0)
            self.out = tg.nn.Linear(3, 5, rng=1)
            self.out.weight = self.embed.weight

        def forward(self, x):
            return self.out(self.embed(x))

    model = Tied()
    assert [n for n, _ in model.named_parameters()] == ["embed.weight", "out.bias"]
    assert list(model.state_dict()) == ["embed.weight", "out.weight", "out.bias"]
    assert model(np.array([1, 2])).shape == (2, 5)


def text(error, call):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def test_load_state_dict_is_all_or_nothing():
    model = tg.nn.GRU(3, 4, num_layers=2, rng=0)
    before, good = model.state_dict(), tg.nn.GRU(3, 4, num_layers=2, rng=1).state_dict()
    wide = {**good, "bias_hh_l1": np.zeros(13)}
    missing = {k: v for k, v in good.items() if k != "weight_hh_l1"}
    assert text(tg.errors.ShapeError, lambda: model.load_state_dict(wide)) == """\
GRU.load_state_dict(state): bias_hh_l1 has another shape than this module's
  bias_hh_l1     (13,) float64
  this module's  (12,) float64
Pass a state of the same architecture."""
    assert text(tg.errors.StateError, lambda: model.load_state_dict({**missing, "extra": np.zeros(1)})) == """\
GRU.load_state_dict(state): the names are not those of this module
  missing     weight_hh_l1
  unexpected  extra
Pass a state of the same architecture, or strict=False."""
    for bad in ({**good, "bias_hh_l1": np.zeros(12, complex)}, {**good, "bias_hh_l1": np.array(["x"] * 12)}):
        with pytest.raises(tg.errors.DtypeError):
            model.load_state_dict(bad)
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())
    model.load_state_dict({**missing, "extra": np.zeros(1)}, strict=False)
    assert np.array_equal(model.state_dict()["bias_hh_l1"], good["bias_hh_l1"]) and np.array_equal(model.state_dict()["weight_hh_l1"], before["weight_hh_l1"])
    narrow = model.astype(np.float32)
    with pytest.raises(tg.errors.DtypeError, match="cannot be stored without loss"):
        narrow.load_state_dict(good)
    narrow.load_state_dict(good, cast=True)
    model.load_state_dict(narrow.state_dict())  # widening loses nothing
    assert model.weight_ih_l0.dtype == np.float64


# ---- what a layer refuses -----------------------------------------------------------------------------------


def test_messages():
    z, layer, memory = np.zeros, tg.nn.GRU(3, 5, num_layers=2), tg.nn.LSTM(3, 5, batch_first=True)
    assert text(tg.errors.ShapeError, lambda: layer(z((7, 2, 4)))) == """\
GRU(input, hx): input has 4 columns, this layer was made for 3
  input         (7, 2, 4)
  weight_ih_l0  (15, 3)
Make the layer with input_size=4, or feed it 3 columns."""
    assert text(tg.errors.ShapeError, lambda: layer(z((7, 2, 3)), z((1, 2, 5)))) == """\
GRU(input, hx): hx does not have the shape of this layer's state
  input   (7, 2, 3)
  hx      (1, 2, 5)
  needed  (2, 2, 5)
Pass one state per layer and direction, for the batch of the input."""
    assert text(tg.errors.ShapeError, lambda: memory(z((2, 7, 3)), (z((1, 2, 5)), z((1, 7, 5))))) == """\
LSTM(input, hx): c_0 does not have the shape of this layer's state
  input   (2, 7, 3)
  c_0     (1, 7, 5)
  needed  (1, 2, 5)
Pass one state per layer and direction, for the batch of the input."""
    assert text(tg.errors.ShapeError, lambda: memory(z((2, 7, 3)), z((1, 2, 5)))) == """\
LSTM(input, hx): hx is not h_0 and c_0
  hx  1 array(s)
Pass (h_0, c_0), as the layer returns it."""
    assert text(tg.errors.ShapeError, lambda: memory(z(3))) == """\
LSTM(input, hx): input is not a sequence
  input  (3,)
Pass an array of shape (B, T, I) or (T, I)."""
    assert text(tg.errors.DtypeError, lambda: tg.nn.GRU(3, 5, dtype=np.float32)(z((7, 2, 3), np.float32), z((1, 2, 5)))) == """\
GRU(input, hx): hx is float64, this layer computes in float32
  hx            (1, 2, 5) float64
  weight_ih_l0  (15, 3) float32
Pass hx.astype(np.float32), or make the layer with dtype=np.float64."""
    assert text(tg.errors.DtypeError, lambda: layer(z((7, 2, 3), int))).startswith("GRU(input, hx): input is int64")
    assert text(tg.errors.DomainError, lambda: tg.nn.LSTM(3, 0)).startswith("LSTM(input_size, hidden_size, num_layers): hidden_size is not a positive int")
    assert text(tg.errors.ShapeError, lambda: tg.nn.Recurrent([tg.nn.GRUCell(3, 5), tg.nn.GRUCell(4, 2)])) == """\
Recurrent(…): cell 1 does not take what the layer before it gives
  cells[1].input_size  4
  columns given        5
Make the cell with input_size=5."""
    assert text(tg.errors.ArgumentError, lambda: tg.nn.Recurrent(tg.nn.GRUCell(3, 5), bidirectional=True)) == """\
Recurrent(…): the cells do not make whole layers
  cells      1
  per layer  2
Pass one cell per layer and direction: [forward, backward, …] with bidirectional."""
    assert text(tg.errors.ArgumentError, lambda: tg.nn.Recurrent(lambda s, x: (s, s))(z((7, 2, 3)))) == """\
Recurrent(xs): the cell does not say its initial state
  cell  <lambda>
Pass state=, or give the cell a method initial_state(batch)."""
    assert text(tg.errors.ArgumentError, lambda: tg.nn.Recurrent([tg.nn.GRUCell(3, 5)])(z((7, 2, 3)), [])).startswith(
        "Recurrent(xs, state): the number of states")
    assert text(tg.errors.DomainError, lambda: tg.nn.Recurrent(tg.nn.GRUCell(3, 5), zoneout=1.5)).startswith("Recurrent(…): zoneout is not a probability")
    assert text(tg.errors.ArgumentError, lambda: tg.nn.Module()(1)).startswith("Module(…): this module has no equations")
    with pytest.raises(AttributeError, match="weight_ih_l2"):
        layer.weight_ih_l2  # noqa: B018


def test_repr_shows_shapes_and_counts():
    assert repr(tg.nn.LSTM(3, 4, num_layers=2, dropout=0.2, proj_size=2, bias=False)) == """\
LSTM(3, 4, num_layers=2, bias=False, proj_size=2, dropout=0.2): 160 parameters
  weight_ih_l0  (16, 3)
  weight_hh_l0  (16, 2)
  weight_hr_l0  (2, 4)
  weight_ih_l1  (16, 2)
  weight_hh_l1  (16, 2)
  weight_hr_l1  (2, 4)"""
    assert repr(tg.nn.Sequential(tg.nn.Linear(3, 2), tg.tanh)) == """\
Sequential(): 8 parameters
  0: Linear(3, 2): 8 parameters
    weight  (2, 3)
    bias    (2,)
  1: tanh"""
    assert repr(tg.nn.Recurrent([tg.nn.RNNCell(1, 1, nonlinearity="relu")], zoneout=0.1)) == """\
Recurrent(zoneout=0.1): 4 parameters
  cells.0: RNNCell(1, 1, nonlinearity='relu'): 4 parameters
    weight_ih  (1, 1)
    weight_hh  (1, 1)
    bias_ih    (1,)
    bias_hh    (1,)"""
