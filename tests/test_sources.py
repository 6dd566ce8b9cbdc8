"""The five sources: automatic BPTT, BPTT by hand and the complex step agree everywhere; planted faults do not."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.sources import classifier, counting, elman, sine_wave, step_by_step

sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


# ---- points: sizes, data, states and weights, all drawn ------------------------------------------------------


@st.composite
def points(draw, make):
    """A generator of numbers and as many sizes as `make` takes; weights of every magnitude; a state or none."""
    rng, weight = np.random.default_rng(draw(seeds)), draw(st.sampled_from([0.1, 1.0, 2.0]))
    count = len(inspect.signature(make).parameters) - 1
    params, data = make(rng.normal, *(draw(sizes) for _ in range(count)))
    params = {name: value * (1.0 if name in ("s0", "h0", "a0") else weight) for name, value in params.items()}
    return without_state(params) if draw(st.integers(0, 3)) == 0 else params, data


def without_state(params):
    return {name: value for name, value in params.items() if name not in ("s0", "h0", "a0")}


def sine_point(normal, N, T, H, O):
    params = dict(U=normal(size=(H, T)), V=normal(size=(O, H)), W=normal(size=(H, H)), s0=normal(size=(H, 1)))
    return params, (normal(size=(N, T, 1)), normal(size=(N, O)))


def sine_every_step_point(normal, N, T, H, O):
    params, (X, _) = sine_point(normal, N, T, H, O)
    return params, (X, normal(size=(N, T, O)))


def counting_point(normal, N, T):
    return dict(wx=normal(), wrec=normal(), s0=normal(size=N)), (normal(size=(N, T)), normal(size=N))


def elman_point(normal, T, B, I, H, O):
    shapes = dict(Whx=(H, I), Whh=(H, H), Wyh=(O, H), bh=(H, 1), by=(O, 1), h0=(H, B))
    data = normal(size=(T, B, I)), normal(size=(T, B, O))
    return {name: normal(size=shape) for name, shape in shapes.items()}, data


def classifier_point(normal, B, T, F, H, C):
    shapes = dict(w_x=(F, H), w_h=(H, H), b=(H,), w_y=(H, C), b_y=(C,), h0=(B, H))
    labels = normal(size=(B, C)).argmax(axis=1)
    return {name: normal(size=shape) for name, shape in shapes.items()}, (normal(size=(B, T, F)), labels)


def step_by_step_point(normal, n_x, m, T, n_a, n_y):
    shapes = dict(W_ax=(n_a, n_x), W_aa=(n_a, n_a), W_ya=(n_y, n_a), b_a=(n_a, 1), b_y=(n_y, 1), a0=(n_a, m))
    y = np.eye(n_y)[normal(size=(n_y, m, T)).argmax(axis=0)].transpose(2, 0, 1)
    return {name: normal(size=shape) for name, shape in shapes.items()}, (normal(size=(n_x, m, T)), y)


# ---- a third opinion: the equations of each page in a plain loop that complex numbers can run through ---------


def sigma(a):
    return 1 / (1 + np.exp(-a))


def sine_plain(p, X, Y):
    total = 0.0
    for x, y in zip(X, Y):
        s = p.get("s0", np.zeros((len(p["W"]), 1)))
        for t in range(len(x)):
            s = sigma(p["U"] @ (x * (np.arange(len(x)) == t)[:, None]) + p["W"] @ s)
        total = total + 0.5 * np.sum((y - (p["V"] @ s)[:, 0]) ** 2)
    return total


def sine_every_step_plain(p, X, Y):
    short = [p | {"U": p["U"][:, : t + 1]} for t in range(X.shape[1])]
    return sum(sine_plain(q, X[:, : t + 1], Y[:, t]) for t, q in enumerate(short))


def counting_plain(squash):
    def plain(p, x, y):
        s = p.get("s0", np.zeros(len(y)))
        for t in range(x.shape[1]):
            s = x[:, t] * p["wx"] + s * p["wrec"]
            s = squash(s) if t < x.shape[1] - 1 else s
        return np.sum((s - y) ** 2) / len(y)

    return plain


def elman_plain(p, x, y):
    h, total = p.get("h0", np.zeros((len(p["Whh"]), x.shape[1]))), 0.0
    for t in range(len(x)):
        h = np.tanh(p["Whh"] @ h + p["Whx"] @ x[t].T + p["bh"])
        total = total + 0.5 * np.sum((p["Wyh"] @ h + p["by"] - y[t].T) ** 2)
    return total


def classifier_plain(p, x, labels):
    h = p.get("h0", np.zeros((len(x), len(p["w_h"]))))
    for n in range(x.shape[1]):
        h = np.tanh(x[:, n] @ p["w_x"] + h @ p["w_h"] + p["b"])
    z = h @ p["w_y"] + p["b_y"]
    return -np.mean([row[label] - np.log(np.sum(np.exp(row))) for row, label in zip(z, labels)])


def step_by_step_plain(p, x, y):
    a, total = p.get("a0", np.zeros((len(p["W_aa"]), x.shape[1]))), 0.0
    for t in range(x.shape[2]):
        a = np.tanh(p["W_ax"] @ x[:, :, t] + p["W_aa"] @ a + p["b_a"])
        q = p["W_ya"] @ a + p["b_y"]
        total = total - np.sum(y[:, :, t] * (q - np.log(np.sum(np.exp(q), axis=0))))
    return total


CASES = {
    "sine_wave": (sine_wave.loss, sine_wave.bptt, sine_plain, sine_point),
    "sine_wave_every_step": (
        sine_wave.loss_every_step, sine_wave.bptt_every_step, sine_every_step_plain, sine_every_step_point
    ),
    "counting_linear": (counting.loss_linear, counting.bptt_linear, counting_plain(lambda s: s), counting_point),
    "counting_logistic": (counting.loss_logistic, counting.bptt_logistic, counting_plain(sigma), counting_point),
    "elman": (elman.loss, elman.bptt, elman_plain, elman_point),
    "classifier": (classifier.loss, classifier.bptt, classifier_plain, classifier_point),
    "step_by_step": (step_by_step.loss, step_by_step.bptt, step_by_step_plain, step_by_step_point),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES)


def automatic(loss, params, data):
    """Loss, gradients of every parameter and, under "x", of the inputs, by the engine."""
    f = tg.value_and_grad(lambda p, x: loss(p, x, *data[1:]), argnums=(0, 1))
    value, (grads, dx) = f(params, data[0])
    return value, grads | {"x": dx}


def assert_same_gradients(found, expected, tolerance=1e-10):
    """Norm-wise relative. A gradient below a thousandth of the largest, or of 1 (all data are drawn of that size), is
    measured in units of that: it is what is left when large numbers cancel, as in the 1 − h² of a saturated unit, or
    in softmax − onehot with a single class."""
    sizes = {name: np.linalg.norm(g) for name, g in expected.items()}
    floor = 1e-3 * max(1.0, *sizes.values())
    for name in found:
        assert np.shape(found[name]) == np.shape(expected[name]), name
        distance = np.linalg.norm(np.subtract(found[name], expected[name]))
        assert distance <= tolerance * max(sizes[name], floor), (name, distance, sizes[name])


# ---- automatic = by hand = complex step ----------------------------------------------------------------------


@every_case
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_automatic_is_by_hand(case, data):
    loss, bptt, _, make = CASES[case]
    params, inputs = data.draw(points(make))
    value, grads = automatic(loss, params, inputs)
    by_hand, expected = bptt(params, *inputs)
    assert set(grads) == set(params) | {"x"}
    np.testing.assert_allclose(value, by_hand, rtol=1e-12, atol=1e-14)
    assert_same_gradients(grads, expected)


@every_case
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_by_hand_is_complex_step(case, data):
    _, bptt, plain, make = CASES[case]
    params, inputs = data.draw(points(make))
    assert_complex_step(plain, bptt, params, inputs)


def assert_complex_step(plain, bptt, params, inputs):
    """Every gradient along a random direction of its own: Im f(p + iεv) / ε = ⟨∂f/∂p, v⟩."""
    value, grads = bptt(params, *inputs)
    np.testing.assert_allclose(value, plain(params, *inputs), rtol=1e-12, atol=1e-14)
    rng, largest = np.random.default_rng(0), max(1.0, *(np.linalg.norm(g) for g in grads.values()))
    for name in [*params, "x"]:
        at = inputs[0] if name == "x" else params[name]
        v = rng.normal(size=np.shape(at))
        moved = at + 1e-30j * v
        there = (params, moved, *inputs[1:]) if name == "x" else (params | {name: moved}, *inputs)
        np.testing.assert_allclose(
            plain(*there).imag / 1e-30, np.sum(grads[name] * v), rtol=1e-9, atol=1e-12 * largest, err_msg=name
        )


@every_case
def test_a_state_of_zeros_is_no_state(case):
    loss, bptt, _, make = CASES[case]
    params, inputs = make(np.random.default_rng(0).normal, *[3] * (len(inspect.signature(make).parameters) - 1))
    (state,) = set(params) - set(without_state(params))
    zero = params | {state: np.zeros_like(params[state])}
    assert float(loss(zero, *inputs)) == float(loss(without_state(params), *inputs))
    with_it, without = bptt(zero, *inputs)[1], bptt(without_state(params), *inputs)[1]
    assert set(with_it) == set(without) == set(params) | {"x"}
    assert all(np.array_equal(with_it[name], without[name]) for name in with_it)


@every_case
def test_without_a_transform_a_loss_is_a_plain_value(case):
    loss, bptt, _, make = CASES[case]
    params, inputs = make(np.random.default_rng(0).normal, *[3] * (len(inspect.signature(make).parameters) - 1))
    kept = {name: np.copy(value) for name, value in params.items()}
    value = loss(params, *inputs)
    assert not isinstance(value, tg.Tensor) and np.shape(value) == ()
    bptt(params, *inputs)
    assert all(np.array_equal(kept[name], params[name]) for name in params)


@pytest.mark.parametrize("case", ["sine_wave", "counting_linear", "elman", "classifier", "step_by_step"])
def test_without_a_step_the_state_alone_has_a_gradient(case):
    loss, bptt, _, make = CASES[case]
    params, inputs = make(np.random.default_rng(0).normal, *[3] * (len(inspect.signature(make).parameters) - 1))
    if case == "elman":
        none = inputs[0][:0], inputs[1][:0]
    elif case == "step_by_step":
        none = inputs[0][:, :, :0], inputs[1][:, :, :0]
    else:
        none = inputs[0][:, :0], inputs[1]
        params = params | ({"U": params["U"][:, :0]} if case == "sine_wave" else {})
    value, grads = automatic(loss, params, none)
    by_hand, expected = bptt(params, *none)
    assert float(value) == pytest.approx(float(by_hand), rel=1e-12)
    assert_same_gradients(grads, expected)
    (state,) = set(params) - set(without_state(params))
    assert np.any(grads[state]) == (case in ("sine_wave", "counting_linear", "classifier"))


@every_case
def test_data_may_be_integers(case):
    loss, bptt, _, make = CASES[case]
    params, inputs = make(np.random.default_rng(0).normal, *[3] * (len(inspect.signature(make).parameters) - 1))
    params, whole = without_state(params), tuple(np.rint(3 * one).astype(int) for one in inputs)
    whole = (whole[0], inputs[1]) if case in ("classifier", "step_by_step") else whole
    real = whole[0].astype(float), *whole[1:]
    assert float(loss(params, *whole)) == float(loss(params, *real))
    grads, expected = tg.grad(loss)(params, *whole), tg.grad(loss)(params, *real)
    by_hand = bptt(params, *whole)[1]
    assert all(np.array_equal(grads[name], expected[name]) for name in params)
    assert all(np.array_equal(by_hand[name], g) for name, g in bptt(params, *real)[1].items())


# ---- a fault in the derivation is seen -----------------------------------------------------------------------

FAULTS = {
    ("sine_wave", "bptt"): [
        ("ds = W.T @ delta", "ds = W @ delta"),
        ("delta = ds * s[t + 1] * (1 - s[t + 1])", "delta = ds * s[t] * (1 - s[t])"),
        ("dW += delta @ s[t].T", "dW += delta @ s[t + 1].T"),
        ("ds = V.T @ e\n", "ds = V.T @ -e\n"),
        ("dU[:, t] = delta @ x[:, t]", "dU[:, t] = delta @ x[:, t - 1]"),
        ('"s0": ds.sum(axis=1, keepdims=True)', '"s0": ds[:, :1]'),
    ],
    ("counting", "bptt_linear"): [
        ('g = g * params["wrec"]', 'g = g + params["wrec"]'),
        ("dwrec += g @ s[t]", "dwrec += g @ s[t + 1]"),
        ("2 / len(y) * error)", "2 * error)"),
        ('dx[:, t] = g * params["wx"]', 'dx[:, t] = g * params["wrec"]'),
    ],
    ("counting", "bptt_logistic"): [
        ("g * wrec * s[t] * (1 - s[t])", "g * wrec"),
        ("g = g * wrec if t == 0 else", "g ="),
        ("dwx += g @ x[:, t]", "dwx += g @ x[:, t - 1]"),
    ],
    ("elman", "bptt"): [
        ("dh = Whh.T @ delta", "dh = Whh @ delta"),
        ("delta = (1 - h[t + 1] ** 2)", "delta = (1 - h[t] ** 2)"),
        ('d["Whh"] += delta @ h[t].T', 'd["Whh"] += delta @ h[t - 1].T'),
        ('d["bh"] += delta.sum(axis=1, keepdims=True)', 'd["bh"] += delta[:, :1]'),
        ('d["by"] +=', 'd["by"] ='),
    ],
    ("classifier", "bptt"): [
        ('d_h, params["w_h"].T)', 'd_h, params["w_h"])'),
        ("return -np.mean(log_p[rows, labels]), dz / len(labels), h", "return -np.mean(log_p[rows, labels]), dz, h"),
        ("delta = (1 - h[n + 1] ** 2) * d", "delta = (1 - h[n + 1]) * d"),
        ('grads["w_h"] += h[n].T @ delta', 'grads["w_h"] += (h[n].T @ delta).T'),
    ],
    ("step_by_step", "bptt"): [
        ('carried = params["W_aa"].T @ dz', 'carried = params["W_aa"] @ dz'),
        ("(da[:, :, t] + carried)", "da[:, :, t]"),
        ("dq = softmax(q) - y[:, :, t]", "dq = softmax(q)"),
        ('grads["W_aa"] += dz @ a[t].T', 'grads["W_aa"] += params["W_aa"]'),
    ],
}  # fmt: skip


def planted(source, name, right, wrong):
    """The function of that name in a copy of its source in which `right`, in it or in what it calls, is `wrong`."""
    text = inspect.getsource(source)
    start = text.index(f"def {name}(")
    if right not in text[start:]:
        start = text.index("# ── by hand")
    assert right in text[start:]
    scope = {"__name__": source.__name__, "__package__": source.__package__}
    exec(compile(text[:start] + text[start:].replace(right, wrong, 1), f"<{name} with a fault>", "exec"), scope)
    return scope[name]


@pytest.mark.parametrize(
    "source, name, right, wrong", [(*key, *fault) for key, faults in FAULTS.items() for fault in faults]
)
def test_a_planted_fault_is_seen(source, name, right, wrong):
    case = {"bptt_linear": "counting_linear", "bptt_logistic": "counting_logistic"}.get(name, source)
    loss, bptt, plain, _ = CASES[case]
    module = getattr(tg.sources, source)
    params, data = module.example()
    assert_same_gradients(automatic(loss, params, data)[1], bptt(params, *data)[1])
    assert_complex_step(plain, bptt, params, data)
    faulty = planted(module, name, right, wrong)
    with pytest.raises(AssertionError):
        assert_same_gradients(automatic(loss, params, data)[1], faulty(params, *data)[1])
    with pytest.raises(AssertionError):
        assert_complex_step(plain, faulty, params, data)
