"""The values of a rule against central differences, along entries and directions, and its linearity in g.

Knows what a difference can tell of a gradient, and what rounding, kinks, ties and the edge of a domain excuse.
Refuses to know how the arrays were made. Below it: differences, inputs, rule_call, report.
"""

import numpy as np

from .differences import derivative
from .inputs import accepts
from .report import number, small
from .rule_call import Refused

ENTRIES, SLACK = 40, 8.0
FACTORS, EXTREMES = (-1.0, 1e5, 1e-6, 1e-15), (1e12, 1e-40)


def examine(rule, case):
    """All that can be said about the values of the rule at these arrays."""
    y = None if rule.enough else accepts(rule.forward, case.arrays)
    if y is None:
        return
    g = rule.cotangent(y)
    try:
        grads = [grad.copy() for grad in rule.call(case, g)]
        linear(rule, case, g, grads)
        shaken = [[r.astype(float) for r in rule.call(case, g, [_shaken(rule.rng, x, 2000) for x in case.arrays])] for _ in range(5)]
        at = _Point(rule, case, g, [dict(zip(rule.floats, run)) for run in shaken])
        if all([at.compare(i, grads[k].astype(float)) for k, i in enumerate(rule.floats)]):
            at.together(grads)
    except Refused:
        return


def linear(rule, case, g, grads):
    """vjp(0) = 0 and vjp(c g) = c vjp(g), vjp(g + h) = vjp(g) + vjp(h)."""
    if any(not np.all(np.isfinite(grad)) for grad in grads):
        return
    for name, grad in zip(rule.float_names, rule.call(case, np.zeros_like(g))):
        if np.any(grad != 0):
            rule.find(f"the gradient of {name} is not 0 for a cotangent of 0", case, gradient=number(grad.ravel()[np.argmax(grad.ravel() != 0)]))
    h, ones = rule.cotangent(g), np.ones_like(g)
    double = not single(case)
    factors = FACTORS + (EXTREMES if double and case.label == "the inputs as given" else ())
    parts = [(f"{c:g} g", np.asarray(c * g, g.dtype), [c * grad for grad in grads], False) for c in factors]
    if g.size > 1:
        one = np.where(np.arange(g.size).reshape(g.shape) == rule.rng.integers(g.size), g, 0).astype(g.dtype)
        parts += [("one entry of g", one, [a - b for a, b in zip(grads, rule.call(case, g - one))], True)]
    parts += [("g + h", g + h, [a + b for a, b in zip(grads, rule.call(case, h))], True),
              ("ones", ones, [a + b for a, b in zip(grads, rule.call(case, ones - g))], True)]
    for label, mixed, wanted, summed in parts:
        gain = float(np.max(np.abs(mixed), initial=0.0))
        for i, got, want, whole in zip(rule.floats, rule.call(case, mixed), wanted, grads):
            size = np.max(np.abs(want), initial=0.0) + (np.max(np.abs(whole), initial=0.0) if summed else 0.0)
            size += rule.usual.get(i, 0.0) * gain  # what cancels in a rule leaves rounding errors of its terms
            if not np.all(np.abs(got - want) <= (1e-8 if double else 1e-3) * size):
                at = np.unravel_index(np.argmax(np.abs(got - want)), got.shape)
                rule.find(f"the gradient of {rule.names[i]} is not linear in g", case, cotangent=label, gradient=number(got[at]), wanted=number(want[at]))
                return


