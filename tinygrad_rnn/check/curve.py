"""The error of a difference against its step: the V curve that every numerics course draws, as data.

Knows how to sweep the step for one entry of one gradient. Refuses to draw. Below it: differences, subject.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import ArgumentError, message
from .differences import complex_step
from .subject import Subject


@dataclass(frozen=True)
class Curve:
    """Errors of three methods against the step, for the entry `index` of the input `name`, relative to `gradient`.

    Shapes: steps, forward, central and imaginary (the complex step; nan where it does not apply) are (n,), steps falling.
    """

    name: str
    index: tuple
    gradient: float
    steps: np.ndarray
    forward: np.ndarray
    central: np.ndarray
    imaginary: np.ndarray

    def __str__(self):
        at = f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name
        best = int(np.nanargmin(self.central))
        return message(f"error_against_step({at})", f"the central difference is best at a step of {self.steps[best]:.0e}",
                       {"gradient": f"{self.gradient:.10g}", "central": f"{self.central[best]:.1e}", "forward": f"{np.nanmin(self.forward):.1e}",
                        "complex": "does not apply" if np.all(np.isnan(self.imaginary)) else f"{np.nanmin(self.imaginary):.1e}"})


def error_against_step(f, inputs, name=None, index=None, *, steps=None):
    """Errors of the forward difference, the central difference and the complex step of a scalar f, step by step.

    Shapes: `inputs` as for `gradcheck`; `name` is a gradient's name as its report prints it (default: the first), `index`
    an entry (default: the one with the largest gradient). `steps` are lengths, by default 1 … 1e-16 in halves of decades.

    Raises: ArgumentError for a name that is no input, an index that is no entry of it, and without steps.

    Example:
        >>> curve = tg.check.error_against_step(lambda x: tg.sum(np.exp(x)), np.ones(3))
        >>> bool(1e-7 < curve.steps[np.argmin(curve.central)] < 1e-4 and curve.imaginary[-1] < 1e-15)
        True
    """
    inputs = inputs if type(inputs) is tuple else (inputs,)
    subject = Subject(f, inputs, None, "error_against_step(f, inputs)")
    subject.weigh(np.random.default_rng(0))
    if name is not None and name not in subject.names:
        raise ArgumentError(message("error_against_step(f, inputs, name)", "no floating point input has this name",
                                    {"name": name, "inputs": ", ".join(subject.names)}, "Use one of these names."))
    i = subject.names.index(name) if name is not None else 0
    shape = subject.point[i].shape
    inside = index is None or len(index) == len(shape) and all(-n <= k < n for k, n in zip(index, shape))
    if not inside or 0 in shape or steps is not None and not np.size(steps):
        raise ArgumentError(message("error_against_step(f, inputs, name, index)", "there is nothing to follow",
                                    {"name": subject.names[i], "shape": shape, "index": index, "steps": "default" if steps is None else np.size(steps)},
                                    "Pass the index of an entry, and steps to try."))
    g = subject.gradient(subject.point)[i]
    index = tuple(int(k) for k in np.unravel_index(np.argmax(np.abs(g)), g.shape)) if index is None else index
    exact, unit = float(g[index]), np.zeros(g.shape)
    unit[index] = 1.0

    def phi(t):
        return subject.value([x + t * unit if k == i else x for k, x in enumerate(subject.point)])

    steps = np.logspace(0, -16, 33) if steps is None else np.asarray(steps, float)
    size = abs(exact) or 1.0
    with np.errstate(all="ignore"):
        forward = np.array([abs((phi(h) - phi(0.0)) / h - exact) / size for h in steps])
        central = np.array([abs((phi(h) - phi(-h)) / (2 * h) - exact) / size for h in steps])
        try:
            imaginary = np.array([abs(np.imag(phi(1j * h)) / h - exact) / size for h in steps])
            imaginary = imaginary if abs(complex_step(phi) - exact) < 1e-6 * size else np.full(len(steps), np.nan)
        except Exception:  # code that cannot compute with complex numbers says so in any way it likes
            imaginary = np.full(len(steps), np.nan)
    return Curve(subject.names[i], index, exact, steps, forward, central, imaginary)
