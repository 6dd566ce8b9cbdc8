"""diagnose: which mistake of a hand derivation gives the gradients that somebody has.

Knows the question: the given point, other points at which a derivation that can be called is asked again, and what can be told
from its behaviour alone. The search breaks the right derivation at one place after the other (`bugs`), or alters its result
(`diagnose_tensors`), until the given gradients come out, gradient by gradient, for a derivation may hold several mistakes at
once; what fits at one point must fit at the others too. Refuses to guess: what no breakage reproduces stays unnamed. Below it:
diagnose_search, diagnose_parting, diagnose_report, bugs, diagnose_graph.
"""

import inspect
from copy import copy

import numpy as np

from .. import trees
from ..errors import ArgumentError, message
from .diagnose_answer import read
from .diagnose_evidence import behaviour
from .diagnose_parting import first_steps, parting
from .diagnose_point import Point
from .diagnose_record import is_float, named_leaves, redrawn
from .diagnose_report import NO_ANSWER, NO_NUMBERS, RAISES, Diagnosis, Finding, Parting
from .diagnose_search import Search


def diagnose(loss, params, data, by_hand, *, seed=0, name=True):
    """Name the mistake in a hand-derived gradient, the gradients that it spoils, and the time step where it begins.

    Every breakage of the right derivation that the library knows is replayed (a derivative missing, a transpose, a time index
    off by one, a carry cut, …), alone and together, until one gives the numbers that were given.

    Shapes: `loss(params, *data)` is a scalar made of ops; params is a tree of arrays. `by_hand(params, *data) -> (loss, grads)`
    is called at other points too; or a dict of gradients at this one point, by the names of the parameters. Gradients of the
    initial state or of floating point data are looked at if they are given under their argument's name. `name=False` only
    tells which gradients are right, without a search.

    Raises: ArgumentError when `data` is no tuple, the loss no function, or no gradient has the name of a parameter; GradientError
    when the loss does not depend on the parameters.

    Example:
        >>> def loss(p, x):
        ...     return tg.sum(tg.scan(lambda h, x: (tg.tanh(h @ p["W"] + x),) * 2, np.zeros((1, 2)), x)[1])
        >>> W, x = np.array([[0.3, -0.5], [0.2, 0.4]]), np.random.default_rng(0).normal(size=(4, 1, 2))
        >>> g = tg.grad(loss)({"W": W}, x)
        >>> tg.check.diagnose(loss, {"W": W}, (x,), g).ok
        True
        >>> print(tg.check.diagnose(loss, {"W": W}, (x,), {"W": -g["W"]}).findings[0].bug)
        sign
    """
    if not isinstance(data, (tuple, list)):
        raise ArgumentError(message("diagnose(loss, params, data, by_hand)", "data is not a tuple", {"data": type(data).__name__},
                                    "Pass the loss's further arguments as a tuple, (x,) for one."))
    if not callable(loss):
        raise ArgumentError(message("diagnose(loss, params, data, by_hand)", "the loss is not a function", {"loss": type(loss).__name__},
                                    "Pass a function loss(params, *data) made of ops."))
    case = _Case(loss, params, tuple(data), by_hand, np.random.default_rng(seed))
    return case.run(name)


