"""The mistakes that people make when they derive backpropagation through time by hand, as breakages of a right derivation.

Knows where in an unrolled loss each of them can be made. Refuses to know anybody's gradients: `diagnose` compares, `power`
measures how far each mistake moves the gradient. Below it: bugs_rules (one call's rule), bugs_time (what is handed back in
time), breakage.
"""

from collections import defaultdict
from dataclasses import replace
from functools import partial

from .breakage import ACTIVATIONS, BIAS, INDEX, both
from .bugs_rules import of_site
from .bugs_time import of_carries, of_consumers, of_errors, of_gates


def catalogue(graph, rare=False):
    """Every single breakage of a loss; with `rare` also the uncommon ones (any other value in a value's place, any sign)."""
    yield from of_carries(graph)
    yield from of_consumers(graph)
    yield from of_errors(graph)
    yield from of_gates(graph)
    forms = defaultdict(list)
    for nodes in graph.sites.values():
        first = next(iter(nodes.values()))
        inside = graph.where[first][0] is not None and graph.T > 1 and bool(graph.carries)
        for b in of_site(graph, nodes, rare):
            yield b
            if b.form and inside:
                forms[b.kind, b.form].append(b)
                if b.place.startswith(tuple(ACTIVATIONS)) and b.kind not in (INDEX, BIAS):
                    forms[b.kind, "every activation"].append(b)
            if inside and b.kind != BIAS and graph.hands_back(nodes[max(nodes)], b.touches or None):
                yield b.scoped("local")
                if b.rank <= 2:
                    yield b.scoped("carry")
    for (_, form), members in forms.items():
        if len(members) > 1 and len({tuple(b.hooks) for b in members}) == len(members):
            if form != "every activation" or len({b.form for b in members}) > 1:
                yield from _everywhere(members)


def _everywhere(members):
    """One mistake made at every place where it can be made: in every gate."""
    first = members[0]
    hooks = {}
    for b in members:
        for i, hook in b.hooks.items():
            hooks[i] = hook if i not in hooks else partial(both, hooks[i], hook)
    what = first.what.replace(first.place, "each of " + ", ".join(dict.fromkeys(b.place for b in members)))
    together = replace(first, what=what if what != first.what else f"{first.what}, and so in every gate", hooks=hooks, place="every gate")
    yield together
    yield together.scoped("local")
