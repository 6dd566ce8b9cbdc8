"""One order of gradcheck: the gradients of one scalar function against differences and the complex step.

Knows how to hold gradients against an independent value, entry by entry or along directions, and what rounding and kinks
excuse. Refuses to take the engine's forward mode for a second opinion, which is made of the same rules. Below it:
differences, recorders, verdicts.

An entry is wrong only when no step of the sweep supports it and rounding cannot explain it: the function and its
gradient are run again with every operation rounded a little differently, and what moves is the noise that a
difference, or a right gradient, may show. Where the noise hides the gradient, the verdict is `cannot tell`.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np

from ..errors import RuleError
from .differences import complex_step, derivative
from .recorders import Shaker, watching
from .report import number, small
from .verdicts import RIGHT, UNKNOWN, WRONG, Row

EPS = np.finfo(float).eps
SAMPLES = 5          # runs with other rounding
SLACK = 8.0          # bounds are estimates: this many of them must be exceeded before a gradient is called wrong
KINK = "the function has a kink here"
BLIND = 0.1          # a tolerance above this share of the gradient could not have seen it missing


class Level:
    """One order of the check: the reference, the noise, and the comparison of entries and directions."""

    def __init__(self, subject, order, rng, loose, tolerance, watcher):
        self.subject, self.order, self.rng, self.loose, self.given = subject, order, rng, loose, tolerance
        self.watcher, self.problems, self.doubled = watcher, [], None
        self.gain = subject.gain
        self.point = [x.astype(np.float64) for x in subject.point]
        self.scales = [_scales(x) for x in self.point]

    def prepare(self):
        """The gradients under test, how far rounding moves them, and by which method they are checked."""
        subject = self.subject
        with np.errstate(all="ignore"):
            self.grads = subject.gradient(subject.point)
            for name, x, g in zip(subject.names, subject.point, self.grads):
                if g.shape != x.shape or g.dtype != x.dtype:
                    self.problems.append(f"the gradient of {name} is {g.dtype} {g.shape}, the input {x.dtype} {x.shape}")
            self.grads = [np.broadcast_to(np.sum(g) if g.size != x.size else g.reshape(x.shape), x.shape).astype(np.float64)
                          for g, x in zip(self.grads, self.point)]
            self.runs, values, center = [], [], subject.value(self.point)
            for _ in range(SAMPLES):
                shaker = Shaker(self.rng)
                with watching(shaker):
                    values.append(self._value([shaker.shaken(x) for x in self.point]))
            away = [abs(v - center) for v in values if np.isfinite(v)]
            self.noise, self.finite = 2 * max(away, default=0.0), np.isfinite(center) and len(away) == SAMPLES
            self._shake(SAMPLES)
            self._choose()

    def _shake(self, samples):
        """Run the gradient again with other rounding. The noise is the spread of these runs, not their distance from the
        gradient: a rule that is wrong at one point exactly, and right beside it, stands out from them."""
        subject = self.subject
        for _ in range(samples):
            shaker = Shaker(self.rng)
            point = [shaker.shaken(x) for x in subject.point]
            try:
                with watching(shaker):
                    run = self._gradient(point, shaker if subject.own is None else None)
            except RuleError:  # a rule that is not made of ops: it can still be run plainly
                run = self._gradient(point)
            self.runs.append([m.astype(np.float64) if m.shape == g.shape else g for m, g in zip(run, self.grads)])
        eps = [np.finfo(x.dtype).eps for x in subject.point]
        self.wobble = [np.ptp(np.stack(column), axis=0) + 4 * e * np.abs(g) for column, g, e in zip(zip(*self.runs), self.grads, eps)]

    def _choose(self):
        """The complex step if it may be trusted: every op analytic, and in agreement with a difference along a direction."""
        everywhere = [self.rng.normal(size=x.shape) * s for x, s in zip(self.point, self.scales)]
        along = self._along(everywhere)
        numeric = derivative(along, 1.0, self.noise)
        opaque = self.watcher.opaque
        reason = f"not valid through {', '.join(opaque)}" if opaque else ""
        self.complex = False
        if not opaque and self.order == 1:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    exact = complex_step(along)
                self.complex = np.isfinite(exact) and abs(exact - numeric.value) <= SLACK * numeric.error + 1e-6 * abs(exact)
                reason = "" if self.complex else "it disagrees with differences: some part is not analytic"
            except Exception as error:  # code that cannot compute with complex numbers says so in any way it likes
                reason = f"the function does not take complex numbers ({type(error).__name__})"
        self.method = "complex step (every op is analytic)" if self.complex else f"central differences; complex step {reason}"
        yours = sum(float(np.sum(g * u)) for g, u in zip(self.grads, everywhere))
        best = exact if self.complex else numeric.value
        self.adjoint = f"⟨v, Ju⟩ = {number(best)}, ⟨Jᵀv, u⟩ = {number(yours)}, apart {small(abs(best - yours))}"

    def _along(self, direction, point=None):
        point = self.point if point is None else point
        return lambda t: self._value([x + t * u for x, u in zip(point, direction)])

    def _value(self, point):
        try:
            return self.subject.value(point)
        except Exception:  # how somebody's function refuses a neighbour of its inputs is its own affair
            return np.nan

    def _gradient(self, point, shaker=None):
        """The gradients beside the inputs; nan where f refuses."""
        try:
            return self.subject.gradient(point, shaker)
        except Exception:
            if np.isfinite(self._value(point)):
                raise
            return [np.full_like(x, np.nan) for x in point]

    # ---- one gradient ---------------------------------------------------------------------------------------

    def row(self, i, entries, directions):
        """The verdict on gradient i."""
        x, g = self.point[i], self.grads[i]
        if x.size == 0:
            return Row(self.subject.names[i], self.order, x.shape, UNKNOWN, "it has no entries", None, None, 0.0, 0.0, 0.0, 0.0, 0, 0)
        with np.errstate(all="ignore"):
            one_by_one = x.size <= entries / max(1, sum(p.size > 0 for p in self.point)) or sum(p.size for p in self.point) <= entries
            if one_by_one:
                found = [self._compare(i, index) for index in np.ndindex(x.shape)]
            else:
                found = [self._compare(i, None) for _ in range(min(directions, x.size))]
                weight = np.abs(g * self.scales[i])
                largest = np.argsort(np.where(np.isfinite(weight), -weight, -np.inf), axis=None)
                if self.order == 1:
                    picks = {*largest[:8].tolist(), *self.rng.choice(x.size, min(8, x.size), replace=False).tolist()}
                    found += [self._compare(i, np.unravel_index(k, x.shape)) for k in sorted(picks)]
                if any(c.verdict == WRONG for c in found):
                    found += [self._compare(i, np.unravel_index(k, x.shape)) for k in largest[:64]]
                    if any(c.verdict == WRONG and c.index is not None for c in found):
                        found = [c for c in found if c.index is not None]
                    elif x.size <= 64:  # each of them has an explanation, then so has their sum
                        found = [replace(c, verdict=UNKNOWN, reason="no single entry is wrong") if c.verdict == WRONG else c for c in found]
        return self._judge(i, found)

    def _compare(self, i, index):
        """One entry, or one random direction, against the numerical derivative."""
        g = self.grads[i]
        u = np.zeros(g.shape)
        if index is None:
            u, scale = self.rng.normal(size=g.shape) * self.scales[i], 1.0
        else:
            u[index], scale = 1.0, float(self.scales[i][index])
        yours = _dot(g, u)
        along = self._along([u if k == i else 0.0 for k in range(len(self.point))])
        if self.complex:
            value = complex_step(lambda t: along(t * scale)) / scale
            found = self._held(i, index, u, yours, value, 64 * EPS * abs(value), 1e-10, None)
            if found.verdict != WRONG:
                return found
        size = float(np.max(np.abs(g * u), initial=0.0, where=np.isfinite(g)))
        sweep = derivative(along, scale, self.noise, 1e-7 * size)
        if self.complex and np.isinf(sweep.error):
            return found
        found = self._held(i, index, u, yours, sweep.value, sweep.error, 1e-7, sweep)
        if found.verdict == WRONG and len(self.runs) == SAMPLES:
            self._shake(4 * SAMPLES)  # before an accusation, look harder for what rounding can do
            found = self._held(i, index, u, yours, sweep.value, sweep.error, 1e-7, sweep)
        return self._excused(found, i, u, along, scale) if found.verdict == WRONG else found

    def _held(self, i, index, u, yours, value, error, relative, sweep):
        """Both values side by side: is what lies between them more than rounding and the differences' own error?"""
        noise = _dot(self.wobble[i], np.abs(u))
        relative = max(relative if self.given is None else self.given, self.loose)
        strict = relative * abs(value) + 16 * np.finfo(self.subject.point[i].dtype).tiny + SLACK * error
        allowed, apart = strict + SLACK * noise, abs(yours - value)
        flat = sweep.flat if sweep is not None else value == 0
        if not self.finite or not np.isfinite(value) or np.isinf(error):
            verdict, reason = UNKNOWN, "the function is not finite here"
        elif np.isfinite(yours) and not np.isfinite(noise):
            verdict, reason = UNKNOWN, "it is finite only by luck of rounding"
        elif not np.isfinite(yours):
            verdict, reason, allowed = WRONG, "not finite", strict
        elif apart > allowed or apart > strict and self._stands_out(i, u, yours, value, strict):
            verdict, reason = WRONG, ""
        elif sweep is not None and sweep.kink:
            verdict, reason = UNKNOWN, KINK
        else:
            verdict, reason = RIGHT, ""
        return _Comparison(index, verdict, reason, yours, value, apart, allowed, flat)

    def _excused(self, found, i, u, along, scale):
        """What looks wrong, unless there is an innocent explanation."""
        sweep, innocent, at_zero = derivative(along, scale, self.noise, thorough=True), "", np.all(self.point[i][u != 0] == 0)
        finer = derivative(along, scale, self.noise, thorough=True, at_zero=True) if at_zero else sweep
        apart = abs(found.yours - found.numerical)
        if self.watcher.extreme:
            innocent = f"numbers near the limit of the range ({self.watcher.extreme[0]})"
        elif not np.isfinite(sweep.value) or sweep.jump:
            innocent = "the function jumps here"
        elif np.isfinite(found.yours):
            if abs(found.yours - finer.value) <= found.allowed + SLACK * finer.error <= 0.5 * apart or sweep.admits(found.yours, found.allowed):
                innocent = "differences settle on two values"
            elif sweep.kink and sweep.between(found.yours, found.allowed):
                innocent = KINK
            elif 0 < abs(found.yours) * sweep.still < 4 * sweep.quantum <= 1e5 * EPS * self.watcher.size * self.gain:
                innocent = "its effect is below rounding"
            elif at_zero and abs(found.yours) * self._width(i, u, scale, found) < 4 * max(self.noise, EPS * abs(along(0.0))):
                innocent = "its effect is below rounding"
            elif self.loose and abs(_dot(self._double(i), u) - found.numerical) <= 0.1 * apart:
                innocent = "in double precision it is right: rounding"
            elif not self._settled(i, u, sweep.decisive(found.yours), found):
                innocent = "it changes within the steps of the differences"
        if not innocent and self.watcher.kinks and self._right_nearby(i, u, scale):
            innocent = f"{KINK}, and the gradient is right beside it"
        return replace(found, verdict=UNKNOWN, reason=innocent) if innocent else found

    def _double(self, i):
        """The gradient in double precision, of inputs that are single."""
        if self.doubled is None:
            self.doubled = self.subject.gradient(self.point)
        return self.doubled[i]

    def _settled(self, i, u, step, found):
        """Whether the gradient along the step is as here (wrong all around) or as the difference says (wrong here alone):
        anything else means that the function changes faster than differences can follow. Where neighbouring numbers lie
        further apart than 1, what is particular to one of them (a tie in a softmax, say) is no mistake."""
        coarse = bool(np.any(np.spacing(np.abs(self.point[i][u != 0])) > 1))
        for part in (-1.0, -0.62, -0.37, 0.37, 0.62, 1.0):
            moved = [(x + part * step * u if k == i else x).astype(p.dtype) for k, (x, p) in enumerate(zip(self.point, self.subject.point))]
            there = _dot(self._gradient(moved)[i], u)
            alone = np.inf if coarse else abs(there - found.numerical)
            if not min(abs(there - found.yours), alone) <= 0.3 * abs(found.yours - found.numerical):
                return False
        return True

    def _width(self, i, u, scale, found):
        """How far from a zero the gradient is still as there: beyond it a function has saturated, say; infinite if it is
        wrong at the zero alone, or everywhere."""
        for k in range(4, 400, 6):
            moved = [(x + 2.0**-k * scale * u if j == i else x).astype(p.dtype) for j, (x, p) in enumerate(zip(self.point, self.subject.point))]
            if abs(_dot(self._gradient(moved)[i], u) - found.yours) <= 0.3 * abs(found.yours - found.numerical):
                return 2.0**-k * scale if k > 4 else np.inf
        return np.inf

    def _stands_out(self, i, u, yours, value, allowed):
        """Whether the gradient jumps at this very point: rounding leaves it as it is, or brings it to the numerical value,
        and to nothing between."""
        moved = np.array([_dot(run[i], u) for run in self.runs])
        return bool(np.all((np.abs(moved - yours) <= allowed) | (np.abs(moved - value) <= allowed)))

    def _right_nearby(self, i, u, scale):
        """Whether the gradient along u is right at a point a little aside, off the kink."""
        if self.subject.own is not None:
            return False
        near = [x + 1e-3 * s * self.rng.normal(size=x.shape) for x, s in zip(self.point, self.scales)]
        g = self._gradient([x.astype(p.dtype) for x, p in zip(near, self.subject.point)])[i]
        sweep = derivative(self._along([u if k == i else 0.0 for k in range(len(near))], near), scale, self.noise)
        return bool(abs(_dot(g, u) - sweep.value) <= SLACK * sweep.error + max(1e-6, self.loose) * abs(sweep.value))

    def _judge(self, i, found):
        name, shape = self.subject.names[i], self.point[i].shape
        size = max(max(abs(c.yours), abs(c.numerical)) if np.isfinite(c.yours + c.numerical) else np.inf for c in found)
        blind = [c for c in found if c.verdict != WRONG and not c.allowed <= BLIND * size]
        wrong = [c for c in found if c.verdict == WRONG]
        unknown = [c for c in found if c.verdict == UNKNOWN]
        pool = wrong or unknown or found
        worst = max(pool, key=lambda c: np.inf if not np.isfinite(c.apart) else c.apart / c.allowed if c.allowed else c.apart)
        verdict, reason = (WRONG, wrong[0].reason) if wrong else (UNKNOWN, unknown[0].reason) if unknown else (RIGHT, "")
        if verdict == RIGHT and all(c.flat and c.yours == 0 for c in found):
            verdict, reason = UNKNOWN, "the function does not depend on it"
        elif verdict == RIGHT and len(blind) == len(found):
            verdict, reason = UNKNOWN, "its effect is below rounding"
        step = None
        if worst.index and i in self.watcher.timed:
            step = int(worst.index[0])
        index = None if worst.index is None else tuple(int(k) for k in worst.index)
        return Row(name, self.order, shape, verdict, reason, index, step, worst.yours, worst.numerical, worst.apart, worst.allowed,
                   len(found), len(blind))


@dataclass(frozen=True)
class _Comparison:
    index: tuple | None
    verdict: str
    reason: str
    yours: float
    numerical: float
    apart: float
    allowed: float
    flat: bool


def _dot(g, u):
    """⟨g, u⟩, where a zero of u leaves out whatever g is."""
    return float(np.sum(g * u, where=u != 0))


def _scales(x):
    """The length over which a function may be expected to change in each entry: its size; for a zero that of its
    neighbours, but not beyond 1 (a sweep of steps can be widened upwards, it has an end below)."""
    size = np.abs(x)
    known = size[(size > 0) & np.isfinite(size)]
    typical = float(np.median(known)) if known.size else 1.0
    return np.where(size > 0, size, min(typical, 1.0))
