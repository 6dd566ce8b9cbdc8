"""Gates whose cotangents change places.

Knows which values of a step are gates of one shape, and in what order to walk back when two of them are exchanged. Refuses to know
what a gate is for. Below it: breakage, diagnose_graph.
"""

from collections import defaultdict
from dataclasses import replace

from .breakage import ACTIVATIONS, GATES, Breakage


def of_gates(graph):
    """Two gates of a cell whose cotangents change places."""
    groups = defaultdict(list)
    for site, nodes in graph.sites.items():
        first = nodes.get(0)
        if site[0] is None or first is None:
            continue
        if site[1] in ACTIVATIONS:
            groups[graph.nodes[first].shape, "pre-activations"].append({p: graph.parents[i][0] for p, i in nodes.items()})
        elif site[1] == "getitem" and graph.parents[first] and graph.parents[first][0] not in graph.before:
            groups[graph.nodes[first].shape, "slices"].append(nodes)
    done = set()
    for rows in groups.values():
        for a in range(len(rows)):
            for b in range(a):
                pairs = {rows[a][p]: rows[b][p] for p in rows[a] if p in rows[b] and None not in (rows[a][p], rows[b][p]) and rows[a][p] != rows[b][p]}
                key = frozenset(frozenset(pair) for pair in pairs.items())
                if not pairs or key in done:
                    continue
                done.add(key)
                order = _order(graph, pairs)
                names = " and ".join(graph.label(i) for i in next(iter(pairs.items())))
                swap = Breakage(GATES, names, f"two gates are swapped: the cotangents of {names} have changed places", {}, 1,
                                order=tuple(order or ()), exchange=pairs | {v: k for k, v in pairs.items()})
                if order is not None:
                    yield swap
                yield replace(swap, scope="local", order=())


def _order(graph, pairs):
    """Nodes, users first, such that both of a pair are complete before either is used; None when that cannot be."""
    users = [set() for _ in graph.nodes]
    for i, parents in enumerate(graph.parents):
        for j in parents:
            if j is not None:
                users[j].add(i)
    for i, j in pairs.items():
        both = (users[i] | users[j]) - {i, j}
        users[i], users[j] = both, set(both)
    left = [len(u) for u in users]
    uses = [[] for _ in graph.nodes]
    for j, who in enumerate(users):
        for i in who:
            uses[i].append(j)
    ready = [i for i, n in enumerate(left) if n == 0]
    order = []
    while ready:
        i = ready.pop()
        order.append(i)
        for j in uses[i]:
            left[j] -= 1
            if left[j] == 0:
                ready.append(j)
    return order if len(order) == len(graph.nodes) else None
