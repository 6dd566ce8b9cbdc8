"""Optimisers against straight loops in NumPy, schedules, clipping, resuming, and what they refuse."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg

# ---- each optimiser once more, as a loop over plain numbers -------------------------------------------------


def sgd(p, grads, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    b = None
    for g in grads:
        g = g + weight_decay * p
        if momentum:
            b = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        p = p - lr * g
        yield p


def rmsprop(p, grads, lr, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    v = m = b = 0.0
    for g in grads:
        g = g + weight_decay * p
        v, m = alpha * v + (1 - alpha) * g**2, alpha * m + (1 - alpha) * g
        b = momentum * b + g / (math.sqrt(v - m**2 if centered else v) + eps)
        p = p - lr * b
        yield p


def adagrad(p, grads, lr, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10):
    s = initial_accumulator_value
    for t, g in enumerate(grads):
        g = g + weight_decay * p
        s = s + g**2
        p = p - lr / (1 + t * lr_decay) * g / (math.sqrt(s) + eps)
        yield p


def adam(p, grads, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, decoupled=False):
    m = v = top = 0.0
    for t, g in enumerate(grads, 1):
        p, g = (p - lr * weight_decay * p, g) if decoupled else (p, g + weight_decay * p)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        top = max(top, v)
        p = p - lr * (m / (1 - betas[0]**t)) / (math.sqrt((top if amsgrad else v) / (1 - betas[1]**t)) + eps)
        yield p


CASES = [
    (tg.optim.SGD, sgd, dict(lr=0.1)), (tg.optim.SGD, sgd, dict(lr=0.05, momentum=0.9, dampening=0.2, weight_decay=0.1)),
    (tg.optim.SGD, sgd, dict(lr=0.05, momentum=0.9, nesterov=True)),
    (tg.optim.RMSProp, rmsprop, dict(lr=0.02)), (tg.optim.RMSprop, rmsprop, dict(lr=0.02, alpha=0.8, momentum=0.5, centered=True, weight_decay=0.1)),
    (tg.optim.Adagrad, adagrad, dict(lr=0.1)), (tg.optim.Adagrad, adagrad, dict(lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.3)),
    (tg.optim.Adam, adam, dict(lr=0.05)), (tg.optim.Adam, adam, dict(lr=0.05, betas=(0.7, 0.9), weight_decay=0.1, amsgrad=True)),
    (tg.optim.AdamW, lambda p, g, **o: adam(p, g, **o, decoupled=True), dict(lr=0.05, weight_decay=0.2)),
]


@pytest.mark.parametrize("kind, reference, settings", CASES)
def test_fifty_steps_equal_the_loop_over_numbers(kind, reference, settings):
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(2, 3)), rng.normal(size=(50, 2, 3))
    p, alone = tg.tensor(start, requires_grad=True), tg.tensor(start, requires_grad=True)
    optimizer = kind([("w", p), ("never", alone)], **settings)
    rows = []
    for g in grads:
        optimizer.zero_grad()
        p.grad = g
        optimizer.step()
        rows.append(p.numpy())
    expected = np.array([list(reference(float(start[i]), grads[:, *i].tolist(), **settings)) for i in np.ndindex(2, 3)]).T.reshape(50, 2, 3)
    np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(alone.numpy(), start)
    narrow = tg.tensor(start.astype(np.float32), requires_grad=True)
    narrow.grad = grads[0]
    kind([narrow], **settings).step()
    assert narrow.dtype == np.float32


def test_a_planted_fault_is_found():
    """Adam without the correction for the start at zero fails the comparison at the first step."""
    class Uncorrected(tg.optim.Adam):
        def direction(self, g, memory):
            m = memory["mean"] = 0.1 * g
            return m / (np.sqrt(0.001 * g * g) + self.eps)

    with pytest.raises(AssertionError):
        test_fifty_steps_equal_the_loop_over_numbers(Uncorrected, adam, dict(lr=0.05))


@pytest.mark.parametrize("kind, reference, settings", CASES)
def test_a_run_resumes_bit_for_bit(kind, reference, settings):
    """State of model and optimiser through arrays, as a file holds them, in the middle of a run."""
    def steps(model, optimizer, first, last):
        for k in range(first, last):
            optimizer.zero_grad()
            x = np.random.default_rng(k).normal(size=(5, 2, 3))
            tg.sum(tg.square(model(x)[0])).backward()
            optimizer.step()

    model = tg.nn.GRU(3, 4, rng=0)
    optimizer = kind(model, **settings)
    steps(model, optimizer, 0, 3)
    saved = model.state_dict(), optimizer.state_dict()
    other = tg.nn.GRU(3, 4, rng=1)
    resumed = kind(other, **{**settings, "lr": 1.0})
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    steps(model, optimizer, 3, 6)
    steps(other, resumed, 3, 6)
    assert all(np.array_equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_graph_that_was_built_before_the_step_keeps_its_numbers():
    w = tg.tensor([2.0], requires_grad=True)
    loss = (w * w).sum()
    w.grad = np.array([1.0])
    tg.optim.SGD([w], lr=1.0).step()
    w.grad = None
    loss.backward()
    assert w.grad.tolist() == [4.0] and w.tolist() == [1.0]


SCHEDULES = {
    "lambda": (lambda o: tg.optim.LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: 2 / (1 + t)),
    "step": (lambda o: tg.optim.StepLR(o, 3, 0.5), lambda t: 2 * 0.5 ** (t // 3)),
    "milestones": (lambda o: tg.optim.MultiStepLR(o, [2, 5]), lambda t: 2 * (1 if t < 2 else 0.1 if t < 5 else 0.01)),
    "exponential": (lambda o: tg.optim.ExponentialLR(o, 0.9), lambda t: 2 * 0.9**t),
    "linear": (lambda o: tg.optim.LinearLR(o, 0.0, 1.0, 4), lambda t: 2 * min(t / 4, 1)),
    "cosine": (lambda o: tg.optim.CosineAnnealingLR(o, 8, 0.5), lambda t: 0.5 + 1.5 * (1 + math.cos(math.pi * t / 8)) / 2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    make, rate = SCHEDULES[name]
    optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=2.0)
    schedule = make(optimizer)
    for t in range(9):
        np.testing.assert_allclose(optimizer.lr, rate(t), rtol=1e-14)
        schedule.step()


# ---- clipping -----------------------------------------------------------------------------------------------


def with_grads(*grads):
    found = [tg.tensor(np.zeros(np.shape(g)), requires_grad=True) for g in grads]
    for p, g in zip(found, grads):
        p.grad = g
    return found


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_clip_grad_norm(norm_type):
    grads = [np.array([3.0, -4.0]), np.array([[12.0]])]
    everything = np.array([3.0, 4.0, 12.0])
    norm = everything.max() if norm_type == math.inf else (everything**norm_type).sum() ** (1 / norm_type)
    parameters = [*with_grads(*grads), tg.tensor([1.0], requires_grad=True)]
    np.testing.assert_allclose(tg.optim.clip_grad_norm_(parameters, 100.0, norm_type), norm, rtol=1e-14)
    assert all(np.array_equal(p.grad, g) for p, g in zip(parameters, grads))
    np.testing.assert_allclose(tg.optim.clip_grad_norm_(parameters, 1.0, norm_type), norm, rtol=1e-14)
    for p, g in zip(parameters, grads):
        np.testing.assert_allclose(p.grad, g / (norm + 1e-6), rtol=1e-14)
    assert parameters[2].grad is None


def test_clip_grad_norm_of_huge_tiny_and_no_gradients():
    (p,) = with_grads([3e200, 4e200])
    np.testing.assert_allclose(tg.optim.clip_grad_norm_(p, 1.0), 5e200, rtol=1e-12)
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-12)
    (p,) = with_grads([3e-200, 4e-200])
    np.testing.assert_allclose(tg.optim.clip_grad_norm_([p], 1.0), 5e-200, rtol=1e-12)
    assert tg.optim.clip_grad_norm_(with_grads(np.zeros(3)), 1.0) == 0 and tg.optim.clip_grad_norm_([tg.tensor([1.0], requires_grad=True)], 1.0) == 0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_infinite_gradient_is_named_and_nothing_changes(bad):
    model = tg.nn.GRU(3, 4, rng=0)
    before = model.state_dict()
    for _, p in model.named_parameters():
        p.grad = np.ones(p.shape)
    model.bias_ih_l0.grad = np.where(np.arange(12) == 5, bad, 1.0)
    optimizer = tg.optim.Adam(model)
    for who, call in (("clip_grad_norm_(parameters, max_norm)", lambda: tg.optim.clip_grad_norm_(model, 1.0)), ("Adam.step()", optimizer.step)):
        with pytest.raises(tg.errors.NonFiniteError) as found:
            call()
        assert str(found.value) == f"""\
{who}: the gradient of parameter bias_ih_l0 is not finite
  bias_ih_l0  (12,)
  elements    1 of 12
  first       {bad}
