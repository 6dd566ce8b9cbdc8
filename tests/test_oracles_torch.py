"""The layers, losses, optimisers and initial weights against PyTorch: values, every gradient, double backward."""

import numpy as np
import pytest

import tinygrad_rnn as tg

pytestmark = pytest.mark.oracle

F = tg.nn.functional


@pytest.fixture
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def arrays(module):
    return {name: p.detach().numpy().copy() for name, p in module.state_dict().items()}


# ---- RNN, LSTM, GRU -----------------------------------------------------------------------------------------


def configuration(seed):
    """A random layer and input: every option of PyTorch's that has no randomness of its own."""
    rng = np.random.default_rng(seed)
    kind = ["RNN", "LSTM", "GRU"][seed % 3]
    I, H, L = (int(n) for n in rng.integers(1, 6, 3))
    options = dict(num_layers=min(L, 3), bias=bool(rng.integers(4)), batch_first=bool(rng.integers(2)), bidirectional=bool(rng.integers(2)))
    if kind == "RNN":
        options["nonlinearity"] = ["tanh", "relu"][rng.integers(2)]
    if kind == "LSTM" and H > 1 and rng.integers(2):
        options["proj_size"] = int(rng.integers(1, H))
    batched, T, B = bool(rng.integers(4)), int(rng.integers(1, 8)), int(rng.integers(1, 5))
    x = rng.normal(size=((B, T, I) if options["batch_first"] else (T, B, I)) if batched else (T, I))
    D, P = 2 if options["bidirectional"] else 1, options.get("proj_size") or H
    batch = (B,) if batched else ()
    state = tuple(rng.normal(size=(options["num_layers"] * D, *batch, n)) for n in ((P, H) if kind == "LSTM" else (H,)))
    lengths = rng.integers(1, T + 1, B) if batched and rng.integers(2) else None
    if lengths is not None:
        lengths[rng.integers(B)] = T
    return kind, (I, H), options, x, (state if rng.integers(3) else None), lengths


def theirs_run(torch, layer, x, state, lengths):
    hx = None if state is None else state if len(state) > 1 else state[0]
    if lengths is None:
        return layer(x, hx)
    pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    out, last = layer(pack(x, torch.tensor(lengths), batch_first=layer.batch_first, enforce_sorted=False), hx)
    return unpack(out, batch_first=layer.batch_first)[0], last


def flat(y, last):
    return [y, *(last if isinstance(last, tuple) else (last,))]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("seed", range(60))
def test_recurrent_layers_and_all_their_derivatives(torch, seed, compiled):
    """Output, states, the gradient of every input and parameter, and the gradient of a function of those gradients."""
    kind, sizes, options, x, state, lengths = configuration(seed)
    theirs = getattr(torch.nn, kind)(*sizes, **options).double()
    ours = getattr(tg.nn, kind)(*sizes, **options)
    ours.load_state_dict(arrays(theirs))
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: tuple(p.shape) for n, p in theirs.named_parameters()}

    names = [n for n, _ in theirs.named_parameters()]
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, *(state or ()))]
    leaves = [*inputs, *theirs.parameters()]
    outputs = flat(*theirs_run(torch, theirs, inputs[0], inputs[1:] and tuple(inputs[1:]) or None, lengths))
    rng = np.random.default_rng(seed + 1000)
    weights = [rng.normal(size=tuple(o.shape)) for o in outputs]
    loss = sum((torch.sin(o) * torch.tensor(w)).sum() for o, w in zip(outputs, weights))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    directions = [rng.normal(size=tuple(g.shape)) for g in first]
    along = sum((g * torch.tensor(d)).sum() for g, d in zip(first, directions))
    second = torch.autograd.grad(along, leaves, allow_unused=True)

    def of(values):
        n = len(inputs)
        model = tg.trees.map(lambda p: p, ours).tree_replace(dict(zip(names, values[n:])))
        hx = None if state is None else tuple(values[1:n]) if n > 2 else values[1]
        return flat(*model(values[0], hx, lengths=lengths, compiled=compiled))

    def our_loss(values):
        return sum(((tg.sin(o) * w).sum() for o, w in zip(of(values), weights)), 0.0)

    values = [leaf.detach().numpy().copy() for leaf in leaves]
    for mine, their in zip(of(values), outputs):
        np.testing.assert_allclose(np.asarray(mine), their.detach().numpy(), rtol=1e-10, atol=1e-12)
    for mine, their in zip(tg.grad(our_loss)(values), first):
        np.testing.assert_allclose(mine, their.detach().numpy(), rtol=1e-9, atol=1e-11)
    for mine, their in zip(tg.hvp(our_loss, (values,), (directions,)), second):
        np.testing.assert_allclose(mine, np.zeros(mine.shape) if their is None else their.numpy(), rtol=1e-8, atol=1e-10)


