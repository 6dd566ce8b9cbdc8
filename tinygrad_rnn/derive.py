"""The derivative of a loop is a loop: the body's own backward walk, traced, and run in the other direction.

Knows how to augment a loop with what its derivative will read (the stash), how to derive it, and the op `run_loop`
through which loops enter the graph, so that derivatives of every order are the same step once more. Refuses to know
cells and sequences: `scan` makes loops out of them. Below it: loops, quotients, walk, program, primitive, tensor.

For a body (states, xs, consts) -> (states', ys, addends) the derivative's body is

    (d_states' | d_ys, xs, stash | consts, d_sums) -> (d_states | d_xs | d_consts)

in the same three kinds: cotangents of states are carried, those of xs are stacked, those of consts are summed.
"""

import numpy as np

from .loops import Loop
from .primitive import Primitive, registry
from .program import Call, Program, Tracer, Value, replay
from .quotients import without_dividends
from .tensor import Tensor, mode, switched
from .walk import is_tracked, walk


def run_loop(*inputs, loop, T):
    """Run a loop for T steps: `(last states…, ys…, sums…)`; in a trace, where nobody may look at values, only their shapes."""
    return loop.like(T) if mode.get().tracing else loop.run(T, inputs)


class _RunLoop(Primitive):
    """The op of a loop. Before it enters a graph the loop is augmented with what its derivative will read."""

    domain, kinks, faults, remedy = None, (), (), ""
    broadcasts = elementwise = analytic = view = False
    reference = sample = over_time = numpy = None
    fresh = True

    def explain(self, error, args, statics):
        return error  # the generated source has nothing to say that a user could act on

    def __call__(self, *inputs, loop, T):
        now, visible = mode.get(), loop
        if now.grad:
            active = tuple([type(x) is Tensor and x._node is not None for x in inputs])
            if True in active:
                loop = augmented(loop, active)
        statics = {"loop": loop, "T": T}
        ys = self.apply(inputs, statics, now.grad) if now.recorder is None else now.recorder.record(self, inputs, statics)
        kept, extra = visible.n_states + visible.n_ys, loop.n_ys - visible.n_ys
        return ys[:kept] + ys[kept + extra:] if extra else ys


def _rule(g, y, inputs, loop, T):
    """Cotangents of a loop's inputs, by running its derivative."""
    given = tuple([one is not None for one in g])
    derivative = derived(loop, given)
    stash = [inputs[where] if kind == "input" else y[where] for kind, where in derivative.reads]
    starts = [_zeros(v) if g[i] is None else g[i] for i, v in derivative.carried]
    cotangents = [g[i] for i in derivative.arrived]
    sums = [g[i] for i in derivative.summed]
    xs, consts = stash[:derivative.n_stacked], stash[derivative.n_stacked:]
    results = run(*starts, *cotangents, *xs, *consts, *sums, loop=derivative.loop, T=T)
    out = [None] * len(inputs)
    for i, result in zip(derivative.gives, results):
        out[i] = result
    return out


run = _RunLoop(run_loop, {})
run.vjp(inputs=_rule)


def _zeros(value):
    return np.zeros(value.shape, value.dtype)


class Derivative:
    """A derived loop and how its inputs and outputs belong to those of the loop it was derived from.

    `carried`: (output number, state) of each cotangent that is carried; `arrived`, `summed`: numbers of the outputs whose
    cotangents come in per step and once; `reads`: ("input" | "output", number) of what it reads, the first `n_stacked`
    of it step by step; `gives`: for each of its results the number of the input that it is the cotangent of.
    """

    __slots__ = ("loop", "carried", "arrived", "summed", "reads", "n_stacked", "gives")


def augmented(loop, active):
    """The loop with further stacked outputs: what its derivative by the `active` inputs reads and nobody else keeps."""
    key = "augmented", active
    if key not in loop.derived:
        n, given = loop.n_states + loop.n_ys, (True,) * len(loop.body.outputs)
        finish, tracer, needed, seeded = _differentiated(loop, active, given)
        body = _with_inner_stashes(loop.body, tracer.calls)
        if body is not loop.body:
            finish, _, needed, seeded = _differentiated(Loop(body, loop.n_states, loop.n_xs, loop.n_ys, loop.reverse), active, given)
        extra = [v for v in needed if v not in loop.ys]
        made = Loop(Program(body.inputs, body.calls, [*body.outputs[:n], *extra, *body.outputs[n:]]),
                    loop.n_states, loop.n_xs, loop.n_ys + len(extra), loop.reverse) if extra else Loop(
                        body, loop.n_states, loop.n_xs, loop.n_ys, loop.reverse)
        made.derived["active"], made.derived["of all"], made.augmented, made.shorter = active, (finish, seeded), True, loop
        loop.derived[key] = made
    return loop.derived[key]