Nothing was changed. Look for the first non-finite value, lower the learning rate, or clip earlier."""
    assert all(np.array_equal(v, before[k]) for k, v in model.state_dict().items()) and optimizer.memory["weight_ih_l0"] == {}
    assert (model.weight_ih_l0.grad == 1).all() and model.bias_ih_l0.grad[4] == 1


def test_clip_grad_value():
    (p,) = with_grads([30.0, -0.5, -40.0, np.inf, np.nan])
    tg.optim.clip_grad_value_([p], 10.0)
    np.testing.assert_array_equal(p.grad, [10, -0.5, -10, 10, np.nan])


# ---- what they refuse ---------------------------------------------------------------------------------------


def text(error, call):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def test_messages():
    E, w = tg.errors, tg.tensor([1.0], requires_grad=True)
    assert text(E.ArgumentError, lambda: tg.optim.SGD([])) == """\
named(parameters): there are no parameters
  parameters  0
Pass model.parameters(), or the model."""
    assert text(E.ArgumentError, lambda: tg.optim.SGD([np.ones(2)])).startswith("named(parameters): 0 is not a Tensor")
    assert text(E.DomainError, lambda: tg.optim.Adam([w], betas=(0.9, 1.0))) == """\
Adam(…): betas is out of range
  betas  (0.9, 1.0)
