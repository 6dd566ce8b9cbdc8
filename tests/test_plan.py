"""The plan of a cell: its parts and reasons, and counts that must be those of the source that runs, counted by running it."""

import types

import numpy as np
import pytest
from test_source import CELLS, SOURCES, of_library

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, TraceError
from tinygrad_rnn.explain.plan import _Counts

rng = np.random.default_rng(0)


class Counting:
    """NumPy, with every function call counted; what only looks at memory another way is none."""

    FREE = {"empty", "split", "broadcast_to"}

    def __init__(self):
        self.count = 0

    def __getattr__(self, name):
        found = getattr(np, name)
        if isinstance(found, (types.ModuleType, type)) or not callable(found) or name in self.FREE:
            return found

        def counted(*args, **options):
            self.count += 1
            return found(*args, **options)

        return counted


def steps_counted(text, state, params, inputs, function):
    """NumPy's functions per step, from runs of 4 and of 7 steps."""
    counts = []
    for T in (4, 7):
        counting = Counting()
        namespace = {}
        exec(compile(text.replace("import numpy as np", ""), "derived", "exec"), namespace | {"np": np}, namespace)
        scope = dict(namespace, np=counting)
        functions = {k: types.FunctionType(v.__code__, scope, k, v.__defaults__) for k, v in namespace.items() if isinstance(v, types.FunctionType)}
        for k, v in functions.items():
            v.__kwdefaults__ = namespace[k].__kwdefaults__
        scope |= functions
        last, ys, saved = functions["forward"](state, inputs(T), **params)
        if function == "backward":
            counting.count = 0
            functions["backward"](last, ys, saved)
        counts.append(counting.count)
    return (counts[1] - counts[0]) / 3


@pytest.mark.parametrize("function", ["forward", "backward"])
@pytest.mark.parametrize("name", CELLS)
def test_the_calls_per_step_are_those_that_are_made(name, function):
    made, _, params = of_library(name)
    found = getattr(tg.explain.plan(made), function)
    text = tg.explain.source(made, optimized=True)
    state = made.initial_state((2,))
    counted = steps_counted(text, state, params, lambda T: np.ones((T, 2, 3)), function)
    lines = step_lines(text, function)
    other = sum("=" in line and "[" in line.split("=")[0] or any(f" {sign} " in line for sign in "+-*/@") for line in lines)
    assert found.step == counted + other, (found.step, counted, lines)


def step_lines(text, function):
    """The lines of the innermost loop of a function."""
    lines = text.split(f"def {function}(")[1].split("\ndef ")[0].splitlines()
    start = max(i for i, line in enumerate(lines) if " in zip(" in line)
    start = start if lines[start].endswith(":") else next(i for i in range(start, len(lines)) if lines[i].strip() == "):")
    depth = len(lines[start]) - len(lines[start].lstrip())
    body = []
    for line in lines[start + 1:]:
        if len(line) - len(line.lstrip()) <= depth:
            break
        body.append(line.strip())
    return body


def test_what_counts_as_a_call():
    import ast
    helper = ast.parse("def squash(x):\n    return 1 / (1 + np.exp(-x))").body[0]
    count = lambda text: _Counts({"squash": helper}).of(ast.parse(text).body)
    for text, expected in (("add(a, b, c)", 1), ("a = b", 0), ("a, b = b, a", 0), ("c[...] = a", 1), ("c = a @ b + d", 2), ("c = a.T", 0), ("c = a[t]", 0),
                           ("c = a.reshape(-1, 3)", 0), ("np.add(a, b.swapaxes(-1, -2), c)", 1), ("y = squash(x)", 4), ("n = part.stop - start", 0),
                           ("c = -a", 1), ("c = np.empty((T + 1, 3))", 1), ("p, q = np.split(a, [3], axis=1)", 0)):
        assert count(text) == expected, text


