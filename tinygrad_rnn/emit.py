"""The text of a loop: NumPy source in which nothing is allocated per step.

Knows the names of everything and the parts (once, before, the loop in blocks, after), and which calls outside the loop are
made block by block: what only a block reads stays in the cache. Refuses to know what may leave the loop (`schedule`),
where results are kept (`steps`, `blocks`) and how the body could make fewer calls (`means`, `rewrite`). Below it: steps,
schedule, buffers, spelling, program, primitive.
"""

import numpy as np

from .buffers import Room, has_out
from .primitive import registry
from .program import Value
from .schedule import SAMPLE, Schedule
from .spelling import ours
from .steps import StepText

BLOCK_BYTES = 1 << 19  # of the widest sequence that is computed block by block: the others are narrower, and all fit the L2 cache
MOST_BLOCK_BYTES = 1 << 21  # of a block that is made longer so that products of its rows
LEAST_ROWS = 256  # are of as many as this

ONCE, BEFORE, AFTER = "once", "before the loop: depends on the inputs only", "after the loop"  # titles of the parts outside of it


class Source(StepText):
    """The text of a loop as a Python function `run(T, states…, xs…, consts…) -> (states…, ys…, sums…)`.

    `names` and `sequences` name the inputs, `taken` says which names are not free. `inputs` and `results` are the texts of what
    goes in and comes out. Where the T is given, and all steps fit one block, the text says nothing of blocks; it then holds for
    no more steps than `block_size`. A loop that is written `within` another source shares its names. It may overwrite the
    buffers `owned`.
    """

    def __init__(self, loop, names=None, sequences=None, taken=(), T=None, within=None, owned=()):
        super().__init__(names, taken, within)
        self.loop, self.s, self.owned = loop, Schedule(loop), owned
        self.viewed, self.views = set(), {}  # views that the loop has made outside of it; text of a view -> its names
        self._live()
        self.at_once = T is not None and T <= self.block_size
        if self.at_once:
            self.passing = set()
        self.calls = [c for c in (*self.s.once, *self.s.before, *self.s.inside, *self.s.after) if self.live(c)]
        self._makers = {v: call for call in self.calls for v in call.outs}
        self._write(sequences)
        if within is None:
            self._name_short()

    @property
    def text(self):
        """The source."""
        results = "".join(r + ", " for r in self.results)
        return "\n".join([f"def run({', '.join(['T', *self.inputs])}):", *self.lines, f"    return ({results})"]) + "\n"

    # ---- the parts ----------------------------------------------------------------------------------------------

    def live(self, call):
        """Whether anything needs the call."""
        return not self.alive.isdisjoint(call.outs)

    def _live(self):
        """Find what somebody needs, `alive`, from the results backward."""
        s = self.s
        states = [s.stacked.get(v, v) for v in self.loop.next_states if isinstance(v, Value)]
        results = {v for v in (*s.outputs, *s.sums, *states) if isinstance(v, Value)}
        self.alive = results | {v for c in s.inside for v in c.outs}
        for call in reversed([*s.once, *s.before, *s.inside, *s.after]):
            if call in s.inside or self.live(call):
                for a in call.inputs:
                    self.alive |= {a, s.stacked.get(a, a)}
        self._part(results)

    def _part(self, results):
        """Which calls outside the loop are made block by block (`early`, `late`) and which at once (`whole`).

        `full` are the results of the former that somebody reads whole: they are written into their place in a stack. `tallies`
        are sums over time that grow block by block, `passing` what the loop keeps no longer than for a block. Products over
        time are among them where a block has rows enough for BLAS and their sums stay in the cache too.
        """
        self._divide(results, True)
        grown = [c for c in self.tallies if c.op.name == "matmul"]
        rows = min([c.args[1].shape[0] // SAMPLE for c in grown], default=LEAST_ROWS)
        size = max(self.block_size, -(-LEAST_ROWS // rows))
        if size * self.width <= MOST_BLOCK_BYTES and all(v.size * v.dtype.itemsize <= BLOCK_BYTES for c in grown for v in c.outs):
            self.block_size = size
        else:
            self._divide(results, False)

    def _divide(self, results, products):
        """The parts of `_part`, with or without products over time among what is made in blocks."""
        s = self.s
        lifted = [c for c in (*s.before, *s.after) if self.live(c) and c not in s.summing]
        made, flows = {v for c in lifted for v in c.outs}, {s.stacked[v] for v in s.stored}
        for call in lifted:
            rows = call.op.name != "matmul" or call in s.before or call.args[1].shape[-1:] == (1,) or (  # other products want all rows
                products and call.args[1] not in made and len(call.args[0].shape) == 2)
            if rows and all(a in flows or a not in made for a in call.inputs):
                flows.update(call.outs)
        inner = {s.stacked.get(a, a) for c in s.inside for a in c.inputs if a not in s.recurrent}
        inner |= {s.stacked.get(v, v) for v in self.loop.next_states if isinstance(v, Value)}
        summing = [c for c in s.after if c in s.summing and self.live(c)]
        views, self.tallies = self._tallies(summing, flows | {s.stacked[x] for x in self.loop.xs}, products)
        whole = {a for c in summing if c not in self.tallies and c not in views for a in c.inputs} | results
        blocked, self.whole = set(), []
        inner.update(a for c in (*self.tallies, *views) for a in c.inputs)
        for call in reversed(lifted):
            used, asked = not inner.isdisjoint(call.outs), not whole.isdisjoint(call.outs)
            stack = has_out(call)
            if flows.issuperset(call.outs) and (used or asked and stack):
                blocked.add(call)
                inner.update(call.inputs)
            if not flows.issuperset(call.outs) or asked and not (stack and call in blocked):
                self.whole.insert(0, call)
                whole.update(call.inputs)
        self.early = [c for c in s.before if c in blocked]
        self.late = [c for c in s.after if c in blocked or c in views or c in self.tallies]
        self.blocked = [*self.early, *self.late]
        self.full = {v for c in self.blocked for v in c.outs if v in whole and has_out(c)}
        viewed = {c.args[0] for c in s.inside if c.op.view and c.inputs}
        self.passing = {v for v in s.stored if s.stacked[v] not in whole and v not in viewed} if self.blocked else set()
        widths = [v.size // SAMPLE * v.dtype.itemsize for c in self.blocked if c not in self.tallies for v in c.outs]
        self.width = max([*widths, *(v.size * v.dtype.itemsize for v in self.passing), 1])
        self.block_size = max(1, BLOCK_BYTES // self.width)

    def _tallies(self, summing, flows, products):
        """The sums over time that can grow block by block, and the views that they are taken of."""
        views, tallies, own = [], [], {v: c for c in summing for v in c.outs}
        for call in summing:
            if call.op.name == "sum" and call.args[0] in flows and isinstance(call.statics["axis"], tuple) and 0 in call.statics["axis"]:
                tallies.append(call)
            elif products and call.op.name == "matmul" and all(isinstance(a, Value) and a.dtype == call.outs[0].dtype for a in call.args):
                chain, ends = [], []
                for arg in call.args:
                    while arg in own and own[arg].op.view:
                        chain.append(own[arg])
                        arg = own[arg].args[0]
                    ends.append(arg)
                if all(arg in own for arg in call.args) and all(end in flows for end in ends):
                    tallies.append(call)
                    views += chain
        return views, tallies

    def _write(self, sequences):
        """Write the parts, and name what goes in and comes out."""
        s, loop = self.s, self.loop
        initial = [self.names.get((v, "")) or self.name(v, "0") for v in loop.states]
        for v in loop.states:
            self.names.pop((v, ""), None)
        for v in loop.xs:
            self.names[s.stacked[v], ""] = sequences[v] if sequences else self.name(v, "s")
        self.inputs = [*initial, *(self.names[s.stacked[v], ""] for v in loop.xs), *(self.name(v) for v in loop.consts)]
        late = {v for c in self.blocked for v in c.outs} | {s.stacked[v] for v in s.stacked if v in s.recurrent}
        before = self.sooner = []
        for call in self.whole:
            if late.isdisjoint(call.inputs):
                before.append(call)
            else:
                late.update(call.outs)
        self._straight([c for c in s.once if self.live(c)], ONCE)
        self._straight(before, BEFORE)
        self._loop(initial)
        after = [c for c in s.before if c in self.whole and c not in before]
        after += [c for c in s.after if self.live(c) and (c in s.summing and c not in self.late or c in self.whole and c not in before)]
        self._straight(after, AFTER)
        bases = [self._base(v) if isinstance(v, Value) else v for v in s.sums]
        sums = [self.arg(v)[0] + ".copy()" * any(base is other for other in bases[:i]) for i, (v, base) in enumerate(zip(s.sums, bases))]
        self.results = [*self.finals, *self._stacked_results(), *sums]

    def _straight(self, calls, title):
        """Calls outside the loop: one expression a line."""
        if calls:
            self.put(f"# {title}")
        rows = {a for c in self.s.inside if c.op.name == "matmul" and isinstance(c.args[1], Value) for a in c.args[1:]
                if isinstance(c.args[0], Value) and c.args[0].shape[:-1] not in ((), (1,))}
        room = Room(calls, [v for v in (*self.s.outputs, *self.s.sums) if isinstance(v, Value)])
        for k, call in enumerate(calls):
            if self.viewed.issuperset(call.outs):
                continue
            name = room.in_place(call, k) if has_out(call) and call.op.elementwise else None
            if name is not None:
                self.names[call.outs[0], ""] = name
                self.put(self._into(call, [self.arg(a) for a in call.args], name))
                continue
            texts = [self.arg(a) for a in call.args]
            text = self._text(call, texts)
            if call.op.name == "transpose" and call.outs[0] in rows:
                text = f"np.ascontiguousarray({text})"  # products of many rows with a transposed view take twice as long
            lasts = title is ONCE and len(call.outs) == 1 and all(
                type(a) in (int, float) or word in self.constants or word in self.lasting.values() for a, (word, _) in zip(call.args, texts))
            known = self.lasting.get(text) if lasts else None  # an earlier loop has made it, of things that nobody writes into
            if call.op.view and len(call.outs) == 1:
                known = known or self.views.get((title, text))
                self.views[title, text] = known or self.name(call.outs[0])
            if known:
                self.names[call.outs[0], ""] = known
                continue
            if lasts:
                self.lasting[text] = self.name(call.outs[0])
            self.put(f"{', '.join(self.name(v) for v in call.outs)} = {text}")
            if call.op.view and isinstance(call.args[0], Value):
                room.view(call.outs[0], call.args[0], self.name(call.outs[0]))
            elif len(call.outs) == 1 and ours(call.op) and title is AFTER:
                room.keep(call.outs[0], self.name(call.outs[0]))

    def _stacked_results(self):
        """The stacked outputs. A view of an input is copied, and one that repeats entries; and, where a person will hold the
        results as plain arrays, so is what shares memory with another result."""
        out, seen, sequences = [], set(), {self.s.stacked[v] for v in self.loop.xs}
        for value, stacked in zip(self.loop.ys, self.s.outputs):
            if not isinstance(value, Value) or value not in self.s.varying:
                shape = value.shape if isinstance(value, Value) else np.shape(value)
                out.append(f"np.broadcast_to({self.arg(value)[0]}, (T, {''.join(f'{n}, ' for n in shape)})).copy()")
                continue
            base = self._base(stacked)
            memory = self.name(base).split("[")[0]  # the stack of a state holds it before and after every step
            out.append(self.name(stacked) + ".copy()" * (base in sequences or not self.loop.augmented and memory in seen or self._repeats(stacked)))
            seen.add(memory)
        return out

    def _repeats(self, stacked):
        """Whether a stacked value is a view that has entries more than once: nobody could add to it."""
        call = self._makers.get(stacked)
        return call is not None and call.op.view and (call.op is registry["broadcast_to"] or self._repeats(call.args[0]))

    def _base(self, stacked):
        """The value whose memory a stacked value may be a view of."""
        call = self._makers.get(stacked)
        return self._base(call.args[0]) if call is not None and call.op.view and isinstance(call.args[0], Value) else stacked