class _Case:
    """One question to diagnose: the points, and the search."""

    def __init__(self, loss, params, data, by_hand, rng):
        self.loss, self.params, self.data, self.rng = loss, params, data, rng
        self.function = by_hand if callable(by_hand) else None
        self.by_hand, self.notes, self.findings = by_hand, [], []

    # ---- points ---------------------------------------------------------------------------------------------

    def ask(self, params, data):
        """What `read` makes of the answer at a point; the caller's arrays are safe."""
        if self.function is None:
            result = None, self.by_hand
        else:
            copy = trees.map(lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, params)
            with np.errstate(all="ignore"):
                result = self.function(copy, *(np.array(d) if isinstance(d, np.ndarray) else d for d in data))
        return read(result, params)

    def argument_names(self):
        """Names of the floating point data, as the loss calls its arguments."""
        try:
            names = [p.name for p in inspect.signature(self.loss).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
        except (TypeError, ValueError):
            names = []
        return {name: i for i, (name, d) in enumerate(zip(names, self.data)) if isinstance(d, np.ndarray) and is_float(d)}

    def point(self, params, data, answer):
        value, given, _ = answer
        names, arguments = named_leaves(params), self.argument_names()
        wanted, chosen = {}, {}
        for name, g in given.items():
            if name in names:
                chosen[name] = g
                continue
            same = [a for a in arguments if a.lower() == name.lower() and np.shape(data[arguments[a]]) == g.shape]
            if same:
                wanted[name], chosen[name] = arguments[same[0]], g
        return Point(self.loss, params, data, value, chosen, wanted), sorted(set(given) - set(chosen)), [name for name in names if name not in chosen]

    def probes(self, count=2):
        """Other points of the same shapes where nothing is zero, symmetric or small, as far as the derivation runs there."""
        found = []
        for _ in range(3 * count if self.function is not None else 0):
            params = trees.map(lambda leaf: redrawn(leaf, self.rng), self.params)
            data = tuple(self._redrawn(d) for d in self.data)
            try:
                value, given, _ = self.ask(params, data)
                point, _, _ = self.point(params, data, (value, {name: given[name] for name in given if name in self.given_names}, {}))
            except Exception:
                continue
            agrees = value is None or not self.same_loss or np.isclose(value, point.graph.loss, rtol=1e-7)
            finite = np.isfinite(point.graph.loss) and all(np.isfinite(g).all() for g in point.right.values())
            if finite and agrees and set(point.given) == set(self.main.given):
                found.append(point)
            if len(found) == count:
                break
        return found

    def _redrawn(self, d):
        """Real data is drawn anew; labels, masks and probabilities stay."""
        if not isinstance(d, np.ndarray) or d.dtype.kind != "f" or d.size == 0 or np.array_equal(d, np.round(d)):
            return d
        if any(np.allclose(d.sum(axis=axis), 1) for axis in range(d.ndim)):
            return d
        return (d.mean() + (d.std() or 1.0) * self.rng.normal(size=d.shape)).astype(d.dtype)

    # ---- the course of a diagnosis --------------------------------------------------------------------------

    def run(self, name):
        try:
            answer = self.ask(self.params, self.data)
        except ArgumentError:
            raise
        except Exception as error:
            return Diagnosis((Finding(RAISES, "all", None, f"{type(error).__name__}: {error}", 1.0),))
        self.main, strangers, missing = self.point(self.params, self.data, answer)
        bad = {name: what for name, what in answer[2].items() if name in named_leaves(self.params)}
        self.findings += [Finding(NO_NUMBERS, name, None, f"the gradient is {what}", 1.0) for name, what in bad.items()]
        strangers, missing = [*strangers, *(set(answer[2]) - set(bad))], [name for name in missing if name not in bad]
        if not self.main.given and not bad:
            raise ArgumentError(message("diagnose(loss, params, data, by_hand)", "no gradient has the name of a parameter",
                                        {"parameters": ", ".join(named_leaves(self.params)), "given": ", ".join(answer[1])},
                                        "Name the gradients as the parameters."))
        self.given_names = set(self.main.given)
        self.notes += [f"no gradient is given for {', '.join(missing)}"] if missing else []
        self.notes += [f"not looked at: {', '.join(strangers)} (no parameter or argument has this name)"] if strangers else []
        value, graph = answer[0], self.main.graph
        self.same_loss = value is None or bool(np.isclose(value, graph.loss, rtol=1e-6 if self._single() else 1e-9, atol=1e-12, equal_nan=True))
        self.findings += behaviour(self)
        unknown = [name for name in self.main.given if not np.isfinite(self.main.right[name]).all()]
        self.findings += [Finding(NO_ANSWER, name, None, "the loss itself has a gradient of NaN or infinity here: nothing can be said of this one", 1.0)
                          for name in unknown]
        wrong = self._wrong(self.main)
        self.points = [self.main, *self.probes()]
        if not wrong:
            elsewhere = [p for p in self.points[1:] if self._wrong(p)]
            if len(elsewhere) == len(self.points) - 1 and elsewhere:
                self.notes.append("at the given point the gradients are right; the mistake shows at others, drawn at random")
                self.points = elsewhere
                self.main = elsewhere[0]
                wrong = self._wrong(self.main)
        if not wrong:
            if not self.same_loss and not self.findings:
                self.notes.append(f"the loss by hand is {value:.10g}, the loss is {graph.loss:.10g}; the gradients are those of the loss")
            return self._report([])
        solution, unnamed = self._search(wrong) if name else ([], wrong)
        self.findings += solution
        return self._report(unnamed)

    def _search(self, wrong):
        """Findings, and what is left unnamed. Long sequences are asked about their first steps before: what fits there is tried first."""
        short, pairs = self._shortened(wrong), True
        if short is not None:
            search, notes = Search(short, wrong), list(self.notes)
            _, left = search.run(whole=False)
            solution, unnamed = Search(self, wrong, only=search.seen).run(whole=False)
            if not unnamed:
                return solution, unnamed
            self.notes, pairs = notes, not left
        return Search(self, wrong, pairs=pairs).run()

    def _shortened(self, wrong):
        """The same question about the first steps of a long sequence, if the same gradients are wrong there."""
        T, sizes = self.main.graph.T, {n for d in self.data for n in np.shape(d)}
        n = next(n for n in (6, 7, 8, 9, 10) if n not in sizes or n == 10)
        if self.function is None or T < 2 * n:
            return None
        short = copy(self)
        short.notes, short.points = [], []
        for point in self.points:
            data = first_steps(point.data, T, n)
            try:
                answer = self.ask(point.params, data)
                short.points.append(self.point(point.params, data, answer)[0])
            except Exception:
                return None
        short.main = short.points[0]
        short.data, short.params = short.main.data, short.main.params
        agree = short.main.graph.T == n and set(short.main.given) == set(self.main.given) and self._wrong(short.main) == wrong
        return short if agree else None

    def _single(self):
        return any(g.dtype == np.float32 for g in self.main.given.values()) or any(v.dtype == np.float32 for v in self.main.graph.values.values())

    def _wrong(self, point):
        unknown = {f.tensor for f in self.findings if f.bug == NO_ANSWER}
        return [name for name in point.given if name not in unknown and not point.matches(point.right, name)]

    def _report(self, unnamed):
        point = self.main
        errors = {}
        for name, g in point.given.items():
            right = point.right[name]
            distance = np.linalg.norm(g - right) if g.shape == right.shape else np.inf
            errors[name] = float(distance / (np.linalg.norm(right) or 1.0))
        errors |= {f.tensor: np.inf for f in self.findings if f.bug == NO_NUMBERS}
        unknown = {f.tensor for f in self.findings if f.bug == NO_ANSWER}
        right = tuple(name for name in point.given if name not in unknown and name not in self._wrong(point))
        parted = None
        if self.findings or unnamed:
            parted = self._parting(unnamed, [name for name in point.given if name not in right])
        return Diagnosis(tuple(self.findings), tuple(unnamed), right, errors, parted, tuple(self.notes))

    def _parting(self, unnamed, wrong):
        if not unnamed:
            steps = [f for f in self.findings if f.step is not None]
            order = self.main.graph.clock
            if steps:
                first = max(steps, key=lambda f: order.index(f.step) if f.step in order else -1)
                return Parting(first.step, first.tensor)
            return Parting(None, wrong[0]) if wrong else None
        return parting(self, unnamed)
