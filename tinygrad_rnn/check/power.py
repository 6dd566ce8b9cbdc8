"""power: which mistakes would a gradient check let through, here, with this loss and these numbers.

Knows how far each mistake of the catalogue moves the gradients at one point, and from how far on each of the common checkers
sees that. Refuses to check anything: a check without power says nothing, whatever its verdict. Below it: bugs, breakage,
diagnose_graph.

A mistake is blind where it moves no entry beyond the tolerance; or where it cannot even be made, as nothing carries state in a
sequence of one step: a derivation that passes there may still be wrong.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..errors import DomainError, message
from . import breakage as kinds
from .breakage import broken
from .bugs import catalogue
from .diagnose_graph import Unrolled
from .diagnose_tensors import AVERAGED, ZERO

NEEDS = {  # a kind that cannot be made, because of what, and what to change
    kinds.CARRY: ("T = 1: nothing is carried", "a sequence of at least 4 steps"),
    kinds.CUT: ("fewer than 3 steps: there is nothing to cut", "a sequence of at least 4 steps"),
    kinds.PREVIOUS: ("no step has another before it", "a sequence of at least 4 steps"),
    kinds.NEXT: ("no step has another after it", "a sequence of at least 4 steps"),
    kinds.STATE: ("no step has another before it", "a sequence of at least 4 steps"),
    kinds.WRAP: ("no step has another before it", "a sequence of at least 4 steps"),
    kinds.REPLACED: ("an error enters at the last step alone: there is nothing to replace", "a loss at every step"),
    kinds.LAST_ERROR: ("an error enters at the last step alone", "a loss at every step"),
    kinds.SHIFTED_ERROR: ("an error enters at the last step alone", "a loss at every step"),
    kinds.BIAS: ("nothing is broadcast over a batch", "a batch of at least 2"),
    kinds.START: ("the initial state is zero, or not used", "a random initial state"),
}
REMEDIES = {
    kinds.TRANSPOSE: "asymmetric weights, and sizes that differ (in ≠ hidden)",
    kinds.START: "a random initial state",
    kinds.WRAP: "a random initial state",
    kinds.BIAS: "a batch of at least 2 with rows that differ",
}


@dataclass(frozen=True)
class Mistake:
    """One mistake at one place: `effect` is how far it moves the gradients, in units of what the check lets pass."""

    bug: str
    place: str
    what: str
    effect: float


@dataclass(frozen=True)
class Power:
    """What a check at this point would see. True when no mistake would pass unnoticed."""

    blind: tuple
    seen: tuple
    advice: tuple
    tolerance: str

    @property
    def ok(self):
        """Whether every mistake would be seen."""
        return not self.blind

    def __bool__(self):
        return self.ok

    def __str__(self):
        total = len(self.blind) + len(self.seen)
        lines = [f"power: {len(self.blind)} of {total} mistakes would pass unnoticed here ({self.tolerance})"]
        groups = defaultdict(list)
        for mistake in self.blind:
            groups[mistake.bug].append(mistake)
        seen = {mistake.bug for mistake in self.seen}
        for bug, found in groups.items():
            most = max(found, key=lambda mistake: mistake.effect)
            where = "" if bug not in seen else f" (seen at other places; {len(found)} blind)"
            lines.append(f"  - {bug}{where}: {most.what}" + (f", {most.effect:.1e} of the tolerance" if most.effect else ""))
        return "\n".join([*lines, *(f"Take {advice}." for advice in self.advice)])


# ---- how far a gradient must be off for a checker to see it --------------------------------------------------


def entrywise(atol, rtol):
    """Every entry is compared: |Δ| against atol + rtol |g|. PyTorch's gradcheck has 1e-5 and 1e-3."""
    def effect(graph, off, right):
        with np.errstate(all="ignore"):
            return max((float(np.max(np.abs(off[n]) / (atol + rtol * np.abs(right[n])), initial=0.0)) for n in right), default=0.0)

    return effect


def along_one_direction(atol, rtol):
    """One random direction is compared: the size that ⟨v, Δ⟩ has on average for normal v."""
    def effect(graph, off, right):
        size = lambda g: np.sqrt(sum(float(np.sum(part * part)) for part in g.values()))
        return size(off) / (atol + rtol * size(right))

    return effect


def _jax(graph, off, right):
    """JAX's check_grads draws its direction from a fixed seed, leaf by leaf in the order of sorted names."""
    rng = np.random.RandomState(0)
    names = sorted(name for name in right if name not in graph.wanted)
    v = {name: rng.randn(*right[name].shape) for name in names}
    c = float(rng.randn())
    along = lambda g: c * sum(float(np.sum(v[name] * g[name])) for name in names)
    return abs(along(off)) / (1e-5 + 1e-5 * abs(along(right)))


def _torch_fast(graph, off, right):
    """PyTorch's fast mode: one direction of positive numbers and length 1 for each input, drawn by a generator of its own that
    starts from the same seed in every call (a Mersenne twister, 24 bits a number)."""
    rng, worst = np.random.RandomState(67280421310721 % 2**32), 0.0
    for name, g in right.items():
        u = rng.randint(0, 2**24, size=g.size, dtype=np.uint32) if g.size else np.zeros(0)
        u = u / max(float(np.linalg.norm(u)), 1e-300)
        along = lambda x: float(np.sum(u * np.ravel(x)))
        worst = max(worst, abs(along(off[name])) / (1e-5 * float(u.sum()) + 1e-3 * abs(along(g)) or 1.0))
    return worst


