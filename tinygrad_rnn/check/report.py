"""What a check says: findings, a verdict, and one form of text for all of them.

Knows the layout of a report and that it is true when nothing is wrong. Refuses to know what was checked.
Below it: errors.
"""

from dataclasses import dataclass, field

from ..errors import message


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, on which case, and the facts."""

    what: str
    case: str = ""
    facts: dict = field(default_factory=dict)

    def __str__(self):
        return message(self.case or "here", self.what, self.facts)


@dataclass(frozen=True)
class Report:
    """The outcome of a battery. True when nothing was found; `str` tells all.

    `checked` counts what was compared, `notes` are remarks that make nothing wrong, such as a case left out.
    """

    who: str
    findings: tuple
    checked: int
    notes: tuple = ()
    remedy: str = ""

    @property
    def ok(self):
        """Whether nothing was found to be wrong."""
        return not self.findings

    def __bool__(self):
        return self.ok

    def __str__(self):
        notes = [f"  note: {note}" for note in self.notes]
        if self.ok:
            return "\n".join([f"{self.who}: nothing wrong in {self.checked} comparisons", *notes])
        kinds = {}
        for finding in self.findings:
            kinds.setdefault(finding.what, []).append(finding)
        count = f"{len(kinds)} thing{'s' * (len(kinds) != 1)} wrong, {self.checked} comparisons"
        blocks = []
        for found in kinds.values():
            more = f" (and in {len(found) - 1} more cases)" if len(found) > 1 else ""
            lines = str(found[0]).splitlines()
            blocks.append("\n".join(["- " + lines[0] + more, *("  " + line for line in lines[1:])]))
        return "\n".join([f"{self.who}: {count}", *blocks, *notes, self.remedy]).rstrip()


def number(value):
    """A value as reports print it: enough digits to see where two begin to differ."""
    return f"{float(value):.10g}"


def small(value):
    """An error or a tolerance: its size is what counts."""
    return f"{float(value):.1e}"


def said(error):
    """What an exception says, in one line; some say nothing."""
    return (str(error).splitlines() or [""])[0][:120]


def columns(rows):
    """Rows of text as aligned columns, the first row being their heads."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
