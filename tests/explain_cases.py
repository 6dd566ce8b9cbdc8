"""Losses with a recurrence, to be looked into: the sources' and a gated cell's."""

import numpy as np

import tinygrad_rnn as tg

SOURCES = [
    (tg.sources.elman.loss, *tg.sources.elman.example()),
    (tg.sources.step_by_step.loss, *tg.sources.step_by_step.example()),
    (tg.sources.sine_wave.loss, *tg.sources.sine_wave.example()),
    (tg.sources.classifier.loss, *tg.sources.classifier.example()),
    (tg.sources.counting.loss_linear, {"wx": 0.2, "wrec": 1.5}, (np.tril(np.ones((3, 3))), np.array([1.0, 2, 3]))),
]
NAMES = ["elman", "step_by_step", "sine_wave", "classifier", "counting"]


def gated(p, xs, **options):
    """A minimal gated unit with a loss at every step."""
    def cell(h, x):
        f = tg.sigmoid(x @ p["Wf"] + h @ p["Uf"] + p["b"])
        c = tg.tanh(x @ p["Wc"] + (f * h) @ p["Uc"])
        h = h + f * (c - h)
        return h, h

    _, ys = tg.scan(cell, p["h0"], xs, **options)
    return tg.sum(ys * ys, axis=tuple(range(1, ys.ndim)))


def gated_case(T=6, B=2, I=3, H=4, seed=0):
    r = np.random.default_rng(seed).normal
    shapes = dict(Wf=(I, H), Uf=(H, H), b=(H,), Wc=(I, H), Uc=(H, H), h0=(B, H))
    return {name: r(size=shape) for name, shape in shapes.items()}, r(size=(T, B, I))


def scalar(*args, **options):
    return tg.sum(gated(*args, **options))