CHECKERS = {"torch": entrywise(1e-5, 1e-3), "torch fast": _torch_fast, "jax": _jax, "autograd": along_one_direction(1e-6, 2e-6)}


# ---- the question -------------------------------------------------------------------------------------------


def power(loss, params, data, *, tolerance="torch"):
    """Which mistakes in a hand derivation would pass a gradient check at this point, and what to change.

    Every mistake of the catalogue is made, and its effect on the gradients compared with what the check lets pass.

    Shapes: `loss(params, *data)` is a scalar made of ops; `tolerance` is the name of a checker with its default tolerances
    ("torch", "torch fast", "jax", "autograd") or a pair (atol, rtol) for every entry.

    Raises: DomainError for another tolerance; GradientError when the loss does not depend on the parameters.

    Example:
        >>> def loss(p, x):
        ...     return tg.sum(tg.scan(lambda h, x: (tg.tanh(h @ p["W"] + x), None), np.zeros((1, 2)), x)[0])
        >>> W, x = np.array([[0.3, -0.5], [0.2, 0.4]]), np.ones((5, 1, 2))
        >>> strong, weak = (tg.check.power(loss, {"W": c * W}, (x,)) for c in (1.0, 1e-3))
        >>> len(weak.blind) > len(strong.blind)
        True
    """
    effect = CHECKERS.get(tolerance) if isinstance(tolerance, str) else entrywise(*tolerance) if isinstance(tolerance, tuple) and len(tolerance) == 2 else None
    if effect is None:
        raise DomainError(message("power(loss, params, data, tolerance=…)", "no checker has this name", {"tolerance": tolerance, "known": ", ".join(CHECKERS)},
                                  "Pass a name, or a pair (atol, rtol)."))
    graph = Unrolled(loss, params, tuple(data))
    mistakes = [Mistake(kind, place, what, effect(graph, {n: np.subtract(wrong[n], right[n]) for n in right}, right))
                for kind, place, what, wrong, right in possible(graph)]
    never = _without_consequence(graph, {(m.bug, m.place, m.what) for m in mistakes if not m.effect > 1})
    mistakes = [m for m in mistakes if m.effect > 1 or (m.bug, m.place, m.what) not in never]
    made = {mistake.bug for mistake in mistakes}
    mistakes += [Mistake(kind, "", reason, 0.0) for kind, (reason, _) in NEEDS.items() if kind not in made]
    blind = tuple(sorted((m for m in mistakes if not m.effect > 1), key=lambda m: m.bug))
    seen = tuple(sorted((m for m in mistakes if m.effect > 1), key=lambda m: m.bug))
    words = tolerance if isinstance(tolerance, str) else f"atol {tolerance[0]:g}, rtol {tolerance[1]:g}"
    return Power(blind, seen, tuple(_advice(graph, blind, made)), f"tolerances: {words}")


def possible(graph):
    """(kind, place, words, gradients, right gradients) of every mistake that can be written down for a loss."""
    right = graph.backward()
    for b in catalogue(graph):
        wrong = broken(graph, [b])
        if wrong is not None:
            yield b.kind, b.place, b.what + kinds.SCOPES[b.scope], wrong, right
    yield kinds.SCALED, "loss", "a factor of 2 too much", {n: 2 * g for n, g in right.items()}, right
    yield kinds.SCALED, "loss", "a factor of ½ too much", {n: g / 2 for n, g in right.items()}, right
    yield kinds.SIGN, "loss", "the sign is reversed", {n: -g for n, g in right.items()}, right
    if graph.T > 1:
        yield AVERAGED, "loss", "averaged over the steps", {n: g / graph.T for n, g in right.items()}, right
    for name in right:
        yield ZERO, name, f"the gradient of {name} is zero", {n: 0 * g if n == name else g for n, g in right.items()}, right


def _without_consequence(graph, names):
    """Those of some mistakes on which no gradient of this loss depends, whatever the numbers."""
    strong = graph.elsewhere()
    right, found, some = strong.backward(), set(), set()
    for b in catalogue(strong):
        key = b.kind, b.place, b.what + kinds.SCOPES[b.scope]
        wrong = broken(strong, [b]) if key in names and b.kind != kinds.START else None
        if wrong is not None:
            same = all(np.allclose(wrong[n], right[n], rtol=1e-9, atol=1e-12) for n in right)
            (found if same else some).add(key)
    return found - some


def _advice(graph, blind, made):
    bugs = {mistake.bug for mistake in blind}
    found = {advice: None for kind, (_, advice) in NEEDS.items() if kind not in made}
    found |= {REMEDIES[bug]: None for bug in bugs if bug in REMEDIES and bug in made}
    if 1 < graph.T < 4:
        found["a sequence of at least 4 steps"] = None
    weak = {mistake.bug for mistake in blind if mistake.bug in made} - set(REMEDIES)
    if weak:
        matrices = [v for n, v in graph.values.items() if v.ndim == 2]
        small = matrices and max(np.abs(v).max(initial=0) for v in matrices) < 0.2
        found["larger weights, for instance orthogonal ones" if small else "other weights (orthogonal ones, not saturated), or a smaller tolerance"] = None
    return list(found)