def test_planted_faults_are_found(torch, monkeypatch):
    """The comparison above fails for biases exchanged in a GRU, for a gradient that forgets a step, for lengths that are
    not heeded."""
    original = tg.nn.GRUCell.__call__

    def exchanged(self, h, x):
        self = self.tree_replace({**self.tree_children(), "bias_ih": self.bias_hh, "bias_hh": self.bias_ih})
        return original(self, h, x)

    def forgetful(self, h, x):
        return original(self, tg.stop_gradient(h), x)

    for fault in (exchanged, forgetful):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(tg.nn.GRUCell, "__call__", fault)
            for seed in (2, 5, 8):
                test_recurrent_layers_and_all_their_derivatives(torch, seed, False)
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        run = tg.nn.GRU.run
        patch.setattr(tg.nn.GRU, "run", lambda self, xs, states, lengths, options: run(self, xs, states, None, options))
        for seed in range(2, 60, 3):
            test_recurrent_layers_and_all_their_derivatives(torch, seed, False)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cells(torch, kind):
    theirs = getattr(torch.nn, kind + "Cell")(3, 5).double()
    ours = getattr(tg.nn, kind + "Cell")(3, 5)
    ours.load_state_dict(arrays(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    x, state = rng.normal(size=(4, 3)), tuple(rng.normal(size=(4, 5)) for _ in range(1 + (kind == "LSTM")))
    expected = theirs(torch.tensor(x), tuple(map(torch.tensor, state)) if len(state) > 1 else torch.tensor(state[0]))
    got, y = ours(state if len(state) > 1 else state[0], x)
    for mine, their in zip(got if len(state) > 1 else (got,), expected if len(state) > 1 else (expected,)):
        np.testing.assert_allclose(mine.numpy(), their.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "Linear"])
def test_weights_start_from_the_same_distribution(torch, kind):
    """Bounds and deviations of a large layer's parameters; the names and their order."""
    theirs = getattr(torch.nn, kind)(300, 400)
    ours = getattr(tg.nn, kind)(300, 400, rng=0)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, values in ours.state_dict().items():
        their = theirs.state_dict()[name].numpy()
        np.testing.assert_allclose(np.abs(values).max(), np.abs(their).max(), rtol=0.02)
        np.testing.assert_allclose(values.std(), their.std(), rtol=0.1)


def test_our_state_goes_into_their_module(torch):
    ours = tg.nn.GRU(3, 5, num_layers=2, bidirectional=True, rng=0)
    theirs = torch.nn.GRU(3, 5, num_layers=2, bidirectional=True).double()
    theirs.load_state_dict({name: torch.tensor(values) for name, values in ours.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    np.testing.assert_allclose(ours(x)[0].numpy(), theirs(torch.tensor(x))[0].detach().numpy(), rtol=1e-10, atol=1e-12)


# ---- dense layers and losses --------------------------------------------------------------------------------


def compare(torch, ours, theirs, *inputs, rtol=1e-10, atol=1e-12):
    """Value and gradient with respect to the first input."""
    their = [torch.tensor(a) for a in inputs]
    their[0].requires_grad_(True)
    expected = theirs(*their)
    value, pullback = tg.vjp(lambda x: ours(x, *inputs[1:]), inputs[0])
    np.testing.assert_allclose(plain(value), expected.detach().numpy(), rtol=rtol, atol=atol)
    g = np.random.default_rng(0).normal(size=np.shape(value))
    (expected,) = torch.autograd.grad(expected, their[0], torch.tensor(g))
    np.testing.assert_allclose(plain(pullback(g)[0]), expected.numpy(), rtol=rtol, atol=atol)


def torched(torch, array):
    return None if array is None else torch.tensor(array)


def plain(value):
    return value.numpy() if isinstance(value, tg.Tensor) else value


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_numbers(torch, reduction, scale):
    rng, L = np.random.default_rng(0), torch.nn.functional
    x, y, z = scale * rng.normal(size=(5, 4)), scale * rng.normal(size=(5, 4)), rng.random((5, 4)).round(1)
    compare(torch, lambda a, b: F.mse_loss(a, b, reduction), lambda a, b: L.mse_loss(a, b, reduction=reduction), x, y)
    compare(torch, lambda a, b: F.huber_loss(a, b, reduction, 0.7), lambda a, b: L.huber_loss(a, b, reduction=reduction, delta=0.7), x, y)
    for weight, positive in ((None, None), (rng.random((5, 4)), None), (rng.random(4), rng.random(4) + 0.5)):
        v, q = torched(torch, weight), torched(torch, positive)
        compare(torch, lambda a, b, w=weight, p=positive: F.binary_cross_entropy_with_logits(a, b, w, reduction, p),
                lambda a, b, w=v, p=q: L.binary_cross_entropy_with_logits(a, b, w, reduction=reduction, pos_weight=p), x, z)


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (3, 4, 2), (2, 4, 3, 2)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_classes(torch, reduction, shape, scale):
    rng, L = np.random.default_rng(1), torch.nn.functional
    x, axis = scale * rng.normal(size=shape), 0 if len(shape) == 1 else 1
    rest = shape[:axis] + shape[axis + 1:]
    target, soft = rng.integers(0, 4, rest), np.apply_along_axis(lambda v: v / v.sum(), axis, rng.random(shape))
    if rest:
        target.flat[0] = -100
    for weight in (None, rng.random(4)):
        w = torched(torch, weight)
        for smoothing in (0.0, 0.1, 1.0):
            for t in (target, soft):
                compare(torch, lambda a, b, w=weight, s=smoothing: F.cross_entropy(a, b, w, reduction=reduction, label_smoothing=s),
                        lambda a, b, w=w, s=smoothing: L.cross_entropy(a, b, w, reduction=reduction, label_smoothing=s), x, t)
        compare(torch, lambda a, b, w=weight: F.nll_loss(a, b, w, reduction=reduction), lambda a, b, w=w: L.nll_loss(a, b, w, reduction=reduction), x, target)
    compare(torch, lambda a, b: F.cross_entropy(a, b, ignore_index=2, reduction="sum"),
            lambda a, b: L.cross_entropy(a, b, ignore_index=2, reduction="sum"), x, np.abs(target) % 4)


def test_dense_layers(torch):
    rng = np.random.default_rng(0)
    for ours, theirs, x in ((tg.nn.Linear(3, 2), torch.nn.Linear(3, 2), rng.normal(size=(4, 5, 3))),
                            (tg.nn.LayerNorm(3, bias=True), torch.nn.LayerNorm(3), rng.normal(size=(4, 3))),
                            (tg.nn.LayerNorm((3,), 0.1, False), torch.nn.LayerNorm((3,), 0.1, False), rng.normal(size=(4, 3)))):
        theirs = theirs.double()
        ours.load_state_dict({name: values + 0.1 for name, values in arrays(theirs).items()})
        theirs.load_state_dict({name: torch.tensor(values) for name, values in ours.state_dict().items()})
        compare(torch, ours, theirs, x)
    ours, theirs = tg.nn.Embedding(6, 3, padding_idx=2), torch.nn.Embedding(6, 3, padding_idx=2).double()
    ours.load_state_dict(arrays(theirs))
    x = np.array([[1, 2, 1], [5, 0, 2]])
    g = rng.normal(size=(2, 3, 3))
    (ours(x) * g).sum().backward()
    (theirs(torch.tensor(x)) * torch.tensor(g)).sum().backward()
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=1e-12)


# ---- optimisers ---------------------------------------------------------------------------------------------

SETTINGS = [
    ("SGD", dict(lr=0.1)), ("SGD", dict(lr=0.1, weight_decay=0.1)), ("SGD", dict(lr=0.05, momentum=0.9, dampening=0.3)),
    ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)),
    ("RMSprop", dict(lr=0.02)), ("RMSprop", dict(lr=0.02, alpha=0.9, centered=True, momentum=0.5, weight_decay=0.01)),
    ("Adagrad", dict(lr=0.1)), ("Adagrad", dict(lr=0.1, lr_decay=0.01, weight_decay=0.01, initial_accumulator_value=0.5)),
    ("Adam", dict(lr=0.03)), ("Adam", dict(lr=0.03, betas=(0.8, 0.95), weight_decay=0.1, amsgrad=True)),
    ("AdamW", dict(lr=0.03)), ("AdamW", dict(lr=0.03, weight_decay=0.2, amsgrad=True)),
]


