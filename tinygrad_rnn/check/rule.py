"""check_rule: is a vector-Jacobian product of plain NumPy functions right, everywhere its forward works?

Knows what wrong rules get wrong: values, shapes, dtypes, broadcasting, ties, edges, linearity in g, purity, memory,
precision; and tries them on inputs that it makes from the given ones. Refuses to know any engine.
Below it: differences, inputs, report.
"""

import inspect
import warnings

import numpy as np

from ..errors import ArgumentError, DtypeError, message
from .differences import derivative
from .inputs import VALUES, Case, Kind, accepts, another_axis, layouts, other_sizes, other_values
from .report import Finding, Report, number, small

REPEATS, ENTRIES, ENOUGH = 128, 40, 25
SLACK = 8.0


def check_rule(forward, vjp, inputs, *, strict=False, seed=0):
    """Check `vjp(g, *arrays) -> (gradient of each array)` as the derivative rule of `forward(*arrays) -> array`.

    Shapes: `inputs` is a tuple of arrays, the ones you would try first. Integer and boolean arrays are constants: their
    gradients may be None, or left out. The rest it makes by itself: other values (negative, large, small, integers,
    zeros, ties), repeated indices, other sizes where the forward takes them (1, 0 and 0-d among them), other memory
    layouts. What forward refuses, or answers with nan or inf, is left out.

    It looks at: every entry against central differences with a bound on their error; shape and dtype of every gradient;
    finite results; vjp(0) = 0 and linearity in g; equal bits in 128 calls; inputs, g and NumPy's global state left alone;
    memory shared between results, with inputs, or with a later call's results; what a rule remembers from earlier calls;
    precision lost inside. `strict` adds what a right rule may be excused for: crashes on empty, 0-d and special values,
    nan at a kink, read-only inputs, negative indices, another axis in front, float32 that becomes float64.

    Raises: DtypeError when no input is floating point; ArgumentError when forward does not work on the inputs.

    Example:
        >>> rule = lambda g, a, b: (g * b, g * a)
        >>> tg.check.check_rule(lambda a, b: a * b, rule, (np.ones(3), np.arange(3.0))).ok
        True
        >>> print(tg.check.check_rule(np.sin, lambda g, x: (g * np.sin(x),), (np.ones(3),)).findings[0].what)
        the gradient of x is wrong
    """
    inputs = tuple(np.array(x) for x in (inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
    battery = _Battery(forward, vjp, inputs, strict, np.random.default_rng(seed))
    who = f"check_rule({battery.name})"
    if not battery.floats:
        raise DtypeError(message(who, "no input is floating point", {n: x.dtype for n, x in zip(battery.names, inputs)}, "Pass float arrays."))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if accepts(forward, inputs) is None:
            raise ArgumentError(message(who, "forward does not give finite floats for the inputs", {n: x.shape for n, x in zip(battery.names, inputs)},
                                        "Pass inputs on which forward(*inputs) works."))
        state = np.random.get_state()
        np.random.seed(battery.rng.integers(2**31))  # so that a rule that seeds NumPy itself cannot hide
        try:
            battery.run(inputs)
        finally:
            np.random.set_state(state)
    return Report(who, tuple(battery.findings), battery.checked, tuple(dict.fromkeys(battery.notes)), f"Fix the rule and run the check again, seed={seed}.")


class _Refused(Exception):
    """The rule gave nothing to compare; the finding is already noted."""


class _Battery:
    """The checks on one rule; findings gather here."""

    def __init__(self, forward, vjp, inputs, strict, rng):
        self.forward, self.vjp, self.strict, self.rng = forward, vjp, strict, rng
        self.floats = [i for i, x in enumerate(inputs) if x.dtype.kind == "f"]
        self.names = _names(forward, vjp, len(inputs))
        self.name = getattr(forward, "__name__", "forward").replace("<lambda>", "forward")
        self.findings, self.notes, self.checked, self.usual = [], [], 0, {}
        self.single = any(inputs[i].dtype == np.float32 for i in self.floats)

    def run(self, inputs):
        """Everything, from the plainest to the strangest; enough findings end it."""
        given = Case("the inputs as given", inputs)
        self.examine(given)
        for part in (self.calls, self.memory, self.precision):
            if not self.enough:
                part(given)
        for case in other_values(inputs, self.rng):
            self.examine(case)
        for case in other_sizes(self.forward, inputs, self.rng):
            self.examine(case)
        like = Case("values like those given", tuple(Kind(x).like(self.rng, x.shape) for x in inputs))
        if not self.enough:
            self.layouts(like)
        if self.strict and not self.enough:
            self.strictly(like)

    @property
    def enough(self):
        """Whether more findings would tell nothing new."""
        return len(self.findings) >= ENOUGH

    def find(self, what, case, **facts):
        self.findings.append(Finding(what, case.label, {"inputs": " ".join(str(x.shape) for x in case.arrays)} | facts))

    # ---- one call -------------------------------------------------------------------------------------------

    def call(self, case, g, arrays=None):
        """The gradients of the floating point inputs, after looking at everything but their values."""
        arrays = [np.array(x) for x in case.arrays] if arrays is None else arrays
        before, g_before = [x.copy() for x in arrays], g.copy()
        settings, random = np.geterr(), np.random.get_state()[1:3]
        try:
            results = self.vjp(g, *arrays)
        except Exception as error:  # a rule may fail in any way it likes
            if case.gentle or self.strict and case.label in VALUES and not isinstance(error, np.linalg.LinAlgError):
                self.find(f"the rule raises {type(error).__name__}", case, error=str(error)[:80])
            else:
                self.notes.append(f"the rule raises {type(error).__name__} on {case.label.split(' (')[0]}")
            raise _Refused from error
        self.checked += 1
        for name, x, old in zip(self.names, arrays, before):
            if not np.array_equal(x, old, equal_nan=x.dtype.kind == "f"):
                self.find(f"the rule writes to its input {name}", case)
        if not np.array_equal(g, g_before):
            self.find("the rule writes to its cotangent", case)
        after = np.random.get_state()[1:3]
        if np.geterr() != settings or random[1] != after[1] or not np.array_equal(random[0], after[0]):
            self.find("the rule changes NumPy's global state", case, state="error handling" if np.geterr() != settings else "random generator")
        return self.fitting(results, arrays, case)

    def fitting(self, results, arrays, case):
        """The gradients as arrays, if there is one for each input, of its shape and dtype."""
        if not isinstance(results, (tuple, list)):
            results = (results,)
        if len(results) == len(self.floats) < len(arrays):
            results = [results[self.floats.index(i)] if i in self.floats else None for i in range(len(arrays))]
        if len(results) != len(arrays):
            self.find("the rule returns another number of gradients than inputs", case, gradients=len(results), wanted=len(arrays))
            raise _Refused
        grads, refused = [], False
        for i in self.floats:
            x, grad = arrays[i], np.zeros_like(arrays[i]) if results[i] is None else np.asarray(results[i])
            if grad.shape != x.shape:
                self.find(f"the gradient of {self.names[i]} has the wrong shape", case, gradient=grad.shape, input=x.shape)
                refused = True
            elif grad.dtype != x.dtype:
                self.find(f"the gradient of {self.names[i]} has the wrong dtype", case, gradient=grad.dtype, input=x.dtype)
                refused = grad.dtype.kind not in "fiub"
            grads.append(grad)
        if refused:
            raise _Refused
        return grads

    # ---- one case -------------------------------------------------------------------------------------------

    def examine(self, case):
        """All that can be said about the rule at these arrays."""
        y = None if self.enough else accepts(self.forward, case.arrays)
        if y is None:
            return
        g = self.rng.normal(size=y.shape).astype(y.dtype)
        try:
            grads = [grad.copy() for grad in self.call(case, g)]
            self.linear(case, g, grads)
            shaken = [[r.astype(float) for r in self.call(case, g, [self.shaken(x, 2000) for x in case.arrays])] for _ in range(5)]
        except _Refused:
            return
        runs = [dict(zip(self.floats, run)) for run in shaken]
        if all(self.compare(case, g, i, grads[k].astype(float), runs) for k, i in enumerate(self.floats)):
            self.together(case, g, grads, runs)

    def shaken(self, x, units=4):
        """x as other roundings might have left it; by many units in the last place, ties do not survive it."""
        if x.dtype.kind != "f":
            return x.copy()
        u = self.rng.uniform(1, units, x.shape) * self.rng.choice((-1, 1), x.shape)
        return np.asarray(x * (1 + np.finfo(x.dtype).eps * u), x.dtype)

    def linear(self, case, g, grads):
        """vjp(0) = 0 and vjp(c g) = c vjp(g), vjp(g + h) = vjp(g) + vjp(h)."""
        if any(not np.all(np.isfinite(grad)) for grad in grads):
            return
        for name, grad in zip(self.float_names, self.call(case, np.zeros_like(g))):
            if np.any(grad != 0):
                self.find(f"the gradient of {name} is not 0 for a cotangent of 0", case, gradient=number(grad.ravel()[np.argmax(grad.ravel() != 0)]))
        h = self.rng.normal(size=g.shape).astype(g.dtype)
        loose = 1e-3 if self.single else 1e-8
        parts = [(f"{c:g} g", (c * g).astype(g.dtype), [c * grad for grad in grads]) for c in (-1.0, 1e5, 1e-6, 1e-15)]
        if g.size > 1:
            one = np.where(np.arange(g.size).reshape(g.shape) == self.rng.integers(g.size), g, 0).astype(g.dtype)
            rest = self.call(case, g - one)
            parts += [("one entry of g", one, [a - b for a, b in zip(grads, rest)])]
        others = self.call(case, h)
        parts += [("g + h", g + h, [a + b for a, b in zip(grads, others)])]
        for label, mixed, wanted in parts:
            gain = float(np.max(np.abs(mixed), initial=0.0))
            for i, got, want, whole in zip(self.floats, self.call(case, mixed), wanted, grads):
                name = self.names[i]
                size = np.max(np.abs(want), initial=0.0) + (np.max(np.abs(whole), initial=0.0) if label in ("one entry of g", "g + h") else 0.0)
                size += self.usual.get(i, 0.0) * gain  # what cancels in a rule leaves rounding errors of its terms
                if not np.all(np.abs(got - want) <= loose * size):
                    at = np.unravel_index(np.argmax(np.abs(got - want)), got.shape)
                    self.find(f"the gradient of {name} is not linear in g", case, cotangent=label, gradient=number(got[at]), wanted=number(want[at]))
                    return

    @property
    def float_names(self):
        return [self.names[i] for i in self.floats]

    def compare(self, case, g, i, grad, runs):
        """Entries of one gradient against differences, or some of them and directions; whether they agree."""
        x = case.arrays[i]
        if not x.size:
            return True
        scales = _scales(x.astype(float))
        size = float(np.max(np.abs(grad), initial=0.0, where=np.isfinite(grad)))
        if case.label == "the inputs as given":
            self.usual[i] = size
        count = self.affordable(case, g)
        indices, directions = list(np.ndindex(x.shape)), []
        if len(indices) > count:
            picked = {0, len(indices) - 1, *self.rng.choice(len(indices), max(2, count // 3), replace=False).tolist()}
            indices = [indices[k] for k in sorted(picked)]
            directions = [self.rng.normal(size=x.shape) * scales for _ in range(max(1, count // 12))]
        units = [(index, np.zeros(x.shape), float(scales[index])) for index in indices]
        for index, u, _ in units:
            u[index] = 1.0
        units += [(None, u, 1.0) for u in directions] + [(None, np.ones(x.shape) * float(np.min(scales)), 1.0)]  # ties move together
        noise = self.noise(case.arrays, g)
        return all(self.held(case, g, {i: u}, scale, {i: grad}, runs, noise, size, index) for index, u, scale in units)

    def together(self, case, g, grads, runs):
        """All inputs along one direction: a maximum of two equal inputs is smooth there."""
        if len(self.floats) > 1:
            least = min(float(np.min(_scales(case.arrays[i].astype(float)), initial=1.0)) for i in self.floats)
            units = {i: np.full(case.arrays[i].shape, least) for i in self.floats}
            size = max(float(np.max(np.abs(grad), initial=0.0, where=np.isfinite(grad))) for grad in grads)
            self.held(case, g, units, 1.0, dict(zip(self.floats, grads)), runs, self.noise(case.arrays, g), size, None)

    def affordable(self, case, g):
        """How many entries to look at: of large arrays fewer."""
        size = g.size + sum(x.size for x in case.arrays)
        return ENTRIES if size < 200 else 12 if size < 2000 else 4

    def value(self, arrays, g):
        """⟨g, forward⟩ in double precision; nan where forward refuses what lies beside its inputs."""
        try:
            y = self.forward(*[np.array(x, np.float64) if x.dtype == np.float32 else np.array(x) for x in arrays])
        except Exception:  # a singular matrix, say; how somebody's function refuses an input is its own affair
            return np.nan
        return float(np.sum(np.asarray(y, np.float64) * g))

    def noise(self, arrays, g):
        """A bound on the rounding error of `value`; infinite where rounding the inputs turns it into another number."""
        y, value = np.asarray(self.forward(*[np.array(x) for x in arrays]), np.float64), self.value(arrays, g)
        moved = [abs(self.value([self.shaken(x.astype(np.float64)) if x.dtype.kind == "f" else x for x in arrays], g) - value) for _ in range(3)]
        size = float(np.sum(np.abs(g * y)))
        noise = max(moved) + 2 * np.finfo(float).eps * size
        return noise if noise <= 1e-3 * size else np.inf

    def held(self, case, g, units, scale, grads, runs, noise, size, index):
        """Along one entry or direction: whether the rule and the difference agree, or cannot be told apart."""
        def phi(t, away=0.0):
            arrays = [x + away * shift[i] + t * units[i] if i in units else x for i, x in enumerate(points)]
            return self.value(arrays, g)

        points = [x.astype(float) if x.dtype.kind == "f" else x for x in case.arrays]
        shift = {i: 0.0 for i in units}
        self.checked += 1
        sweep = derivative(phi, scale, noise, 1e-7 * size)
        yours = sum(_dot(grads[i], u) for i, u in units.items())
        if not np.isfinite(sweep.value) or np.isinf(sweep.error) or sweep.jump:
            return True
        told = SLACK * sweep.error <= 0.1 * max(abs(sweep.value), 1e-3 * size) or sweep.value == 0
        if not np.isfinite(yours):
            excusable = sweep.kink or sweep.flat and "size 1" in case.label  # 0 / 0 in the deviation of one number
            if index is not None and (self.strict if excusable else told):
                self.wrong(case, units, index, yours, sweep, "is not finite")
                return False
            return True
        slip = float(np.ptp([sum(_dot(run[i], u) for i, u in units.items()) for run in runs]))
        loose = 1e-3 if self.single else 1e-7
        usual = max((self.usual.get(i, 0.0) * float(np.max(np.abs(u), initial=0.0)) for i, u in units.items()), default=0.0)
        allowed = loose * (abs(sweep.value) + 1e-3 * size + usual) + SLACK * (sweep.error + (slip if np.isfinite(slip) else 0.0))
        if abs(yours - sweep.value) <= allowed or sweep.admits(yours, allowed) or sweep.error > 0.3 * max(abs(sweep.value), size):
            return True
        if sweep.kink:
            seen = [sweep.left, sweep.right]
            for _ in range(24):  # beside the kink: whatever lies between the derivatives there may be chosen at it
                shift = {i: 1e-3 * _scales(points[i]) * self.rng.normal(size=points[i].shape) for i in units}
                seen.append(derivative(lambda t: phi(t, 1.0), scale, noise, 1e-3 * size).value)
            low, high = min(seen), max(seen)
            if not np.isfinite(low + high) or low - 0.1 * (high - low) - allowed <= yours <= high + 0.1 * (high - low) + allowed:
                return True
        self.wrong(case, units, index, yours, sweep, "is wrong")
        return False

    def wrong(self, case, units, index, yours, sweep, what):
        whose = " and ".join(self.names[i] for i in units)
        at = {"along": "a direction"} if index is None else {"at": "[" + ", ".join(map(str, index)) + "]"}
        between = {"between": f"{number(sweep.left)} and {number(sweep.right)}"} if sweep.kink else {"numerical": number(sweep.value)}
        self.find(f"the gradient of {whose} {what}", case, **at, yours=number(yours), **between, error=small(abs(yours - sweep.value)))

    # ---- what one call does to another ----------------------------------------------------------------------

    def calls(self, case):
        """Equal bits in many calls; nothing remembered from calls with other inputs, of the forward or of the rule."""
        other = Case("values like those given", tuple(Kind(x).like(self.rng, x.shape) for x in case.arrays))
        y = accepts(self.forward, other.arrays)
        g = self.rng.normal(size=accepts(self.forward, case.arrays).shape)
        g = g.astype(np.float32) if self.single else g
        try:
            first = [grad.copy() for grad in self.call(case, g)]
            for k in range(REPEATS):
                if not _same(first, self.call(case, g)):
                    self.find("equal calls give different gradients", case, call=k + 2)
                    return
            if y is None or y.shape != g.shape:
                return
            self.call(other, self.rng.normal(size=g.shape).astype(g.dtype))
            accepts(self.forward, other.arrays)
            if not _same(first, self.call(case, g)):
                self.find("the rule remembers an earlier call", case, after="a call with other values")
                return
            held = [np.array(x) for x in case.arrays]
            self.call(case, g, held)
            for x, new in zip(held, other.arrays):
                x[...] = new
            reused = [grad.copy() for grad in self.call(other, g, held)]
            if not _close(reused, self.call(other, g.copy())):
                self.find("the rule remembers an earlier call", case, after="the same arrays with other values in them")
        except _Refused:
            return

    def memory(self, case):
        """Whose memory the results lie in, and whether it stays theirs."""
        g = self.rng.normal(size=accepts(self.forward, case.arrays).shape)
        g = g.astype(np.float32) if self.single else g
        arrays = [np.array(x) for x in case.arrays]
        try:
            first = self.call(case, g, arrays)
            copies = [grad.copy() for grad in first]
            for name, grad in zip(self.float_names, first):
                for other, x in zip(self.names, arrays):
                    if np.shares_memory(grad, x):
                        self.find(f"the gradient of {name} shares memory with the input {other}", case)
            mine = [k for k, grad in enumerate(first) if not np.shares_memory(grad, g)]
            for k in mine:
                for j in mine:
                    if j < k and np.shares_memory(first[j], first[k]):
                        self.find(f"the gradients of {self.float_names[j]} and {self.float_names[k]} share memory", case)
            second = self.call(case, 2 * g)
            if not _same(copies, first):
                self.find("a later call changes the gradients of an earlier one", case)
            elif any(np.shares_memory(a, b) for a in first for b in second):
                self.find("gradients of two calls share memory", case)
        except _Refused:
            return

    def precision(self, case):
        """Moved by less than single precision resolves, a gradient in double precision moves along in a straight line."""
        if self.single:
            return
        verdicts = []
        for _ in range(3):
            arrays = [np.asarray(x * (1 + 0.1 * self.rng.uniform(0.2, 1, x.shape)) + (x == 0) * 0.1 * self.rng.uniform(0.2, 1, x.shape))
                      if x.dtype.kind == "f" and Kind(x).free else np.array(x) for x in case.arrays]
            y = accepts(self.forward, arrays)
            if y is None:
                return
            g = self.rng.normal(size=y.shape)
            towards = [2e-7 * self.rng.normal(size=x.shape) * np.abs(x) if x.dtype.kind == "f" else None for x in arrays]
            h = 2e-7 * self.rng.normal(size=g.shape) * np.abs(g)
            ts = self.rng.uniform(-1, 1, 24)
            moved = lambda t: [x if d is None else x + t * d for x, d in zip(arrays, towards)]
            try:
                rows = [np.concatenate([grad.ravel() for grad in self.call(case, g + t * h, moved(t))]) for t in ts]
            except _Refused:
                return
            values = [np.asarray(self.forward(*moved(t))).ravel() for t in ts]
            verdicts.append((_roughness(ts, np.array(rows)), _roughness(ts, np.array(values))))
        if all(rough > 1e-9 and smooth < 1e-11 for rough, smooth in verdicts):
            self.find("the rule loses precision inside", case,
                      **{"relative noise": small(min(r for r, _ in verdicts)), "of forward": small(max(s for _, s in verdicts))})

    # ---- where the arrays lie in memory ---------------------------------------------------------------------

    def layouts(self, case):
        """Equal values give equal gradients, however they lie in memory."""
        y = accepts(self.forward, case.arrays)
        if y is None:
            return
        g = self.rng.normal(size=y.shape).astype(y.dtype)
        try:
            wanted = [grad.copy() for grad in self.call(case, g)]
            tried = [(f"{label} of {name}", g, [other if k == i else np.array(x) for k, x in enumerate(case.arrays)])
                     for i, (name, array) in enumerate(zip(self.names, case.arrays)) for label, other in layouts(array)]
            tried += [(f"{label} of g", other, [np.array(x) for x in case.arrays]) for label, other in layouts(g)]
            tried += [("one object for " + " and ".join((self.names[i], self.names[j])), g,
                       [case.arrays[i].copy() if k not in (i, j) else None for k in range(len(case.arrays))])
                      for i in range(len(case.arrays)) for j in range(i) if self.alike(case.arrays[i], case.arrays[j])]
            for label, cotangent, arrays in tried:
                placed, right = Case(label, case.arrays), wanted
                if any(x is None for x in arrays):
                    one = case.arrays[next(k for k, x in enumerate(arrays) if x is None)].copy()
                    arrays = [one if x is None else case.arrays[k].copy() for k, x in enumerate(arrays)]
                    if accepts(self.forward, arrays) is None:
                        continue
                    right = [grad.copy() for grad in self.call(placed, cotangent, [x.copy() for x in arrays])]
                if not _close(self.call(placed, cotangent, arrays), right):
                    self.find("the gradient depends on how the arrays lie in memory", placed)
                    return
            spread = np.broadcast_to(np.asarray(1.7, g.dtype), g.shape)
            if not _close(self.call(case, spread), [grad.copy() for grad in self.call(case, np.array(spread))], wanted):
                self.find("the gradient depends on how the arrays lie in memory", Case("a broadcast view as g", case.arrays))
        except _Refused:
            return

    @staticmethod
    def alike(a, b):
        return a.shape == b.shape and a.dtype == b.dtype and a.dtype.kind == "f"

    # ---- what a right rule may be excused for ---------------------------------------------------------------

    def strictly(self, case):
        """Read-only inputs, negative indices, and single precision that must stay single."""
        y = accepts(self.forward, case.arrays)
        if y is None:
            return
        g = self.rng.normal(size=y.shape).astype(y.dtype)
        locked = [x.copy() for x in case.arrays]
        for x in locked:
            x.flags.writeable = False
        try:
            self.call(Case("read-only inputs", case.arrays), g, locked)
        except _Refused:
            pass
        stacked = another_axis(case.arrays, self.rng)
        if stacked is not None and np.shape(accepts(self.forward, stacked)) == (len(stacked[0]), *y.shape):
            known = len(self.findings)  # a rule need not take more axes, but if it does, it must be right
            self.examine(Case("one more axis", stacked, False))
            self.findings[known:] = [finding for finding in self.findings[known:] if finding.what.endswith("is wrong")]
        if any(Kind(x).special == "indices" for x in case.arrays):
            self.examine(Case("negative indices", tuple(x - int(x.max()) - 1 if x.dtype.kind == "i" and x.size else x for x in case.arrays)))
        if not self.single:
            single = Case("single precision", tuple(x.astype(np.float32) if x.dtype == np.float64 else x for x in case.arrays))
            y = accepts(self.forward, single.arrays)
            if y is not None and y.dtype == np.float32:
                try:
                    self.call(single, self.rng.normal(size=y.shape).astype(np.float32))
                except _Refused:
                    pass


def _names(forward, vjp, count):
    """What the forward, or else the rule, calls its arrays."""
    for function, skipped in ((forward, 0), (vjp, 1)):
        try:
            named = [p for p in inspect.signature(function).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        except (TypeError, ValueError):
            continue
        if len(named) >= count + skipped and named[skipped].name != "args":
            return [p.name for p in named[skipped:skipped + count]]
    return [f"input {i}" for i in range(count)]


def _same(a, b):
    """Equal to the last bit."""
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b))


def _close(a, b, sizes=None):
    """Equal but for the order of summation; `sizes` are arrays as large as what may cancel."""
    loose = 1e-4 if any(x.dtype == np.float32 for x in a) else 1e-9
    size = [np.max(np.abs(s), initial=0.0, where=np.isfinite(s)) for s in sizes or b]
    return all(np.allclose(x, y, rtol=loose, atol=loose * s, equal_nan=True) for x, y, s in zip(a, b, size))


def _dot(g, u):
    """⟨g, u⟩, where a zero of u leaves out whatever g is."""
    return float(np.sum(g * u, where=u != 0))


def _scales(x):
    """The length over which a function may be expected to change in each entry."""
    size = np.abs(x)
    known = size[size > 0]
    return np.where(size > 0, size, min(float(np.median(known)), 1.0) if known.size else 1.0)


def _roughness(ts, rows):
    """How far the rows lie from a straight line in t, relative to their size; in the middle of all entries that are not 0."""
    size = np.max(np.abs(rows), axis=0)
    if not np.all(np.isfinite(size)) or not np.any(size > 0):
        return 0.0
    design = np.stack([np.ones_like(ts), ts], axis=1)
    residual = rows - design @ np.linalg.lstsq(design, rows, rcond=None)[0]
    return float(np.max(np.sqrt(np.mean(residual**2, axis=0))[size > 0] / np.maximum(size, 0.1 * size.max())[size > 0]))