Pass betas at least 0 and below 1."""
    for call in (lambda: tg.optim.SGD([w], lr=-1.0), lambda: tg.optim.SGD([w], nesterov=True),
                 lambda: tg.optim.SGD([w], momentum=0.9, dampening=0.1, nesterov=True),
                 lambda: tg.optim.RMSProp([w], eps=-1e-8), lambda: tg.optim.Adam([w], lr=math.nan), lambda: tg.optim.clip_grad_norm_([w], -1.0),
                 lambda: tg.optim.clip_grad_value_([w], math.nan), lambda: tg.optim.clip_grad_norm_([w], 1.0, 0.0)):
        text(E.DomainError, call)
    optimizer = tg.optim.Adam(tg.nn.Linear(3, 2))
    with pytest.raises(E.StateError, match="other/mean belongs to no parameter"):
        optimizer.load_state_dict({"weight/mean": np.zeros((2, 3)), "other/mean": np.zeros(2)})
    with pytest.raises(E.ShapeError, match="weight/mean has another shape"):
        optimizer.load_state_dict({"weight/mean": np.zeros((3, 3))})
    assert optimizer.memory == {"weight": {}, "bias": {}}
    assert repr(optimizer) == "Adam(lr=0.001): 2 parameters of 8 numbers"


@pytest.mark.parametrize("parameters", [lambda m: m, lambda m: m.parameters(), lambda m: m.named_parameters(), lambda m: dict(m.named_parameters())])
def test_ways_to_say_which_parameters(parameters):
    model = tg.nn.Linear(3, 2, rng=0)
    optimizer = tg.optim.SGD(parameters(model), lr=1.0)
    model(np.ones((1, 3))).sum().backward()
    before = model.bias.numpy()
    optimizer.step()
    np.testing.assert_allclose(model.bias.numpy(), before - 1)
