"""What diagnose says: findings, where gradients part, and one text for all of it.

Knows the layout of a diagnosis, and that it is true when nothing is wrong. Refuses to know how anything was found. Nothing
stands below it.
"""

from collections import defaultdict
from dataclasses import dataclass, field

INDEPENDENT = "does not depend on the error"
RAISES = "the derivation raises an exception"
NOT_FINITE = "gradient is not finite"
NO_ANSWER = "the right gradient is not finite"
SHAPE = "shape of a gradient"
STATEFUL = "accumulators not reset"
UNSTEADY = "another answer when asked again"
NO_NUMBERS = "gradient is not an array of numbers"
MUTATES = "arguments are written to"


@dataclass(frozen=True)
class Finding:
    """One mistake and one gradient that it spoils. `step` is the time index at which it first bites in backward order, None
    where steps play no part; `confidence` is below 1 where other mistakes (`alternatives`) give the same numbers."""

    bug: str
    tensor: str
    step: int | None
    explanation: str
    confidence: float
    alternatives: tuple = ()


@dataclass(frozen=True)
class Parting:
    """Where, in backward order, the given gradients first leave the right ones."""

    step: int | None
    tensor: str

    def __str__(self):
        return f"tensor {self.tensor}" + ("" if self.step is None else f", step {self.step}")


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found. True, and `ok`, when every gradient that was given is right."""

    findings: tuple = ()
    unnamed: tuple = ()
    right: tuple = ()
    errors: dict = field(default_factory=dict)
    parted_at: Parting | None = None
    notes: tuple = ()

    @property
    def ok(self):
        """Whether nothing is wrong."""
        return not self.findings and not self.unnamed

    def __bool__(self):
        return self.ok

    def __str__(self):
        if self.ok:
            return "\n".join([f"diagnose: every gradient is right ({', '.join(self.right)})", *(f"  note: {note}" for note in self.notes)])
        wrong = [name for name in self.errors if name not in self.right]
        lines = [f"diagnose: {len(wrong)} of {len(wrong) + len(self.right)} gradients wrong" if wrong else "diagnose: wrong"]
        width = max((len(name) for name in self.errors), default=0)
        lines += [f"  {name:<{width}}  relative error {error:.1e}" for name, error in self.errors.items() if name in wrong]
        groups = defaultdict(list)
        for finding in self.findings:
            groups[finding.bug, finding.explanation].append(finding)
        for (bug, explanation), found in groups.items():
            steps = {f.step for f in found} - {None}
            when = f" from step {max(steps)} on back" if steps else ""
            lines += [f"- {bug}", f"    {explanation}",
                      f"    spoils {', '.join(f.tensor for f in found)}{when} (confidence {min(f.confidence for f in found):.2f})"]
            lines += [f"    the same numbers: {other}" for other in found[0].alternatives]
        if self.unnamed:
            lines.append(f"- nothing in the library reproduces {', '.join(self.unnamed)}" + (
                f": the gradients part first at {self.parted_at}" if self.parted_at else ""))
        elif self.parted_at:
            lines.append(f"The gradients part first at {self.parted_at}.")
        if self.right:
            lines.append(f"Right: {', '.join(self.right)}.")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
