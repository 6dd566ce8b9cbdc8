"""The text of a function in the making: names, one call a line, and how it becomes a function.

Knows under which name a value, a number or an array stands in a source, which names are free, and how a call is written, with
or without a place for its result. Refuses to know which calls there are, and in which order. Below it: spelling, program,
workspace.
"""

import keyword
import re
from typing import Any

import numpy as np

from . import workspace
from .program import Value
from .spelling import ATOM, Steps, kernels, ours, spell

TAKEN = "T", "np", "run", "empty", "n", "part", "start", "first"  # what a source calls by these names
SPREAD = 1 << 16  # elements up to which a constant is worth its memory in every row: strides of 0 are slow


class Text:
    """Lines that are being written. Whoever derives from it has the source as `text`, and as `calls` what it calls.

    `names`: (value, suffix) -> name; `taken`: name that is not free -> the number with which the search for a free one goes on;
    `constants`: name -> array that the text speaks of; `numbers`: (number, dtype) -> name of the constant that holds it; `short`:
    NumPy's word -> name; `lasting`: text -> name of what nobody writes into and every loop may read. A text `within` another
    shares all but the first with it.
    """

    calls: list
    text: Any

    def __init__(self, names=None, taken=(), within=None):
        self.names = {(v, ""): name for v, name in (names or {}).items()}
        self.lines: list[str] = []
        if within is None:
            self.taken, self.constants, self.numbers, self.short, self.lasting = dict.fromkeys((*TAKEN, *taken), 1), {}, {}, {}, {}
        else:
            self.taken, self.constants, self.numbers = within.taken, within.constants, within.numbers
            self.short, self.lasting = within.short, within.lasting

    def compile(self):
        """The function."""
        scope = {"np": np, "empty": workspace.empty, **self.constants, **kernels(self.calls)}
        exec(compile(re.sub(r"np\.empty(?=\(\([^()]*\bT\b)", "empty", self.text), "<loop>", "exec"), scope)
        scope["run"].source = self.text
        return scope["run"]

    # ---- names --------------------------------------------------------------------------------------------------

    def name(self, value, suffix=""):
        """The name of a value; a new one on first use."""
        if (value, suffix) not in self.names:
            word = re.sub(r"\W+", "_", value.name or "v").strip("_") or "v"
            self.names[value, suffix] = self.fresh(f"{'v' if word[0].isdigit() else ''}{word}{suffix}")
        return self.names[value, suffix]

    def fresh(self, word):
        """`word`, with a number behind it if it is taken."""
        name, i = word, self.taken.get(word, 1)
        while name in self.taken or keyword.iskeyword(name):
            name, i = f"{word}{i}", i + 1
        self.taken[word], self.taken[name] = i, self.taken.get(name, 1)
        return name

    def arg(self, arg):
        """(text, rank) of an argument: a name, a number, or the name of an array that a rule made."""
        if isinstance(arg, Value):
            return self.name(arg), ATOM
        if isinstance(arg, Steps):
            return "T", ATOM
        if isinstance(arg, (bool, int, float)):
            return (repr(arg), ATOM) if arg == arg and abs(arg) != float("inf") else (f"float('{arg}')", ATOM)
        return self.constant(arg, "constant"), ATOM

    def constant(self, array, word):
        """The name under which an array is bound."""
        for name, known in self.constants.items():
            if known is array:
                return name
        name = self.fresh(word)
        self.constants[name] = array
        return name

    def scalar(self, number, dtype):
        """A number as a bound array without axes: NumPy would convert a Python number at every call."""
        key = repr(number), dtype
        if key not in self.numbers:
            word = {0.0: "zero", 0.5: "half", 1.0: "one", 2.0: "two", -1.0: "minus_one"}.get(number, "number")
            self.numbers[key] = self.constant(np.array(number, dtype), word)
        return self.numbers[key]

    # ---- lines --------------------------------------------------------------------------------------------------

    def put(self, line, depth=1):
        """Write a line, so many levels deep."""
        self.lines.append("    " * depth + line)

    def _name_short(self):
        """NumPy's functions under names of their own: looking them up in a module takes time at every call."""
        if self.short:
            words = sorted(self.short)
            self.lines.insert(0, f"    {', '.join(self.short[w] for w in words)} = {', '.join(f'np.{w}' for w in words)}")

    def _text(self, call, texts):
        """A call as an expression; parts of an array are slices of it, sums its method: NumPy's functions take ten times as long."""
        if call.op.name == "split_" and ours(call.op) and texts[0][1] == ATOM:
            axis, stops = call.statics["axis"] % len(call.args[0].shape), np.cumsum(call.statics["sizes"]).tolist()
            lead = "..., " if axis and axis == len(call.args[0].shape) - 1 else ":, " * axis
            return ", ".join([f"{texts[0][0]}[{lead}{start}:{stop}]" for start, stop in zip([0, *stops], stops)])
        text = spell(call, texts)[0]
        return re.sub(r"^np\.sum\((\w+)(?:, |(?=\)))", r"\1.sum(", text) if call.op.name == "sum" else text

    def _into(self, call, texts, out):
        """A call that writes its result into `out`, the last argument."""
        names, statics = [text for text, _ in texts], call.statics
        word = call.op.name
        if word in ("concatenate", "stack"):
            return f"np.{word}(({', '.join(names)},), axis={statics['axis']}, out={out})"
        if word == "clip":
            return f"np.clip({names[0]}, {statics['min']}, {statics['max']}, {out})"
        if word == "matmul":
            ranks = [a.ndim if isinstance(a, np.ndarray) else len(a.shape) for a in call.args]
            word = "dot" if max(ranks) <= 2 else "matmul"
        elif word == "power" and type(call.args[1]) in (int, float) and call.args[1] == 2 and call.outs[0].dtype == call.args[0].dtype:
            word, names = "square", names[:1]
        elif not (ours(call.op) and isinstance(getattr(np, word, None), np.ufunc)):
            return spell(call, texts, out)[0]
        if word not in self.short:
            self.short[word] = self.fresh(word)
        return f"{self.short[word]}({', '.join([*names, f'out={out}' if word in ('maximum', 'minimum') else out])})"
