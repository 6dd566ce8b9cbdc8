"""Training runs: they learn, keep their memory flat, and float32 stays near float64 over ten thousand steps."""

import gc
import sys

import numpy as np
import pytest

import tinygrad_rnn as tg

F = tg.nn.functional


@pytest.mark.parametrize("kind", [tg.nn.RNN, tg.nn.LSTM, tg.nn.GRU])
@pytest.mark.parametrize("optimizer", [lambda m: tg.optim.Adam(m, lr=0.02), lambda m: tg.optim.RMSProp(m, lr=0.01),
                                       lambda m: tg.optim.SGD(m, lr=0.1, momentum=0.9, nesterov=True)])
def test_learns_to_remember_the_first_bit(kind, optimizer):
    """The class of the first step, asked for at the last, four steps later."""
    rng = np.random.default_rng(0)
    model = tg.nn.Sequential(kind(2, 12, rng=rng, return_state=False), tg.nn.Linear(12, 2, rng=rng))
    step, losses = optimizer(model), []
    for _ in range(250):
        x = rng.normal(size=(5, 32, 2))
        target = (x[0, :, 0] > 0).astype(int)
        step.zero_grad()
        loss = F.cross_entropy(model(x)[-1], target)
        loss.backward()
        tg.optim.clip_grad_norm_(model, 1.0)
        step.step()
        losses.append(loss.item())
    assert losses[0] > 0.6 and np.mean(losses[-20:]) < 0.3


@pytest.mark.parametrize("leak", [False, True])
def test_a_thousand_training_steps_leave_nothing_behind(leak):
    """With the collector off: no cycles to find, and less than one block of memory every other step (NumPy's own caches fill
    up slowly). One number kept per step, which is planted, is seen."""
    rng, kept = np.random.default_rng(0), []
    model = tg.nn.Sequential(tg.nn.LSTM(2, 4, rng=rng, return_state=False), tg.nn.Dropout(0.1, rng=rng), tg.nn.Linear(4, 1, rng=rng))
    step, x, y = tg.optim.Adam(model), rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 2, 1))

    def train(steps):
        for _ in range(steps):
            step.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            step.step()
            if leak:
                kept.append(loss.item())

    gc.collect()
    gc.disable()
    try:
        train(400)
        gc.collect()
        before = sys.getallocatedblocks()
        train(1000)
        cycles, grown = gc.collect(), sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert cycles == 0 and (grown < 500) is not leak


@pytest.mark.parametrize("kind", [tg.nn.RNN, tg.nn.LSTM, tg.nn.GRU])
def test_float32_over_ten_thousand_steps(kind):
    wide, narrow = kind(2, 4, rng=0), kind(2, 4, rng=0, dtype=np.float32)
    x = np.random.default_rng(1).normal(size=(10_000, 1, 2)).astype(np.float32)
    y, z = wide(x.astype(float))[0], narrow(x)[0]
    assert z.dtype == np.float32
    assert np.abs(z.numpy() - y.numpy()).max() <= 1e-5 * np.abs(y.numpy()).max()
    tg.mean(tg.square(y)).backward()
    tg.mean(tg.square(z)).backward()
    for (name, p), q in zip(wide.named_parameters(), narrow.parameters()):
        assert np.abs(q.grad - p.grad).max() <= 1e-5 * np.abs(p.grad).max(), name
