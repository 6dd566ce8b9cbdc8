"""Exercises: derive backpropagation through time by hand, or find the mistake in a derivation that has one.

Knows four models with their derivations as text, the mistakes that can be planted in them, how to write an exercise as a Python
file and how to grade it: which gradients are right, and, if asked, what `check.diagnose` sees. Refuses to know the answer: a
file is graded against the loss, by the engine. Below it: check, userfile.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path

from . import userfile
from .check import diagnose
from .errors import ArgumentError, message

HEAD = '''"""Exercise {name}: {task}

The model, its loss L and the names are those of tinygrad_rnn.sources.{source}. `bptt` returns the loss and the gradient of L with
respect to every parameter. Run

    python -m tinygrad_rnn grade {file}

to see which of them are right, and with --hint what the diagnosis thinks.
"""

import numpy as np

from tinygrad_rnn.sources import {source}

loss = {source}.{loss}
params, data = {source}.example({seed})


'''

TASKS = {"skeleton": "derive its backward pass", "bug": "this derivation has a mistake; find it"}

ELMAN = '''
def bptt(params, x, y):
    Whx, Whh, Wyh, bh, by, h0 = (params[name] for name in ("Whx", "Whh", "Wyh", "bh", "by", "h0"))
    T = len(x)

    # forward: h[t] is the state before step t, h[t + 1] the state after it
    h = [h0]
    for t in range(T):
        h.append(np.tanh(Whh @ h[t] + Whx @ x[t].T + bh))
    error = [Wyh @ h[t + 1] + by - y[t].T for t in range(T)]
    value = 0.5 * sum(np.sum(e**2) for e in error)

    # backward
    grads = {name: np.zeros_like(params[name]) for name in params}
    dh = np.zeros_like(h0)  # what the step after hands back
    for t in reversed(range(T)):
        da = (1 - h[t + 1] ** 2) * (Wyh.T @ error[t] + dh)
        grads["Wyh"] += error[t] @ h[t + 1].T
        grads["by"] += error[t].sum(axis=1, keepdims=True)
        grads["Whh"] += da @ h[t].T
        grads["Whx"] += da @ x[t]
        grads["bh"] += da.sum(axis=1, keepdims=True)
        dh = Whh.T @ da
    grads["h0"] = dh
    return value, grads
'''

COUNTING = '''
def bptt(params, x, y):
    wx, wrec, s0 = params["wx"], params["wrec"], params["s0"]
    N, T = x.shape

    # forward: s[t] is the state before step t; the last step has no sigmoid
    s = [s0]
    for t in range(T - 1):
        s.append(1 / (1 + np.exp(-(x[:, t] * wx + s[t] * wrec))))
    s.append(x[:, T - 1] * wx + s[T - 1] * wrec)
    error = s[T] - y
    value = np.mean(error**2)

    # backward
    grads = {"wx": 0.0, "wrec": 0.0, "s0": np.zeros(N)}
    ds = 2 / N * error
    for t in reversed(range(T)):
        da = ds if t == T - 1 else ds * s[t + 1] * (1 - s[t + 1])
        grads["wx"] += da @ x[:, t]
        grads["wrec"] += da @ s[t]
        ds = da * wrec
    grads["s0"] = ds
    return value, grads
'''

CLASSIFIER = '''
def bptt(params, x, labels):
    w_x, w_h, b, w_y, b_y, h0 = (params[name] for name in ("w_x", "w_h", "b", "w_y", "b_y", "h0"))
    B, T, _ = x.shape

    # forward: h[t] is the state before step t
    h = [h0]
    for t in range(T):
        h.append(np.tanh(x[:, t] @ w_x + h[t] @ w_h + b))
    z = h[T] @ w_y + b_y
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    value = -np.mean(np.log(p[np.arange(B), labels]))

    # backward
    grads = {name: np.zeros_like(params[name]) for name in params}
    dz = (p - np.eye(len(b_y))[labels]) / B
    grads["w_y"] += h[T].T @ dz
    grads["b_y"] += dz.sum(axis=0)
    dh = dz @ w_y.T
    for t in reversed(range(T)):
        da = (1 - h[t + 1] ** 2) * dh
        grads["w_x"] += x[:, t].T @ da
        grads["w_h"] += h[t].T @ da
        grads["b"] += da.sum(axis=0)
        dh = da @ w_h.T
    grads["h0"] = dh
    return value, grads
'''

STEP_BY_STEP = '''
def bptt(params, x, y):
    W_ax, W_aa, W_ya, b_a, b_y, a0 = (params[name] for name in ("W_ax", "W_aa", "W_ya", "b_a", "b_y", "a0"))
    T = x.shape[2]

    # forward: a[t] is the state before step t, p[t] the distribution after it
    a, p, value = [a0], [], 0.0
    for t in range(T):
        a.append(np.tanh(W_ax @ x[:, :, t] + W_aa @ a[t] + b_a))
        q = W_ya @ a[t + 1] + b_y
        e = np.exp(q - q.max(axis=0, keepdims=True))
        p.append(e / e.sum(axis=0, keepdims=True))
        value -= np.sum(y[:, :, t] * np.log(p[t]))

    # backward
    grads = {name: np.zeros_like(params[name]) for name in params}
    da = np.zeros_like(a0)  # what the step after hands back
    for t in reversed(range(T)):
        dq = p[t] - y[:, :, t]
        grads["W_ya"] += dq @ a[t + 1].T
        grads["b_y"] += dq.sum(axis=1, keepdims=True)
        dz = (1 - a[t + 1] ** 2) * (W_ya.T @ dq + da)
        grads["W_ax"] += dz @ x[:, :, t].T
        grads["W_aa"] += dz @ a[t].T
        grads["b_a"] += dz.sum(axis=1, keepdims=True)
        da = W_aa.T @ dz
    grads["a0"] = da
    return value, grads
'''

# name: (source, name of its loss, the derivation, pairs of a right piece and a wrong one)
EXERCISES = {
    "elman": ("elman", "loss", ELMAN, [
        ("(1 - h[t + 1] ** 2) * (Wyh.T @ error[t] + dh)", "Wyh.T @ error[t] + dh"), ("(1 - h[t + 1] ** 2)", "(1 - h[t] ** 2)"),
        ("da @ h[t].T", "da @ h[t + 1].T"), ("dh = Whh.T @ da", "dh = Whh @ da"), ("Wyh.T @ error[t] + dh", "Wyh.T @ error[t]"),
        ("error[t] @ h[t + 1].T", "error[t] @ h[t].T"), ("da @ h[t].T", "da @ h[t - 1].T"), ('grads["h0"] = dh', 'grads["h0"] = 0 * dh')]),
    "counting": ("counting", "loss_logistic", COUNTING, [
        ("2 / N * error", "error / N"), ("ds * s[t + 1] * (1 - s[t + 1])", "ds * s[t] * (1 - s[t])"), ("error = s[T] - y", "error = y - s[T]"),
        ("ds * s[t + 1] * (1 - s[t + 1])", "ds"), ("ds = da * wrec", "ds = da")]),
    "classifier": ("classifier", "loss", CLASSIFIER, [
        ("dh = da @ w_h.T", "dh = da @ w_h"), (" / B\n    grads", "\n    grads"), ("h[t].T @ da", "h[t + 1].T @ da"), ("(1 - h[t + 1] ** 2) * dh", "dh"),
        ("(1 - h[t + 1] ** 2)", "(1 - h[t] ** 2)"), ("da.sum(axis=0)", "da[0]")]),
    "step_by_step": ("step_by_step", "loss", STEP_BY_STEP, [
        ("dz @ a[t].T", "W_aa"), ("W_ya.T @ dq + da", "W_ya.T @ dq"), ("(1 - a[t + 1] ** 2)", "(1 - a[t + 1])"), ("da = W_aa.T @ dz", "da = W_aa @ dz"),
        ("dz @ a[t].T", "dz @ a[t + 1].T"), ("p[t] - y[:, :, t]", "p[t]")]),
}


def names():
    """The exercises that there are.

    Example:
        >>> tg.exercises.names()
        ['elman', 'counting', 'classifier', 'step_by_step']
    """
    return list(EXERCISES)


def text(name, kind="skeleton", *, seed=0, file="FILE.py"):
    """An exercise as Python text: a "skeleton" whose backward pass is to be written, or a derivation with a planted "bug".

    `seed` chooses the mistake and draws the numbers.

    Raises: ArgumentError for an exercise or a kind that there is not.

    Example:
        >>> "return value, grads" in tg.exercises.text("elman", "bug", seed=3)
        True
    """
    if name not in EXERCISES or kind not in TASKS:
        raise ArgumentError(message(f"exercise {name} {kind}", "there is no such exercise", {"exercises": ", ".join(EXERCISES), "kinds": ", ".join(TASKS)},
                                    "Choose one of each."))
    source, loss, body, mistakes = EXERCISES[name]
    if kind == "bug":
        right, wrong = random.Random(seed).choice(mistakes)
        body = body.replace(right, wrong, 1)
    else:
        body = _emptied(body)
    return HEAD.format(name=name, task=TASKS[kind], source=source, loss=loss, seed=seed, file=file) + body.lstrip("\n")


def _emptied(body):
    """The derivation up to its backward pass, with gradients of zero."""
    forward, backward = body.split("    # backward\n")
    start = re.search(r"    grads = .*\n", backward).group(0)
    return f"{forward}    # backward: go from the last step to the first and fill these in\n{start}    return value, grads\n"


def write(name, kind="skeleton", *, path=None, seed=0, overwrite=False):
    """Write an exercise to a file, `<name>_<kind>.py` unless told otherwise; returns its path.

    Raises: ArgumentError for an exercise that there is not, and for a file that exists already, unless `overwrite`.
    """
    path = Path(path or f"{name}_{kind}.py")
    content = text(name, kind, seed=seed, file=path.name)
    if path.exists() and not overwrite:
        raise ArgumentError(message(f"exercise {name}", "the file exists already", {"file": path}, "Choose another name, or remove the file."))
    path.write_text(content, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Grade:
    """How a file did. True when every gradient is right; `problem` says why nothing could be graded, `diagnosis` has the details."""

    file: str
    right: tuple = ()
    wrong: tuple = ()
    missing: tuple = ()
    problem: str = ""
    diagnosis: object = None
    hint: bool = False

    @property
    def ok(self):
        """Whether every gradient is there and right."""
        return not (self.problem or self.wrong or self.missing) and bool(self.right)

    def __bool__(self):
        return self.ok

    def __str__(self):
        if self.problem:
            return f"{self.file}: cannot be graded\n{self.problem}"
        total = len(self.right) + len(self.wrong) + len(self.missing)
        lines = [f"{self.file}: {len(self.right)} of {total} gradients right"]
        for word, group in (("right", self.right), ("wrong", self.wrong), ("missing", self.missing)):
            lines += [f"  {word:<8} {', '.join(group)}"] * bool(group)
        if self.hint and not self.ok:
            lines += ["", str(self.diagnosis)]
        elif self.wrong:
            lines.append("Run it again with --hint to see what the diagnosis thinks.")
        return "\n".join(lines)


def grade(path, *, hint=False):
    """Grade the file of an exercise: `bptt` in it against its `loss`, at its `params` and `data`, and at other points.

    A file that does not run, lacks something or fails gets a report that says so; nothing is raised.

    Example:
        >>> tg.exercises.grade("nowhere.py").ok
        False
    """
    path = Path(path)
    userfile.loaded.pop(path.resolve(), None)  # a file is graded again after it was edited
    try:
        module = userfile.run(str(path))
    except Exception as error:
        return Grade(path.name, problem=_told(error))
    lacks = [name for name in ("loss", "params", "data", "bptt") if not hasattr(module, name)]
    if lacks or not callable(module.bptt):
        what = f"the file defines no {', no '.join(lacks)}" if lacks else "bptt is not a function"
        return Grade(path.name, problem=message(path.name, what, {}, "Write a fresh exercise and put your derivation into its bptt(params, *data)."))
    try:
        module.bptt(dict(module.params), *module.data)
        found = diagnose(module.loss, module.params, module.data, module.bptt, name=hint)
    except Exception as error:
        return Grade(path.name, problem=_told(error))
    wrong = tuple(name for name in found.errors if name not in found.right)
    missing = tuple(name for name in module.params if name not in found.errors)
    problem = "\n".join(f"{f.bug}: {f.explanation}" for f in found.findings) if not found.errors else ""
    return Grade(path.name, found.right, wrong, missing, problem, found, hint)


def _told(error):
    """An exception in the words of the line that caused it."""
    return userfile.blamed(error) or f"{type(error).__name__}: {error}"


def solution(name):
    """The right derivation of an exercise, as text.

    Raises: ArgumentError for an exercise that there is not.
    """
    if name not in EXERCISES:
        raise ArgumentError(message(f"exercise {name}", "there is no such exercise", {"exercises": ", ".join(EXERCISES)}, "Choose one of these."))
    source, loss, body, _ = EXERCISES[name]
    return HEAD.format(name=name, task="solved", source=source, loss=loss, seed=0, file="FILE.py") + body.lstrip("\n")
