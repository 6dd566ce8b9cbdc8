"""MyGrad: the equations in a Python loop, then ``backward``; as installed, and without the guard on its arrays.

The guard locks the arrays that a graph holds; the manual says to switch it off for speed.
"""

import mygrad as mg
from cells import EVERY, loop, namespace
from mygrad.nnet.activations import sigmoid


def split(z, n):
    H = z.shape[-1] // n
    return [z[..., k * H:(k + 1) * H] for k in range(n)]


F = namespace(mg, sigmoid=sigmoid, split=split)


def prepare(cell, p):
    def run():
        leaves = {key: mg.tensor(value, copy=False) for key, value in p.items()}
        value = loop(F, EVERY[cell], leaves)
        value.backward()
        return value, leaves

    def read(result):
        value, leaves = result
        return value.item(), {key: leaf.grad for key, leaf in leaves.items()}

    return run, read


def prepare_unguarded(cell, p):
    run, read = prepare(cell, p)
    return mg.mem_guard_off(run), read
