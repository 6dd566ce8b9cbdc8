"""Words for what nobody named: a result is called after what it is made of, or what it is for.

Knows what a textbook calls the parts of a step: z is what is squashed, gates are what is split, deviation and normed belong
to a normalisation. Refuses to rename what has a name. Below it: program.
"""

import os.path

import numpy as np

from ..program import Value

_LONG = 20
SQUASHES = {"tanh", "sigmoid", "relu", "softplus", "gelu", "softmax", "log_softmax", "split_"}


def described(call, readers, makers, several=False):
    """A name for a result: what it is made of, or what it is for; z_r for one of `several` that are squashed."""
    name = call.op.name.strip("_")
    words = [_word(a, makers) for a in call.args if isinstance(a, Value)]
    if name in ("add", "subtract", "matmul", "multiply") and readers and all(r.op.name in SQUASHES for r in readers):
        if readers[0].op.name != "split_":
            return f"z_{readers[0].outs[0].name}" if readers[0].outs[0].name and several else "z"
        parts = [v.name for v in readers[0].outs]
        first = os.path.commonprefix(parts)
        return f"{first}_gates" if first else "gates"
    inner = makers.get(call.args[-1]) if call.args and isinstance(call.args[-1], Value) else None
    if name == "subtract" and inner is not None and inner.op.name == "mean" and inner.args[0] is call.args[0]:
        return "centered"
    if name == "sqrt":
        return "deviation"
    if name == "mean" and inner is not None and (inner.op.name == "power" or len(inner.args) == 2 and inner.args[0] is inner.args[1]):
        return "mean_square"
    if name == "add" and inner is None and readers and all(r.op.name == "sqrt" for r in readers):
        return "variance"
    if name == "divide" and words[0].startswith("centered") and words[-1].startswith("deviation"):
        return "normed"
    if len(words) == 2 and call.args[0] is call.args[-1] and name == "multiply" or len(words) == 1 and name == "power" and call.args[1] == 2:
        return f"{words[0]}_squared" if words[0] else "squared"
    if len(words) == 1 and words[0] and name == "getitem":
        return f"{words[0]}_part"
    if len(words) == 1 and words[0] and name == "multiply":
        return f"{words[0]}_scaled"
    if len(words) == 1 and words[0] and name == "subtract" and np.ndim(call.args[0]) == 0 and call.args[0] == 1:
        return f"one_minus_{words[0]}"
    if len(words) == 2 and len(call.args) == 2 and all(words):
        a, b = words
        short = max(len(a), len(b)) <= 2
        word = {"multiply": f"{a}{b}" if short else f"{a}_{b}", "matmul": f"{a}{b}" if short else f"{a}_{b}",
                "add": _common(a, b) or f"{a}_plus_{b}", "subtract": f"{a}_minus_{b}", "divide": f"{a}_over_{b}"}.get(name, "")
        if word and len(word) <= _LONG:
            return word
    if len(words) == 1 and words[0] and len(name) + len(words[0]) < _LONG and name not in _PLAIN:
        return f"{words[0]}_T" if name == "transpose" else f"{name}_{words[0]}"
    return _PLAIN.get(name, name)


_PLAIN = {"multiply": "product", "add": "total", "subtract": "difference", "matmul": "product", "power": "squared", "negative": "minus",
          "getitem": "part", "divide": "quotient", "scatter_add": "placed"}  # what says least


def telling(value):
    """Whether a value's name says more than which op made it."""
    words = [word.rstrip("0123456789") for word in value.name.removeprefix("minus_").split("_")]
    return not any(word in {"", *_PLAIN.values()} for word in words)


def _word(value, makers):
    """What a value is called in a longer name: views under the name of what they show."""
    made = makers.get(value)
    if made is not None and made.op.name in ("transpose", "reshape") and isinstance(made.args[0], Value):
        return _word(made.args[0], makers)
    return value.name


def _common(a, b):
    """The word that two names begin with: bias_ih and bias_hh are both a bias."""
    first = a.split("_")[0]
    return first if len(first) > 2 and first == b.split("_")[0] and a != b else ""