def test_the_parts_of_an_elman_cell():
    found = tg.explain.plan(tg.nn.RNNCell(3, 5))
    assert found.compared and found.T == 3 and found.cell == "RNNCell"
    forward = {row.text: (row.part, row.why) for row in found.forward.rows}
    assert forward["bias = add(bias_ih, bias_hh)"] == ("once", "reads parameters only")
    assert forward["v1 = matmul(v, weight_ih_T)"] == ("before", "reads inputs, and no state")
    assert forward["h_weight_hh = matmul(h, weight_hh_T)"] == ("loop", "on the way from h to the next h")
    assert forward["h' = tanh(z)"] == ("loop", "is the next h")
    backward = [(row.part, row.text, row.why) for row in found.backward.rows]
    assert any(part == "loop" and text.startswith("dh' = matmul(dz, weight_hh") and why == "is the next dh" for part, text, why in backward)
    assert ("after", "dbias = sum(dz, axis=(0, 1))", "no earlier step reads it") in backward
    assert any(part == "before" and why.startswith("reads what forward kept") for part, _, why in backward)


def test_why_an_instruction_stays_in_the_loop():
    @tg.primitive()
    def sorted_rows(x, /):
        return np.sort(x, axis=-1)

    sorted_rows.vjp(x=lambda g: g)
    run = lambda h, x: ((lambda y: (tg.tanh(h + x), y))(sorted_rows(x)))
    rows = tg.explain.plan(run, np.zeros((2, 3)), rng.normal(size=(4, 2, 3))).forward.rows
    assert [row.why for row in rows if "sorted_rows" in row.text] == ["sorted_rows has no form for all steps at once"]
    after = tg.explain.plan(lambda h, x: ((lambda n: (n, tg.exp(n)))(tg.tanh(h + x))), np.zeros((2, 3)), rng.normal(size=(4, 2, 3))).forward.rows
    assert [row.part for row in after if "exp" in row.text] == ["after"]


@pytest.mark.parametrize("name", CELLS)
def test_buffers_are_those_of_the_source(name):
    found = tg.explain.plan(CELLS[name]())
    text = tg.explain.source(CELLS[name](), optimized=True)
    for part in (found.forward, found.backward):
        assert len(part.buffers) == text.split(f"def {part.name}(")[1].split("\ndef ")[0].count("np.empty(")
        assert part.bytes == sum(int(np.prod(shape)) * 8 for _, shape, _ in part.buffers)
    small, large = (tg.explain.plan(CELLS[name](), CELLS[name]().initial_state((2,)), np.ones((T, 2, 3))).forward.bytes for T in (10, 20))
    assert small < large < 2.1 * small  # linear in T
    assert found.forward.calls(20) - found.forward.calls(10) == 10 * found.forward.step


def test_float32_takes_half_the_memory():
    double, single = (tg.explain.plan(tg.nn.LSTMCell(3, 5, dtype=kind)).forward.bytes for kind in (np.float64, np.float32))
    assert double == 2 * single


def test_a_single_step_says_that_it_could_not_be_compared():
    counter = iter(range(1, 9))
    cell = lambda h, x: (tg.tanh(h * float(next(counter))), h)
    found = tg.explain.plan(cell, np.zeros((2, 3)), np.ones((1, 2, 3)))
    assert not found.compared
    assert "T = 1: there is no second step with which the trace could be compared" in str(found)
    with pytest.raises(TraceError, match="from step 0 to step 1"):
        tg.explain.plan(cell, np.zeros((2, 3)), np.ones((2, 2, 3)))


@pytest.mark.parametrize("name", [*CELLS, *SOURCES])
def test_it_can_be_read(name):
    if name in CELLS:
        found = tg.explain.plan(CELLS[name]())
    else:
        run, params, state, xs = SOURCES[name]
        found = tg.explain.plan(run(params), state, xs)
    text = str(found)
    assert text.startswith(f"plan of {found.cell}\n\nforward: {found.forward.step} NumPy call")
    assert f"\n\nbackward: {found.backward.step} NumPy call" in text
    assert "buffers, " in text and max(map(len, text.splitlines())) < 180
    assert all(row.why and row.text for row in (*found.forward.rows, *found.backward.rows))


def test_unknown_sizes(says):
    with says(ArgumentError, "plan(cell, state, xs): the sizes are not known\n  cell  function\n"
                             "Pass an initial state and a sequence, for example zeros of the right shapes."):
        tg.explain.plan(lambda h, x: (h, h))
