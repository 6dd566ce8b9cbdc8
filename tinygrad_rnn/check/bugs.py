"""The mistakes that people make when they derive backpropagation through time by hand, as breakages of a right derivation.

Knows where in an unrolled loss each of them can be made. Refuses to know anybody's gradients: `diagnose` compares, `power`
measures how far each mistake moves the gradient. Below it: bugs_rules (one call's rule), bugs_time (what is handed back in
time), breakage.
"""

from collections import defaultdict
from dataclasses import replace
from functools import partial

from .breakage import ACTIVATIONS, BIAS, INDEX, STATE, both
from .bugs_gates import of_gates
from .bugs_outside import of_continued, of_sequences
from .bugs_rules import of_site
from .bugs_time import of_carries, of_consumers, of_entries, of_errors, of_uses


def catalogue(graph, rare=False):
    """Every single breakage of a loss; with `rare` also the uncommon ones (any other value in a value's place, any sign)."""
    yield from of_carries(graph)
    yield from of_consumers(graph)
    yield from of_uses(graph)
    yield from of_entries(graph)
    yield from of_sequences(graph)
    yield from of_continued(graph)
    yield from of_errors(graph)
    yield from of_gates(graph)
    forms, read = defaultdict(list), defaultdict(list)
    for nodes in graph.sites.values():
        first = next(iter(nodes.values()))
        inside = graph.where[first][0] is not None and graph.T > 1 and bool(graph.carries)
        for b in of_site(graph, nodes, rare):
            yield b
            if b.form and inside:
                forms[b.kind, b.form].append(b)
                if b.place.startswith(tuple(ACTIVATIONS)) and b.kind not in (INDEX, BIAS):
                    forms[b.kind, "every activation"].append(b)
                    if _is_gate(graph, first):
                        forms[b.kind, "every gate"].append(b)
            if b.reads and inside and graph.hands_back(nodes[max(nodes)], b.touches or None):
                read[b.reads].append(b)
            if inside and b.kind != BIAS and graph.hands_back(nodes[max(nodes)], b.touches or None):
                yield b.scoped("local")
                if b.rank <= 2:
                    yield b.scoped("carry")
    for (_, form), members in forms.items():
        if len(members) > 1 and len({tuple(b.hooks) for b in members}) == len(members):
            if form not in ("every activation", "every gate") or len({b.form for b in members}) > 1:
                yield from _everywhere(members)
    for members in read.values():
        if len({b.place for b in members}) > 1:
            kind = next((b.kind for b in members if b.kind == STATE), members[0].kind)
            yield replace(members[0], kind=kind, what=f"{members[0].reads[1]}, wherever it is read ({', '.join(dict.fromkeys(b.place for b in members))})",
                          hooks=_merged(members), touches=(), place="every reader")


def _everywhere(members):
    """One mistake made at every place where it can be made: in every gate."""
    first = members[0]
    what = first.what.replace(first.place, "each of " + ", ".join(dict.fromkeys(b.place for b in members)))
    together = replace(first, what=what if what != first.what else f"{first.what}, and so in every gate", hooks=_merged(members), place="every gate")
    yield together
    yield together.scoped("local")


def _merged(members):
    hooks = {}
    for b in members:
        for i, hook in b.hooks.items():
            hooks[i] = hook if i not in hooks else partial(both, hooks[i], hook)
    return hooks


def _is_gate(graph, i):
    """Whether an activation is one of a sum of products with parameters, in its own step."""
    pending = list(graph.parents[i])
    while pending:
        j = pending.pop()
        if j is None or graph.where[j] != graph.where[i]:
            continue
        if graph.call[j].op.name == "matmul":
            return True
        if graph.call[j].op.name in ("add", "getitem", "reshape", "transpose", "split"):
            pending += graph.parents[j]
    return False