def _with_inner_stashes(body, traced):
    """The body with every scan inside it augmented too, as its trace found it: what an inner scan keeps, its results show."""
    inner = [call for call in body.calls if "loop" in call.statics]
    again = {}
    for call, seen in zip(inner, [c for c in traced if "loop" in c.statics]):
        kept, extra = call.statics["loop"].n_states + call.statics["loop"].n_ys, len(seen.outs) - len(call.outs)
        if extra:
            more = tuple(Value(v.shape, v.dtype) for v in seen.outs[kept:kept + extra])
            again[call] = Call(call.op, call.args, seen.statics, (*call.outs[:kept], *more, *call.outs[kept:]))
    return Program(body.inputs, [again.get(call, call) for call in body.calls], body.outputs) if again else body


def derived(loop, given):
    """The derivative of an augmented loop for the outputs that are `given` a cotangent."""
    if given not in loop.derived:
        finish, seeded = loop.derived["of all"]
        n, extra = loop.n_states + loop.shorter.n_ys, loop.n_ys - loop.shorter.n_ys
        arrived = {i for i, has in enumerate(given[:n] + given[n + extra:]) if has or i < loop.n_states}
        if True in given[n:n + extra] or not seeded <= arrived:
            finish = _differentiated(loop, loop.derived["active"], given, True)[0]
        loop.derived[given] = finish(loop)
    return loop.derived[given]


def _differentiated(loop, active, given, kept=False):
    """Trace the body and its backward walk; returns (how to finish, tracer, what the derivative wants stashed, the numbers of the
    outputs that have a cotangent). `kept`: whether the loop has been augmented with all that it will keep."""
    body, n_states, n_xs = loop.body, loop.n_states, loop.n_xs
    tracer, known, n_outs = Tracer("the derivative of a loop"), {}, loop.n_states + loop.n_ys
    with switched(grad=True, recorder=tracer), np.errstate(all="ignore"):
        leaves = []
        for i, (v, wanted) in enumerate(zip(body.inputs, active)):
            _, known[v] = tracer.input(v.like_ones(), v.name, tracked=wanted or i < n_states)
            leaves.append(known[v])
        replay(body.calls, known)
        outs = [known[o] if isinstance(o, Value) else None for o in body.outputs]
        start = len(tracer.calls)
        seeds, seed_values = [], {}
        for i, (out, has) in enumerate(zip(outs, given)):
            if (has or i < n_states) and is_tracked(out):
                v = body.outputs[i]
                seed_values[i], seed = tracer.input(v.like_ones(), f"d{v.name}" if v.name else "")
                seeds.append((out._node, seed))
        targets = [leaf._node for leaf in leaves if is_tracked(leaf)]
        names = {tensor._node: v.name for v, tensor in known.items() if is_tracked(tensor) and v.name and v not in body.inputs}

        def visit(node, g):
            if node in names and isinstance(g, Tensor):
                value = tracer.value(g)  # a sum hands its cotangent on: it is called after the sum
                value.name = value.name or f"d{names[node]}"

        found = walk(seeds, targets, graph=True, visit=visit) if seeds else {}
        results = {i: tracer.value(found[leaf._node]) if is_tracked(leaf) and leaf._node in found else None for i, leaf in enumerate(leaves)}
    origin = {tracer.value(tensor): v for v, tensor in known.items()}
    closed = {value: getattr(obj, "_array", obj) for value, obj in tracer.closed}
    varying = _varying(loop)
    there = {u for u, v in origin.items() if v in loop.ys or v in body.inputs[n_states:]} if kept else None
    backward = without_dividends(_backward_calls(tracer.calls, start, results, origin, varying, there), tracer.calls[:start],
                                 [u for u in results.values() if u is not None], there)
    mentioned = _mentioned(backward, results, origin)
    stash = [origin[u] for u in mentioned if origin[u] not in loop.xs and origin[u] not in loop.consts]

    seeded = frozenset(seed_values)

    def finish(loop):
        """The derivative of the loop, which may have been augmented meanwhile."""
        made, extra = Derivative(), loop.n_states + loop.n_ys - n_outs
        carried = [i for i in range(n_states) if body.inputs[i].dtype.kind == "f"]
        for i in carried:
            if i not in seed_values:
                v = body.inputs[i]
                seed_values[i] = Value(v.shape, v.dtype)
        made.carried = [(i, body.inputs[i]) for i in carried]
        made.arrived = [i for i in range(n_states, n_outs) if i in seed_values]
        made.summed = [i + extra for i in range(n_outs, len(outs)) if i in seed_values]
        stacked = [u for u in mentioned if origin[u] in varying]
        fixed = [u for u in mentioned if origin[u] not in varying]
        made.n_stacked = len(stacked)
        made.reads = [_where(loop, origin[u]) for u in [*stacked, *fixed]]
        xs = [i for i in range(n_states, n_states + n_xs) if active[i] and results.get(i) is not None]
        consts = [i for i in range(n_states + n_xs, len(body.inputs)) if active[i] and results.get(i) is not None]
        made.gives = [*carried, *xs, *consts]

        def out(i):
            u = results.get(i)
            if u is None:
                return np.zeros(body.inputs[i].shape, body.inputs[i].dtype)
            return closed.get(u, u)

        seeds = [seed_values[i] for i in (*carried, *made.arrived)]
        inputs = [*seeds, *stacked, *fixed, *(seed_values[i - extra] for i in made.summed)]
        calls = [Call(c.op, tuple(closed.get(a, a) if isinstance(a, Value) else a for a in c.args), c.statics, c.outs) for c in backward]
        for i in made.gives:
            if isinstance(out(i), Value):
                out(i).name = out(i).name or (f"d{body.inputs[i].name}" if body.inputs[i].name else "")
        for u, v in origin.items():
            u.name = f"{v.name}_before" if v in loop.states and v.name else u.name or v.name
        backwards = Program(inputs, calls, [out(i) for i in made.gives])
        made.loop = Loop(backwards, len(carried), len(made.arrived) + len(stacked), len(xs), not loop.reverse)
        made.loop.roots = {call.outs[0] for call in tracer.calls[:start] if call.op is registry["sqrt"]}
        return made

    return finish, tracer, stash, seeded


