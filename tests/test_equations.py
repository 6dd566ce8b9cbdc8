"""The derivation as equations: exact texts, and a small reader that computes with them and must find the engine's gradients."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from random_cells import assert_same, cell, recipes
from test_source import CELLS, SOURCES, of_library

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DomainError

rng = np.random.default_rng(0)
W, U, b = rng.normal(size=(2, 4)), rng.normal(size=(4, 4)), rng.normal(size=4)


def elman(h, x):
    z = x @ W + h @ U + b
    h = tg.tanh(z)
    return h, h


def test_the_whole_text():
    assert tg.explain.equations(elman, np.zeros((3, 4)), np.ones((5, 3, 2))) == """\
elman

forward, t = 1 … T
    zₜ = xₜ W + hₜ₋₁ U + b
    hₜ = tanh(zₜ)
    yₜ = hₜ

backward, t = T … 1, from dh⁺_T, the cotangent of the last state
    dhₜ = dh⁺ₜ + dyₜ
    dzₜ = dhₜ ∘ (1 − hₜ²)
    dh⁺ₜ₋₁ = dzₜ Uᵀ

gradients
    ∂L/∂h₀ = dh⁺₀
    ∂L/∂xₜ = dzₜ Wᵀ
    ∂L/∂W = Σₜ xₜᵀ dzₜ
    ∂L/∂U = Σₜ hₜ₋₁ᵀ dzₜ
    ∂L/∂b = Σₜ Σ_i dzₜ"""


def test_the_whole_latex():
    assert tg.explain.equations(elman, np.zeros((3, 4)), np.ones((5, 3, 2)), form="latex") == r"""\begin{aligned}
