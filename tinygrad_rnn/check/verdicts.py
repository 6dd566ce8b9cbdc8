"""The verdicts of gradcheck: one Row a gradient, and the report that they make up.

Knows right, wrong and cannot tell, and how a report reads. Refuses to know how they were found. Below it: errors, report.
"""

from dataclasses import dataclass

from ..errors import message
from .report import columns, number, small

RIGHT, WRONG, UNKNOWN = "right", "wrong", "cannot tell"


@dataclass(frozen=True)
class Row:
    """The verdict on one gradient: its name, the worst entry (`index` None: along a direction), both values, the
    error between them, and how much error is allowed there. `entries` were compared, of which `blind` showed nothing."""

    name: str
    order: int
    shape: tuple
    verdict: str
    reason: str
    index: tuple | None
    step: int | None
    yours: float
    numerical: float
    error: float
    tolerance: float
    entries: int
    blind: int


@dataclass(frozen=True)
class GradientReport:
    """The outcome of `gradcheck`. True when no gradient is wrong; `str` names the worst entry of each.

    `.verdict` is "right", "wrong" or "cannot tell" for all together, `.rows` has one Row per gradient and order,
    `.problems` are faults that no entry shows (a random function, inputs that were written to), `.vacuous` says that
    every gradient is zero, so that hardly any mistake could have been seen.
    """

    who: str
    rows: tuple
    problems: tuple
    method: str
    adjoint: str
    seed: int
    strict: bool
    vacuous: bool
    power: object = None

    @property
    def verdict(self):
        """The worst of the verdicts; "cannot tell" only if nothing could be told."""
        found = [row.verdict for row in self.rows]
        if WRONG in found or self.problems:
            return WRONG
        return RIGHT if RIGHT in found and not self.vacuous else UNKNOWN

    @property
    def ok(self):
        """Whether nothing is wrong; with `strict`, whether every gradient is known to be right as well."""
        sure = all(row.verdict == RIGHT for row in self.rows if row.order == 1) and not self.vacuous
        return self.verdict != WRONG and (sure or not self.strict)

    def __bool__(self):
        return self.ok

    @property
    def worst(self):
        """The row that matters most: a wrong one before one that cannot be told, then by error over tolerance."""
        rank = {WRONG: 2, UNKNOWN: 1, RIGHT: 0}
        return max(self.rows, key=lambda row: (rank[row.verdict], row.error / row.tolerance if row.tolerance else 0.0), default=None)

    def table(self):
        """One line a gradient: name, order, verdict, worst entry, both values, error, tolerance."""
        rows = [("gradient", "order", "shape", "verdict", "worst at", "yours", "numerical", "error", "tolerance", "")]
        for r in self.rows:
            rows.append((r.name, str(r.order), str(r.shape), r.verdict, _place(r), number(r.yours), number(r.numerical),
                         small(r.error), small(r.tolerance), r.reason))
        return "\n".join(columns(rows))

    def __str__(self):
        wrong = [row for row in self.rows if row.verdict == WRONG]
        unknown = [row for row in self.rows if row.verdict == UNKNOWN]
        facts, remedy = {}, ""
        if self.problems:
            what = self.problems[0]
            remedy = "Make the function depend on its inputs alone, and leave them unchanged."
        elif wrong:
            worst = self.worst
            what = f"the gradient of {worst.name} is wrong" if len(wrong) == 1 else f"{len(wrong)} of {len(self.rows)} gradients are wrong"
            facts = {"gradient": f"{worst.name} {worst.shape}, order {worst.order}", "worst at": _place(worst)}
            if worst.step is not None:
                facts["time step"] = worst.step
            facts |= {"yours": number(worst.yours), "numerical": number(worst.numerical), "error": small(worst.error),
                      "tolerance": small(worst.tolerance)}
            remedy = "Look at the rules between this input and the output; diagnose(…) names the bug."
        elif self.vacuous:
            what = "cannot tell: every gradient is zero, so the check is vacuous"
            remedy = "Check at a point where the output depends on the inputs."
        elif unknown:
            what = f"nothing is wrong, but {len(unknown)} of {len(self.rows)} gradients cannot be told"
            remedy = "Choose a point where these gradients are larger, or away from the kink."
        else:
            what = f"all {len(self.rows)} gradients are right"
        facts |= {"method": self.method, "adjoint test": self.adjoint, "run again with": f"seed={self.seed}"}
        parts = [message(self.who, what, facts), *(f"  {p}" for p in self.problems[1:]), self.table()]
        if self.power is not None:
            parts.append(str(self.power))
        return "\n".join([*parts, remedy] if remedy else parts)


def _place(row):
    if row.index is None:
        return "a direction"
    at = "[" + ", ".join(map(str, row.index)) + "]"
    return f"{at} (step {row.step})" if row.step is not None else at