def _varying(loop):
    """The values of a body that change from step to step."""
    varying = {*loop.states, *loop.xs}
    for call in loop.body.calls:
        if not varying.isdisjoint(call.inputs):
            varying.update(call.outs)
    return varying


_CHEAP = {registry[name] for name in ("add", "subtract", "negative")}


def _backward_calls(calls, start, results, origin, varying, there=None):
    """What the walk recorded, and the forward calls that only repeat what never changes or cost less than to keep their
    result: sums of what the derivative reads anyway; or, of what has been kept, those whose result is not `there`."""
    wanted = {u for u in results.values() if u is not None}
    kept, read, missing = [], set(), set()
    for call in calls[:start] if there is not None else ():
        if call.op in _CHEAP and call.outs[0] not in there and all(u in there or u in missing or origin.get(u) not in varying for u in call.inputs):
            missing.update(call.outs)
    for k, call in reversed(list(enumerate(calls))):
        if wanted.isdisjoint(call.outs):
            continue
        again = call.outs[0] in missing if there is not None else call.op in _CHEAP and call.outs[0] not in read and all(
            u in wanted or origin.get(u) not in varying or not any(u in c.outs for c in calls[:start]) for u in call.inputs)
        if k >= start or call.op.name == "transpose" or not any(origin.get(u) in varying for u in call.outs) or again:
            kept.append(call)
            wanted.update(call.inputs)
            if k < start:
                read.update(call.inputs)
    return kept[::-1]


def _mentioned(backward, results, origin):
    """The forward values that the derivative reads, in order of first use."""
    made, seen = {v for call in backward for v in call.outs}, {}
    for u in [*(a for call in backward for a in call.inputs), *(r for r in results.values() if r is not None)]:
        if u in origin and u not in made:
            seen[u] = None
    return list(seen)


def _where(loop, value):
    """Where a run of the loop has the steps of a value: among its inputs or its outputs."""
    inputs = loop.body.inputs
    if value in inputs[loop.n_states:]:
        return "input", inputs.index(value)
    return "output", loop.n_states + loop.ys.index(value)