class _Point:
    """A rule at some arrays, for one cotangent; `runs` are its gradients for inputs that were rounded differently."""

    def __init__(self, rule, case, g, runs):
        self.rule, self.case, self.g, self.runs = rule, case, g, runs
        self.points = [x.astype(float) if x.dtype.kind == "f" else x for x in case.arrays]
        self.loose = 1e-3 if single(case) else 1e-7
        self.noise = self._noise()

    def compare(self, i, grad):
        """Entries of one gradient against differences, or some of them and directions; whether they agree."""
        x, rule = self.points[i], self.rule
        if not x.size:
            return True
        scales, size = _scales(x), _size(grad)
        if self.case.label == "the inputs as given":
            rule.usual[i] = size
        count = self.affordable()
        indices, directions = list(np.ndindex(x.shape)), []
        if len(indices) > count:
            picked = {0, len(indices) - 1, *rule.rng.choice(len(indices), max(2, count // 3), replace=False).tolist()}
            indices = [indices[k] for k in sorted(picked)]
            directions = [rule.rng.normal(size=x.shape) * scales for _ in range(max(1, count // 12))]
        units = [(index, np.zeros(x.shape), float(scales[index])) for index in indices]
        for index, u, _ in units:
            u[index] = 1.0
        units += [(None, u, 1.0) for u in directions] + [(None, np.ones(x.shape) * float(np.min(scales)), 1.0)]  # ties move together
        return all(self.held({i: u}, scale, {i: grad}, size, index) for index, u, scale in units)

    def together(self, grads):
        """All inputs along one direction: a maximum of two equal inputs is smooth there."""
        floats = self.rule.floats
        if len(floats) > 1:
            least = min(float(np.min(_scales(self.points[i]), initial=1.0)) for i in floats)
            units = {i: np.full(self.points[i].shape, least) for i in floats}
            self.held(units, 1.0, dict(zip(floats, grads)), max(_size(grad) for grad in grads), None)

    def affordable(self):
        """How many entries to look at: of large arrays fewer."""
        size = self.g.size + sum(x.size for x in self.points)
        return ENTRIES if size < 200 else 12 if size < 2000 else 4

    def value(self, arrays):
        """⟨g, forward⟩ in double precision; nan where forward refuses what lies beside its inputs."""
        try:
            y = self.rule.forward(*[np.array(x) for x in arrays])
        except Exception:  # a singular matrix, say; how somebody's function refuses an input is its own affair
            return np.nan
        return float(np.sum(np.asarray(y, np.float64) * self.g))

    def _noise(self):
        """A bound on the rounding error of `value`; infinite where rounding the inputs turns it into another number."""
        y, value = np.asarray(self.rule.forward(*[np.array(x) for x in self.case.arrays]), np.float64), self.value(self.points)
        moved = [abs(self.value([_shaken(self.rule.rng, x) for x in self.points]) - value) for _ in range(3)]
        size = float(np.sum(np.abs(self.g * y)))
        noise = max(moved) + 2 * np.finfo(float).eps * size
        return noise if noise <= 1e-3 * size else np.inf

    def held(self, units, scale, grads, size, index):
        """Along one entry or direction: whether the rule and the difference agree, or cannot be told apart."""
        along = self._along(units)
        self.rule.checked += 1
        sweep = derivative(along, scale, self.noise, 1e-7 * size)
        yours = sum(_dot(grads[i], u) for i, u in units.items())
        if not np.isfinite(sweep.value) or np.isinf(sweep.error) or sweep.jump:
            return True
        if not np.isfinite(yours):
            told = SLACK * sweep.error <= 0.1 * max(abs(sweep.value), 1e-3 * size) or sweep.value == 0
            if index is None or not (self.rule.strict if self._excusable(units, scale, index, sweep) else told or sweep.kink):
                return True
            return self.wrong(units, index, yours, sweep, "is not finite")
        slip = float(np.ptp([sum(_dot(run[i], u) for i, u in units.items()) for run in self.runs]))
        usual = max((self.rule.usual.get(i, 0.0) * float(np.max(np.abs(u), initial=0.0)) for i, u in units.items()), default=0.0)
        allowed = self.loose * (abs(sweep.value) + 1e-3 * size + usual) + SLACK * (sweep.error + (slip if np.isfinite(slip) else 0.0))
        if abs(yours - sweep.value) <= allowed or sweep.admits(yours, allowed) or sweep.error > 0.3 * max(abs(sweep.value), size):
            return True
        if self._chosen(units, scale, size, sweep, yours, allowed):
            return True
        return self.wrong(units, index, yours, sweep, "is wrong")

    def _along(self, units, shift=None):
        """⟨g, forward⟩ as a function of how far one goes along `units`."""
        shift = {} if shift is None else shift
        return lambda t: self.value([x + shift.get(i, 0.0) + t * units[i] if i in units else x for i, x in enumerate(self.points)])

    def _beside(self, units, scale, size, far, count):
        """Derivatives along `units` at points a little aside."""
        shifts = [{i: far * _scales(self.points[i]) * self.rule.rng.normal(size=self.points[i].shape) for i in units} for _ in range(count)]
        return [derivative(self._along(units, shift), scale, self.noise, 1e-3 * size).value for shift in shifts]

    def _chosen(self, units, scale, size, sweep, yours, allowed):
        """Whether the function has no derivative here, and the rule chose one that lies between those beside the point.

        A kink shows in the one-sided differences. Where several entries tie (the median of equal numbers) it need not:
        then the derivatives beside the point stay apart however near they are."""
        seen = [sweep.left, sweep.right]
        if not sweep.kink:
            far, near = self._beside(units, scale, size, 1e-3, 24), self._beside(units, scale, size, 1e-5, 24)
            if not np.ptp(near) > max(0.3 * np.ptp(far), 0.1 * abs(yours - sweep.value)):
                return False
            seen = [sweep.value, *far, *near]
        for _ in range(8):  # of many pieces that meet here, each has to be come upon
            seen += self._beside(units, scale, size, 1e-3, 12)
            low, high = min(seen), max(seen)
            if not np.isfinite(low + high) or low - 0.1 * (high - low) - allowed <= yours <= high + 0.1 * (high - low) + allowed:
                return True
        return False

    def _excusable(self, units, scale, index, sweep):
        """Whether a right rule may be nan here: at a kink where several entries meet (a norm at the origin, but not the
        absolute value of one 0), at 0 / 0 in the deviation of one number, where forward gives no number for inputs a
        little aside (a power of 0, say)."""
        (i,) = units
        if sweep.flat and "size 1" in self.case.label:
            return True
        if sweep.kink:
            moved = self._aside()
            moved[i][index] = self.points[i][index]
            arrays = [np.asarray(x, old.dtype) for x, old in zip(moved, self.case.arrays)]
            grads = self.rule.call(self.case, self.g, arrays)
            kinked = derivative(lambda t: self.value([x + t * units[k] if k in units else x for k, x in enumerate(moved)]), scale, self.noise).kink
            return not kinked or bool(np.isfinite(grads[self.rule.floats.index(i)][index]))
        return any(not np.isfinite(self.value(self._aside())) for _ in range(8))

    def _aside(self):
        """Points a little aside in every entry."""
        rng = self.rule.rng
        return [x + 1e-3 * _scales(x) * rng.normal(size=x.shape) if x.dtype.kind == "f" else x for x in self.points]

    def wrong(self, units, index, yours, sweep, what):
        whose = " and ".join(self.rule.names[i] for i in units)
        at = {"along": "a direction"} if index is None else {"at": "[" + ", ".join(map(str, index)) + "]"}
        between = {"between": f"{number(sweep.left)} and {number(sweep.right)}"} if sweep.kink else {"numerical": number(sweep.value)}
        self.rule.find(f"the gradient of {whose} {what}", self.case, **at, yours=number(yours), **between, error=small(abs(yours - sweep.value)))
        return False


def single(case):
    """Whether an input is in single precision, or less."""
    return any(x.dtype.kind == "f" and x.dtype.itemsize < 8 for x in case.arrays)


def _shaken(rng, x, units=4):
    """x as other roundings might have left it; by many units in the last place, ties do not survive it."""
    if x.dtype.kind != "f":
        return x.copy()
    u = rng.uniform(1, units, x.shape) * rng.choice((-1, 1), x.shape)
    return np.asarray(x * (1 + np.finfo(x.dtype).eps * u), x.dtype)


def _size(grad):
    """The largest finite entry."""
    return float(np.max(np.abs(grad), initial=0.0, where=np.isfinite(grad)))


def _dot(g, u):
    """⟨g, u⟩, where a zero of u leaves out whatever g is."""
    return float(np.sum(g * u, where=u != 0))


def _scales(x):
    """The length over which a function may be expected to change in each entry."""
    size = np.abs(x)
    known = size[size > 0]
    return np.where(size > 0, size, min(float(np.median(known)), 1.0) if known.size else 1.0)