&\text{forward, t = 1 $\dots$ T} \\
z_{t} &= x_{t} \, W + h_{t-1} \, U + b \\
h_{t} &= \tanh(z_{t}) \\
y_{t} &= h_{t} \\
&\text{backward, t = T $\dots$ 1, from $\mathrm{d}h^{+}_{T}$, the cotangent of the last state} \\
\mathrm{d}h_{t} &= \mathrm{d}h^{+}_{t} + \mathrm{d}y_{t} \\
\mathrm{d}z_{t} &= \mathrm{d}h_{t} \circ (1 - {h_{t}}^{2}) \\
\mathrm{d}h^{+}_{t-1} &= \mathrm{d}z_{t} \, {U}^{\top} \\
&\text{gradients} \\
\frac{\partial L}{\partial h_{0}} &= \mathrm{d}h^{+}_{0} \\
\frac{\partial L}{\partial x_{t}} &= \mathrm{d}z_{t} \, {W}^{\top} \\
\frac{\partial L}{\partial W} &= \sum_{t} {x_{t}}^{\top} \, \mathrm{d}z_{t} \\
\frac{\partial L}{\partial U} &= \sum_{t} {h_{t-1}}^{\top} \, \mathrm{d}z_{t} \\
\frac{\partial L}{\partial b} &= \sum_{t} \sum_{i} \mathrm{d}z_{t}
\end{aligned}"""


def test_the_source_elman_is_the_notation_of_its_page():
    run, params, state, xs = SOURCES["elman"]
    text = tg.explain.equations(run(params), state, xs)
    for line in ("hₜ = tanh(Whh hₜ₋₁ + Whx xₜᵀ + bh)", "yₜ = Wyh hₜ + by", "dhₜ = dh⁺ₜ + Wyhᵀ dyₜ", "dzₜ = dhₜ ∘ (1 − hₜ²)", "dh⁺ₜ₋₁ = Whhᵀ dzₜ",
                 "∂L/∂Whh = Σₜ dzₜ hₜ₋₁ᵀ", "∂L/∂Whx = Σₜ dzₜ xₜ", "∂L/∂Wyh = Σₜ dyₜ hₜᵀ"):
        assert f"    {line}\n" in text + "\n", text


# ---- a reader of the equations ------------------------------------------------------------------------------

TOKEN = re.compile(r"\s*(?:(?P<number>\d[\d.e]*(?:−\d+)?)|Σ_(?P<sum>[ij,]+)|(?P<op>[∘·+−/()\[\],√ᵀ²:]|\^\d+)|(?P<name>[A-Za-zα-ω][A-Za-z0-9_α-ω]*⁺?[ₜ₋₁₀′]*))")


class Reader:
    """Computes one right-hand side: products of matrices by juxtaposition, ∘ and / by elements."""

    def __init__(self, text, values):
        self.tokens, self.values, at = [], values, 0
        while at < len(text):
            found = TOKEN.match(text, at)
            assert found, text[at:]
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self.tokens.append(("end", ""))

    def peek(self, *ops):
        kind, text = self.tokens[0]
        return kind == "op" and text in ops

    def take(self):
        return self.tokens.pop(0)[1]

    def expression(self):
        value = self.term()
        while self.peek("+", "−"):
            value = value + self.term() if self.take() == "+" else value - self.term()
        return value

    def term(self):
        if self.peek("−"):
            self.take()
            return -self.term()
        value = self.product()
        while self.peek("∘", "·", "/"):
            value = value / self.product() if self.take() == "/" else value * self.product()
        return value

    def product(self):
        value = self.factor()
        while self.tokens[0][0] in ("name", "number", "sum") or self.peek("(", "[", "√"):
            value = value @ self.factor()
        return value

    def factor(self):
        value = self.atom()
        while self.peek("ᵀ", "²", "[") or self.tokens[0][1].startswith("^"):
            sign = self.take()
            if sign == "[":
                lo = int(self.take()) if not self.peek(":") else None
                self.take()
                hi = int(self.take()) if not self.peek("]") else None
                self.take()
                value = value[lo:hi]
            else:
                value = np.transpose(value) if sign == "ᵀ" else value ** (2 if sign == "²" else int(sign[1:]))
        return value

    def atom(self):
        kind, text = self.tokens.pop(0)
        if kind == "number":
            return float(text.replace("−", "-"))
        if kind == "sum":
            return np.sum(self.term(), axis=tuple("ij".index(c) for c in text.split(",")), keepdims=True)
        if kind == "name" and not self.peek("("):
            return self.values[text]
        name = text if kind == "name" else ""
        if name or text == "√":
            self.take()
        args = [self.expression()]
        while self.peek(","):
            self.take()
            args.append(self.expression())
        self.take()
        if text == "[":
            return np.concatenate(args, axis=-1)
        if text == "√":
            return np.sqrt(args[0])
        functions = {"σ": lambda z: 1 / (1 + np.exp(-z)), "relu": lambda z: np.maximum(z, 0), "sign": np.sign,
                     "mean": lambda z: np.mean(z, axis=-1, keepdims=True), "greater": lambda a, b: a > b,
                     "softmax": lambda z: np.exp(z) / np.exp(z).sum(0, keepdims=True)}
        return functions.get(name, getattr(np, name, None))(*args) if name else args[0]


def computed(text, state, xs, params, d_state, d_ys, splits):
    """The gradients that the printed equations give, by their left-hand sides."""
    parts = [part.splitlines() for part in text.split("\n\n")[1:]]
    forward, backward, gradients = ([line.strip().split(" = ") for line in part[1:]] for part in parts)
    T = len(xs[0][1])
    carried = {f"{name}ₜ₋₁": value for name, value in state}
    steps = []
    for t in range(T):
        values = {**params, **carried, **{f"{name}ₜ": x[t] for name, x in xs}}
        for left, right in forward:
            found = Reader(right.replace("split(", "("), values).expression()
            if ", " in left:
                names = left.split(", ")
                cuts = splits(len(names), found.shape[-1])
                values |= dict(zip(names, np.split(found, cuts, axis=-1)))
            else:
                values[left] = found
        steps.append(values)
        carried = {f"{name}ₜ₋₁": values[f"{name}ₜ"] for name, _ in state}
    handed = {f"d{name}⁺ₜ": g for (name, _), g in zip(state, d_state)}
    sums, out = {}, {}
    for t in reversed(range(T)):
        values = {**steps[t], **handed, **{f"d{name}ₜ": g[t] for name, g in d_ys.items()}}
        for left, right in backward:
            values[left] = Reader(right, values).expression()
        for line in gradients:
            *lefts, right = line
            if right.startswith("Σₜ "):
                for left in lefts:
                    sums[left] = sums.get(left, 0) + Reader(right[3:], values).expression()
            elif "ₜ" in lefts[0]:
                out.setdefault(lefts[0], []).insert(0, Reader(right, values).expression())
        handed = {f"d{name}⁺ₜ": values[f"d{name}⁺ₜ₋₁"] for name, _ in state}
    out |= {f"∂L/∂{name}₀": handed[f"d{name}⁺ₜ"] for name, _ in state}
    for left in [left for left in sums if left.endswith("]")]:  # a gradient that is given part by part
        name, index = left[:-1].split("[")
        lo, hi = (int(i) if i else None for i in index.split(":"))
        whole = out.setdefault(name, np.zeros(np.shape(params[name.removeprefix("∂L/∂")])))
        whole[lo:hi] = sums.pop(left)
    return out | sums


def check(run, params, state, xs, text, names, inputs, splits=lambda n, width: n):
    f = lambda params, state, xs: tg.scan(run(params), state, xs)
    (last, ys), pullback = tg.vjp(f, params, state, xs)
    d_state, d_ys = (tg.trees.map(lambda a: rng.normal(size=a.shape), tree) for tree in (last, ys))
    leaves = lambda tree: tg.trees.flatten(tree)[0]
    outputs = leaves(d_ys)
    named = {"y" if len(outputs) == 1 else f"y{i + 1}": g for i, g in enumerate(outputs)}
    found = computed(text, list(zip(names, leaves(state))), list(zip(inputs, leaves(xs))), params, leaves(d_state), named, splits)
    d_params, d_start, d_xs = pullback((d_state, d_ys))
    expected = {f"∂L/∂{k}": v for k, v in d_params.items()}
    expected |= {f"∂L/∂{n}₀": v for n, v in zip(names, leaves(d_start))} | {f"∂L/∂{n}ₜ": v for n, v in zip(inputs, leaves(d_xs))}
    assert set(found) == set(expected)
    assert_same({k: np.reshape(found[k], np.shape(v)) for k, v in expected.items()}, expected, 1e-11)


def splits(n, width):
    return [width // 3 * 2] if (n, width) == (2, 15) else n  # the cell whose reset gate comes first cuts 3H into 2H and H


@pytest.mark.parametrize("name", [name for name in CELLS if name != "RNNCell relu" and name != "IndRNNCell"])
def test_the_librarys_equations_give_the_engines_gradients(name):
    made, run, params = of_library(name)
    state = tg.trees.map(lambda a: rng.normal(size=a.shape), made.initial_state((2,)))
    text = tg.explain.equations(made)
    check(run, params, state, rng.normal(size=(4, 2, 3)), text, list(made.state_sizes), ["x"], splits)


@pytest.mark.parametrize("name,state_name,inputs", [("elman", "h", "x"), ("sine_wave", "s", "ux"), ("classifier", "h", "x"), ("step_by_step", "a", "x")])
def test_the_sources_equations_give_the_engines_gradients(name, state_name, inputs):
    run, params, state, xs = SOURCES[name]
    check(run, params, state, xs, tg.explain.equations(run(params), state, xs), [state_name], list(inputs))


def test_a_wrong_equation_is_found():
    run, params, state, xs = SOURCES["elman"]
    text = tg.explain.equations(run(params), state, xs)
    for right, wrong in (("1 − hₜ²", "1 − hₜ₋₁²"), ("Whhᵀ dzₜ", "Whh dzₜ"), ("Σₜ dzₜ hₜ₋₁ᵀ", "Σₜ dzₜ hₜᵀ")):
        assert right in text
        with pytest.raises(AssertionError):
            check(run, params, state, xs, text.replace(right, wrong), ["h"], ["x"])


# ---- LaTeX --------------------------------------------------------------------------------------------------

KNOWN = {"begin", "end", "text", "dots", "mathrm", "circ", "frac", "partial", "sum", "top", "tanh", "sigma", "operatorname", "sqrt", "exp", "log",
         "sin", "cos", "max", "min", "cdot", ",", "\\", "alpha", "beta", "gamma"}


@pytest.mark.parametrize("name", [*CELLS, *SOURCES])
def test_latex_is_balanced_and_of_known_commands(name):
    if name in CELLS:
        text = tg.explain.equations(CELLS[name](), form="latex")
    else:
        run, params, state, xs = SOURCES[name]
        text = tg.explain.equations(run(params), state, xs, form="latex")
    assert set(re.findall(r"\\([A-Za-z]+|.)", text)) <= KNOWN
    assert text.count("{") == text.count("}") and text.isascii() and "__" not in text
    rows = text.split("\n")[1:-1]
    assert all(row.count("&") == 1 for row in rows) and all(row.endswith("\\\\") for row in rows[:-1]) and not rows[-1].endswith("\\\\")


@pytest.mark.parametrize("name", CELLS)
def test_latex_is_parsed(name):
    """matplotlib knows the mathematics of LaTeX, though not its environments: every row by itself."""
    mathtext = pytest.importorskip("matplotlib.mathtext")
    for row in tg.explain.equations(CELLS[name](), form="latex").split("\n")[1:-1]:
        row = row.removesuffix(" \\\\").replace("&", "")
        if row.startswith("\\text{"):
            row = row.removeprefix("\\text{").removesuffix("}")
            mathtext.MathTextParser("path").parse(row)
        else:
            mathtext.MathTextParser("path").parse(f"${row}$")


# ---- errors -------------------------------------------------------------------------------------------------


def test_another_form(says):
    with says(DomainError, "equations(cell, state, xs, form): there is no such form\n  form  'html'\nUse \"text\" or \"latex\"."):
        tg.explain.equations(elman, np.zeros((3, 4)), np.ones((5, 3, 2)), form="html")


def test_unknown_sizes(says):
    with says(ArgumentError, "equations(cell, state, xs): the sizes are not known\n  cell  function\n"
                             "Pass an initial state and a sequence, for example zeros of the right shapes."):
        tg.explain.equations(elman)


# ---- any cell -----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(recipes(most=5, steps=2))
def test_random_cells_have_equations_and_a_plan(recipe):
    at = recipe.arrays()
    made = cell(recipe, at["p"])
    text = tg.explain.equations(made, at["state"], at["xs"])
    left = [line.strip().split(" = ")[0] for line in text.split("\n\n")[1].splitlines()[1:]]
    assert len(set(left)) == len(left)  # no name stands for two things
    latex = tg.explain.equations(made, at["state"], at["xs"], form="latex")
    assert latex.count("{") == latex.count("}") and all(row.count("&") == 1 for row in latex.split("\n")[1:-1])
    found = tg.explain.plan(made, at["state"], at["xs"])
    assert found.compared == (recipe.T > 1) and str(found).startswith("plan of ")


def test_vectors_make_outer_products():
    cell = lambda h, x: (lambda h: (h, h))(tg.tanh(U @ h + W.T @ x + b))
    text = tg.explain.equations(cell, np.zeros(4), np.ones((5, 2)))
    for line in ("    dzₜ = dhₜ ∘ (1 − hₜ²)", "    dh⁺ₜ₋₁ = Uᵀ dzₜ", "    ∂L/∂U = Σₜ dzₜ hₜ₋₁ᵀ", "    ∂L/∂b = Σₜ dzₜ"):
        assert line in text.splitlines(), text
