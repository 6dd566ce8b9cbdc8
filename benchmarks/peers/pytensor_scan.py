"""PyTensor: ``scan`` and its symbolic gradient, compiled once for each cell and dtype in the library's default mode."""

from functools import cache

import pytensor
import pytensor.tensor as pt
from cells import EVERY, initial, loss, namespace, shapes


def split(z, n):
    H = z.shape[-1] // n
    return [z[..., k * H:(k + 1) * H] for k in range(n)]


F = namespace(pt, sigmoid=pt.sigmoid, split=split)


@cache
def compiled(cell, dtype):
    with pytensor.config.change_flags(floatX=dtype):
        p = {key: pt.tensor(key, dtype=dtype, shape=(None,) * len(shape))
             for key, shape in shapes(cell, 1, 1, 1, 1).items()}
        weights = [leaf for key, leaf in p.items() if key not in ("xs", "h0", "c0")]
        state = initial(p)
        states = list(state) if isinstance(state, tuple) else [state]

        def step(x, *rest):
            q = dict(zip((leaf.name for leaf in weights), rest[len(states):], strict=True))
            new, _ = EVERY[cell](F, q, rest[:2] if len(states) == 2 else rest[0], x)
            return list(new) if isinstance(new, tuple) else [new]

        stacks = pytensor.scan(
            step, sequences=p["xs"], outputs_info=states, non_sequences=weights, return_updates=False)
        stacks = stacks if isinstance(stacks, list | tuple) else [stacks]
        finals = tuple(stack[-1] for stack in stacks)
        value = loss(F, finals if len(finals) == 2 else finals[0], stacks[0])
        function = pytensor.function(list(p.values()), [value, *pytensor.grad(value, list(p.values()))])
    function.trust_input = True
    return function


def prepare(cell, p):
    function = compiled(cell, str(p["xs"].dtype))

    def read(result):
        return float(result[0]), dict(zip(p, result[1:], strict=True))

    return lambda: function(*p.values()), read
