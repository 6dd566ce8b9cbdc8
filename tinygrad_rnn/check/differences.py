"""Numerical derivatives of a black box, each with a bound on its own error.

Knows central differences over a sweep of steps, one-sided differences (which tell a kink), and the complex
step. Refuses to know rules, ops or Tensors: that is what makes it a second opinion. Nothing stands below it.

A central difference has two errors that pull in opposite directions: the truncation falls with the step, the
rounding of the function's value, divided by the step, grows. So no step is trusted by itself: an estimate counts
only as far as every smaller step agrees with it, within what rounding may do there.
"""

from dataclasses import dataclass

import numpy as np

SHRINK = 8.0  # ratio of neighbouring steps, a power of two: x ± h then rounds as little as it can
MIDDLE, WIDE, DEEP, UPWARD = (10, 13, 16, 19, 22), (1, 4, 7, 25, 28, 31, 34, 37, 40), range(43, 170, 3), 60


@dataclass(frozen=True)
class Estimate:
    """A derivative, a bound on its error, and the sweep that it came from (steps fall, errors are bounds).

    `left` and `right` are the one-sided derivatives; `kink` says that they stay apart however small the step.
    `jump` says that the value itself stays apart from its neighbours': the function is broken here, or changes over
    lengths that no step resolves. `flat` says that no step changed the function's value by a single bit; `still` is the
    longest step that did not, and `quantum` the least change that was seen.
    """

    value: float
    error: float
    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    left: float
    right: float
    kink: bool
    jump: bool
    flat: bool
    step: float = 0.0
    still: float = 0.0
    quantum: float = 0.0

    def admits(self, candidate, slack):
        """Whether some step decides for `candidate` and against the value: then it cannot be called wrong."""
        with np.errstate(invalid="ignore"):
            decisive = self.errors <= 0.1 * abs(candidate - self.value)
            return bool(np.any(np.abs(self.values[decisive] - candidate) <= 2 * self.errors[decisive] + slack))

    def decisive(self, candidate):
        """The smallest step that decides between `candidate` and the value: it says most about this very point."""
        return float(np.min(self.steps[self.errors <= 0.1 * abs(candidate - self.value)], initial=self.step))

    def between(self, candidate, slack):
        """Whether `candidate` lies between the one-sided derivatives: a gradient that a kink allows."""
        low, high = min(self.left, self.right), max(self.left, self.right)
        slack += 0.01 * (high - low)
        return bool(low - slack <= candidate <= high + slack)


def derivative(phi, scale=1.0, noise=0.0, target=0.0, thorough=False, at_zero=False):
    """dφ/dt at t = 0 of a function of one number, by a sweep of central differences.

    Shapes: phi takes a float and returns one. `scale` is the length over which phi is expected to change, `noise` a
    bound on the rounding error of its value, `target` an error that is small enough to stop the sweep; `thorough` goes
    through all steps in any case, and `at_zero`, where what moves is 0 and can move by less than other numbers, far down.

    Source: the choice of a step by agreement of a sweep is that of Ridders, "Accurate computation of F'(x) and
    F'(x) F''(x)" (1982), without his extrapolation: a bound is wanted here, not the last digit.

    Example:
        >>> from tinygrad_rnn.check.differences import derivative
        >>> found = derivative(np.exp)
        >>> abs(found.value - 1) < found.error < 1e-8
        True
    """
    center, seen = phi(0.0), {}
    noise = max(noise, np.finfo(float).eps * abs(center)) if np.isfinite(center) else noise

    def look(exponents):
        for k in exponents:
            t = scale * 2.0**-k
            if k not in seen and np.isfinite(t) and t > 0:
                seen[k] = t, phi(t), phi(-t)
        return _judged(center, seen, noise, scale)

    found = look(MIDDLE)
    if thorough or found.error > max(target, 1e-7 * abs(found.value)):
        found = look(WIDE)
    if thorough and at_zero:
        found = look(DEEP)
    k = 1
    while k > -UPWARD and found.error > max(target, 1e-6 * abs(found.value)) and scale * 2.0**-k < 0.1:
        k -= 6  # a tiny x need not mean that the function changes over tiny lengths
        found = look((k, k + 3))
    return found


def _judged(center, seen, noise, scale):
    """The sweep's best estimate: the step with the smallest bound on truncation and rounding together."""
    rows = [(t, plus, minus) for _, (t, plus, minus) in sorted(seen.items()) if np.isfinite(plus) and np.isfinite(minus)]
    if len(rows) < 2 or not np.isfinite(center):
        nothing = np.empty(0)
        return Estimate(np.nan, np.inf, nothing, nothing, nothing, np.nan, np.nan, False, False, False)
    t, plus, minus = (np.array(column) for column in zip(*rows))
    with np.errstate(all="ignore"):
        values = plus / (2 * t) - minus / (2 * t)
        eps = np.finfo(float).eps
        rounding = (noise + eps * (np.abs(plus) + np.abs(minus)) / 2) / t + eps * np.abs(values) * scale / t
        apart = np.abs(values[:, None] - values[None, :])
        smaller = np.triu(np.ones_like(apart, bool), 2)
        disagreement = np.max(np.where(smaller, np.maximum(apart - rounding[None, :], 0), 0), axis=1)
        errors = rounding + np.append(np.abs(np.diff(values)), np.inf) + disagreement
        best = int(np.argmin(errors))
        right, left = (plus - center) / t, (center - minus) / t
        bend, k = np.abs(right - left), best + 1
        kink = bend[k] > 0.5 * bend[best] and bend[k] > 8 * rounding[k] and bend[k] > 1e-4 * max(abs(right[k]), abs(left[k]))
        jump = kink and bend[k] > 0.5 * SHRINK * bend[best]
    moved, still = np.maximum(np.abs(plus - center), np.abs(minus - center)), (plus == center) & (minus == center)
    return Estimate(float(values[best]), float(errors[best]), t, values, errors, float(left[k]), float(right[k]), bool(kink), bool(jump),
                    bool(still.all()), float(t[best]), float(t[still].max(initial=0.0)), float(moved[~still].min(initial=np.inf)))


def complex_step(phi):
    """dφ/dt at t = 0 by one evaluation at an imaginary t: Im φ(i h) / h, free of cancellation.

    Valid where phi is analytic; its error is that of rounding alone.

    Source: Squire and Trapp, "Using complex variables to estimate derivatives of real functions" (1998).

    Example:
        >>> from tinygrad_rnn.check.differences import complex_step
        >>> complex_step(np.exp)
        1.0
    """
    h = 2.0**-200  # h² is nothing beside 1, and h a power of two: dividing by it is exact
    return float(np.imag(phi(1j * h)) / h)


def taylor(phi, radius, terms=4, points=16):
    """The derivatives φ, φ', φ'', … at 0 of an analytic function, by Cauchy's integral over a circle.

    Shapes: phi takes a complex number and returns one; the result has `terms` entries.

    Source: Lyness and Moler, "Numerical differentiation of analytic functions" (1967).

    Example:
        >>> from tinygrad_rnn.check.differences import taylor
        >>> taylor(np.exp, 0.5).round(9)
        array([1., 1., 1., 1.])
    """
    circle = radius * np.exp(2j * np.pi * np.arange(points) / points)
    coefficients = np.fft.fft([phi(z) for z in circle]) / points
    k = np.arange(terms)
    return np.real(coefficients[:terms]) / radius**k * np.cumprod(np.maximum(k, 1))
