"""The search for the mistakes that reproduce given gradients: one after the other, together, or none.

Knows rounds: in each, the one breakage or alteration that explains most of what is still wrong, at every point that is known;
then pairs. Refuses to take what fits at one point alone. Below it: diagnose_evidence, diagnose_delta, diagnose_tensors,
diagnose_report, breakage, diagnose_graph.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from . import diagnose_evidence as evidence
from .breakage import SCALED, SCOPES, Breakage, broken, options
from .diagnose_delta import Base
from .diagnose_report import Finding
from .diagnose_tensors import View, alterations, clipped_together, close


class Search:
    """Breakages and alterations, in rounds: each explains as many wrong gradients as one mistake can."""

    def __init__(self, case, wrong, only=None, pairs=True):
        self.case, self.points, self.main, self.pairs = case, case.points, case.points[0], pairs
        catalogue = self.main.catalogue()
        self.library = catalogue if only is None else {key: catalogue[key] for key in only if key in catalogue}
        self.seen = {}  # what fitted some gradient: keys of the catalogue
        self.left, self.common = list(wrong), []  # common: breakages that every gradient shares
        self.chains, self.views = {}, {}
        self.sizes = _sizes(self.main)

    def run(self, whole=True):
        """(findings, what is left unnamed); with `whole` false, without asking whether the targets matter."""
        found = self._take(evidence.not_finite(self)) + self._take(evidence.of_another_forward(self))
        while self.left and self._round():
            pass
        while self.pairs and self.left and self._pairs():
            while self.left and self._round():
                pass
        found += self._take(evidence.misshapen(self))
        if self.left and whole:
            found += self._take(evidence.independent(self))
        return found + self._findings(), list(self.left)

    def _take(self, findings):
        names = {finding.tensor for finding in findings}
        self.left = [name for name in self.left if name not in names]
        return findings

    # ---- views of every point under the breakages so far ----------------------------------------------------

    def view(self, point, breakages):
        key = id(point), tuple(id(b) for b in breakages)
        if key not in self.views:
            here = self.translated(point, breakages)
            grads = None if here is None else broken(point.graph, here)
            self.views[key] = None if grads is None else View(point.graph, here, grads), breakages
        return self.views[key][0]

    def translated(self, point, breakages):
        """The same breakages at another point, found by their words."""
        if point is self.main:
            return breakages
        wanted = {id(b): key for key, b in self.main.catalogue().items() if any(b is one for one in breakages)}
        return [point.catalogue().get(wanted[id(b)]) for b in breakages] if all(
            id(b) in wanted and wanted[id(b)] in point.catalogue() for b in breakages) else None

    def fits(self, name, breakages, alteration=None, points=None):
        """Whether these mistakes reproduce one gradient at every point."""
        for point in points or self.points:
            view = self.view(point, breakages)
            if view is None:
                return False
            with np.errstate(all="ignore"):
                value = view.grads[name] if alteration is None else alteration.make(view, name)
                if not (alteration and alteration.told or close)(point.given[name], value, point.tolerance[name]):
                    return False
        return True

    # ---- one round ------------------------------------------------------------------------------------------

    def _round(self):
        groups = self._altered(self.common)
        if len(self.main.given) > 1:  # the factor of a loss is in more than one gradient
            groups = {key: (replace(a, rank=a.rank + 1.5) if a.kind == SCALED and len(names) == 1 else a, names) for key, (a, names) in groups.items()}
        whole = [a for a, names in groups.values() if len(names) == len(self.left) and a.rank <= 1]
        if whole:
            best = min(whole, key=lambda a: a.rank)
            others = [a for a in whole if a.kind != best.kind and a.rank <= best.rank + 1]
            return self._accept(self.common, best, list(self.left), others)
        candidates = self._singles()
        choices = [(len(names), not lost, -b.rank, b, names, lost) for b, names, lost in candidates]
        choices += [(len(names), True, -a.rank, a, names, []) for a, names in groups.values()]
        if not choices:
            return False
        choices.sort(key=lambda c: c[:3], reverse=True)
        size, _, _, best, names, lost = choices[0]
        if isinstance(best, Breakage):
            ties = [c[3] for c in choices[1:] if (c[0], c[1], set(c[4])) == (size, not lost, set(names))
                    and c[3].kind != best.kind and c[3].rank <= best.rank + 1]
            if not lost:
                self.common = [*self.common, best]
                return self._accept(self.common, None, names, ties)
            return self._accept([*self.common, best], None, names, ties)
        ties = [c[3] for c in choices[1:] if c[0] == size and c[3].kind != best.kind and set(c[4]) == set(names) and c[3].rank <= best.rank + 1]
        return self._accept(self.common, best, names, ties)

    def _accept(self, breakages, alteration, names, ties):
        for name in names:
            self.chains[name] = (list(breakages), alteration, tuple(dict.fromkeys(f"{t.kind}: {t.what}" for t in ties))[:3], len({t.kind for t in ties}))
        self.left = [name for name in self.left if name not in names]
        return bool(names)

    def _altered(self, breakages):
        groups = {}
        view = self.view(self.main, breakages)
        if view is None:
            return groups
        for name in self.left:
            with np.errstate(all="ignore"):
                for a in (*alterations(view, name, self.main.given[name], self.sizes), *clipped_together(view, self.main.given, len(self.points) > 1)):
                    if self.fits(name, breakages, a):
                        groups.setdefault(a.key, (a, []))[1].append(name)
        return groups

    def _singles(self):
        """Breakages that explain at least one more gradient at every point: (breakage, gradients, right ones that it would spoil)."""
        found = []
        graph = self.main.graph
        downstream = set().union(*(graph.downstream(name) for name in self.left))
        settled = [name for name in self.main.given if name not in self.left and name not in self.chains]
        base = Base(graph, self.common)
        for rare in (False, True):
            for key, b in self.library.items():
                if (b.rank > 2) != rare or not (b.exchange or b.window or b.handed or any(i in downstream for i in b.hooks)):
                    continue
                grads = base.under(b)
                if grads is None:
                    continue
                names = [name for name in self.left if self.main.matches(grads, name)]
                if names:
                    names = [name for name in names if self.fits(name, [*self.common, b])]
                if names:
                    lost = [name for name in settled if not self.main.matches(grads, name)]
                    found.append((b, names, lost))
                    self.seen[key] = b
            if any(len(names) == len(self.left) and not lost for _, names, lost in found):
                break
        return found

    def _pairs(self):
        """Two mistakes at once, of the common kinds; the second may be an alteration."""
        graph = self.main.graph
        downstream = set().union(*(graph.downstream(name) for name in self.left))
        short = [b for b in self.library.values() if b.rank <= 2 and (b.exchange or b.handed or any(i in downstream for i in b.hooks))]
        first, base = [], Base(graph, self.common)
        for b in short:
            grads = base.under(b)
            if grads is not None and any(not close(grads[name], self.main.right[name], self.main.tolerance[name]) for name in self.left):
                first.append((b, grads))
        for b, grads in first:  # a breakage and a factor, a clip or a transpose
            for name in self.left:
                with np.errstate(all="ignore"):
                    view = View(graph, [*self.common, b], grads)
                    for a in alterations(view, name, self.main.given[name], self.sizes, common=True):
                        if (a.rank <= 1 and close(a.make(view, name), self.main.given[name], self.main.tolerance[name])
                                and self.fits(name, [*self.common, b], a)):
                            self.common = [*self.common, b]
                            self._note(b)
                            return True
        most = min(70, int((2e6 / len(graph.nodes)) ** 0.5))  # all pairs of so many: some two million steps of a walk
        short = [(b, grads) for b, grads in first if b.rank <= 1][:most]
        for n, (a, _) in enumerate(short):
            base = Base(graph, [*self.common, a])
            for b, _ in short[:n]:
                grads = base.under(b)
                if grads is None:
                    continue
                names = [name for name in self.left if self.main.matches(grads, name)]
                if names and all(self.fits(name, [*self.common, a, b]) for name in names):
                    self._note(a, b)
                    return self._accept([*self.common, a, b], None, names, [])
        return False

    def _note(self, *breakages):
        self.seen |= {key: b for key, b in self.library.items() if b in breakages}

    # ---- findings -------------------------------------------------------------------------------------------

    def _findings(self):
        found = []
        for name, (breakages, alteration, ties, kinds) in self.chains.items():
            sure = (0.99 if len(self.points) > 1 else 0.9) / (1 + 0.5 * min(kinds, 4))
            for b in breakages:
                if len(breakages) > 1 or alteration is not None:
                    rest = [other for other in breakages if other is not b]
                    without = broken(self.main.graph, rest)
                    full = self.view(self.main, breakages).grads[name]
                    if without is not None and close(without[name], full, self.main.tolerance[name]):
                        continue
                step = self._begins(b, [other for other in breakages if other is not b], name)
                found.append(Finding(b.kind, name, step, b.what + SCOPES[b.scope], sure, ties))
            if alteration is not None:
                found.append(Finding(alteration.kind, name, alteration.step, alteration.what, sure, ties))
        order = list(self.main.given)
        return sorted(found, key=lambda f: order.index(f.tensor))

    def _begins(self, b, rest, name):
        """The time index of the first edge, in backward order, over which something else travels when `b` is broken."""
        graph = self.main.graph
        if b.window:
            return graph.clock[max(graph.T - 2 - b.window, 0)]
        reach = graph.downstream(name)
        seen = []
        for breakages in (rest, [*rest, b]):
            edges = defaultdict(lambda: 0.0)
            visit = lambda i, slot, part, edges=edges: edges.__setitem__((i, slot), edges[i, slot] + part)
            try:
                graph.backward(**options([x for x in breakages if not x.window]), visit=visit)
            except Exception:
                return None
            seen.append(edges)
        scale = 1e-12 * max((float(np.abs(p).max(initial=0)) for p in seen[0].values()), default=1.0)
        parted = [(i, slot) for i, slot in {*seen[0], *seen[1]} if i in reach
                  and not close(*np.broadcast_arrays(seen[0][i, slot], seen[1][i, slot]), scale)]
        places = []  # what crosses over to an earlier step is that step's cotangent
        for i, slot in parted:
            j = graph.parents[i][slot]
            places.append(j if (i, slot) in graph.carries and graph.where[j][0] is not None else i)
        inside = [i for i in places if graph.where[i][0] is not None]
        return graph.time(max(inside, key=lambda i: graph.where[i])) if inside else None


def _sizes(point):
    """The sizes that factors may come from, with their names: T, and the axes of data and state."""
    graph, sizes = point.graph, defaultdict(set)
    if graph.T:
        sizes[graph.T].add("T")
    shapes = [np.shape(d) for d in point.data]
    states = [s[-1].shape for s in graph.states.values()]
    batch = set(shapes[0]) & set(states[0]) - {graph.T} if shapes and states else set()
    for shape in shapes:
        for n in shape:
            sizes[n].add("B" if n in batch else "T" if n == graph.T else "the size of an axis of the data")
        sizes[int(np.prod(shape))].add("the number of entries of the data")
    for n in {n for a in sizes for n in (a * b for b in sizes)}:
        if n not in sizes and graph.T and n % graph.T == 0:
            sizes[n].add(f"T · {n // graph.T}")
    return dict(sizes)
