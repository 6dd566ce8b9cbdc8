"""HIPS/autograd: the equations in a Python loop under ``value_and_grad``. It has no sigmoid of its own."""

import autograd
import autograd.numpy as np
from cells import EVERY, loop, namespace

F = namespace(np, sigmoid=lambda z: 1 / (1 + np.exp(-z)), split=lambda z, n: np.split(z, n, axis=-1))


def prepare(cell, p):
    gradients = autograd.value_and_grad(lambda p: loop(F, EVERY[cell], p))
    return lambda: gradients(p), lambda result: result