@pytest.mark.parametrize("name, settings", SETTINGS)
def test_optimisers_step_by_step(torch, name, settings):
    """50 steps of a network's training, every parameter after every step; from step 20 on one parameter has no gradient."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=s) for s in ((4, 3), (4,), (2, 4))]
    ours = [tg.tensor(a, requires_grad=True) for a in start]
    theirs = [torch.tensor(a, requires_grad=True) for a in start]
    mine, their = getattr(tg.optim, name)(ours, **settings), getattr(torch.optim, name)(theirs, **settings)
    for k in range(50):
        x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
        mine.zero_grad()
        their.zero_grad()
        loss = tg.tanh(x @ ours[0].T + (ours[1] if k < 20 else 0.0)) @ ours[2].T
        F.mse_loss(loss, y).backward()
        loss = torch.tanh(torch.tensor(x) @ theirs[0].T + (theirs[1] if k < 20 else 0.0)) @ theirs[2].T
        torch.nn.functional.mse_loss(loss, torch.tensor(y)).backward()
        mine.step()
        their.step()
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_groups_step_by_step(torch):
    """Groups with settings of their own, one frozen for a while, one added later, under a schedule."""
    start = [np.random.default_rng(0).normal(size=s) for s in ((4, 3), (4,), (2, 4))]
    runs = []
    for optim, schedules, tensors in ((tg.optim, tg.optim, [tg.tensor(a, requires_grad=True) for a in start]),
                                      (torch.optim, torch.optim.lr_scheduler, [torch.tensor(a, requires_grad=True) for a in start])):
        w, b, v = tensors
        rng, rows = np.random.default_rng(1), []
        optimizer = optim.AdamW([{"params": [w], "lr": 0.1}, {"params": [b], "betas": (0.5, 0.9), "weight_decay": 0.0}], lr=0.02)
        schedule = schedules.ExponentialLR(optimizer, 0.9)
        for k in range(30):
            for p in tensors:
                g = rng.normal(size=tuple(p.shape))
                p.grad = g if optim is tg.optim else torch.tensor(g)
            optimizer.param_groups[1]["weight_decay"] = 0.1 if 10 < k < 20 else 0.0
            if k == 15:
                optimizer.add_param_group({"params": [v], "eps": 1e-3})
            optimizer.step()
            schedule.step() if k < 15 else None  # PyTorch's do not take in a group that comes later
            rows.append([p.detach().numpy().copy() for p in tensors] + [np.array([group["lr"] for group in optimizer.param_groups])])
        runs.append(rows)
    for mine, their in zip(*runs):
        for a, b in zip(mine, their):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ours, theirs", [
    (lambda o: tg.optim.LambdaLR(o, lambda t: 0.9**t), lambda S, o: S.LambdaLR(o, lambda t: 0.9**t)),
    (lambda o: tg.optim.StepLR(o, 3, 0.5), lambda S, o: S.StepLR(o, 3, 0.5)),
    (lambda o: tg.optim.MultiStepLR(o, [2, 5]), lambda S, o: S.MultiStepLR(o, [2, 5])),
    (lambda o: tg.optim.ExponentialLR(o, 0.8), lambda S, o: S.ExponentialLR(o, 0.8)),
    (lambda o: tg.optim.LinearLR(o, 0.1, 1.0, 6), lambda S, o: S.LinearLR(o, 0.1, 1.0, 6)),
    (lambda o: tg.optim.CosineAnnealingLR(o, 10, 0.01), lambda S, o: S.CosineAnnealingLR(o, 10, 0.01))])
def test_schedules(torch, ours, theirs):
    mine = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=0.5)
    their = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5)
    a, b = ours(mine), theirs(torch.optim.lr_scheduler, their)
    for _ in range(25):
        np.testing.assert_allclose(mine.lr, their.param_groups[0]["lr"], rtol=1e-12, atol=1e-15)
        their.step()
        a.step()
        b.step()


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping(torch, norm_type, max_norm):
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=s) for s in ((4, 3), (4,))]
    ours, theirs = [tg.tensor(g, requires_grad=True) for g in grads], [torch.tensor(g, requires_grad=True) for g in grads]
    for p, q, g in zip(ours, theirs, grads):
        p.grad, q.grad = g, torch.tensor(g)
    norm = tg.optim.clip_grad_norm_(ours, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    np.testing.assert_allclose(norm, expected.item(), rtol=1e-12)
    tg.optim.clip_grad_value_(ours, 0.1)
    torch.nn.utils.clip_grad_value_(theirs, 0.1)
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-12)
