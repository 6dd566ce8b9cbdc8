"""graph: a cell's step as boxes and arrows, in Mermaid, DOT and SVG."""

import re
import xml.etree.ElementTree

import numpy as np
import pytest
import random_cells
from hypothesis import given, settings

import tinygrad_rnn as tg
from tinygrad_rnn import explain
from tinygrad_rnn.errors import ArgumentError, ShapeError

r = np.random.default_rng(0).normal


def lstm_case():
    p = {name: r(size=(2 if name[0] == "W" else 3, 3)) for name in ("Wf", "Wi", "Wo", "Wg", "Uf", "Ui", "Uo", "Ug")}

    def lstm(state, x):
        h, c = state
        f, i, o = (tg.sigmoid(x @ p["W" + k] + h @ p["U" + k]) for k in "fio")
        g = tg.tanh(x @ p["Wg"] + h @ p["Ug"])
        c = f * c + i * g
        h = o * tg.tanh(c)
        return (h, c), h

    return lstm, (np.zeros(3), np.zeros(3)), np.zeros((4, 2))


def elman_case():
    W, U, b = r(size=(2, 3)), r(size=(3, 3)), r(size=3)

    def elman(h, x):
        h = tg.tanh(x @ W + h @ U + b)
        return h, {"probability <1": 1 - h, "raw": h}

    return elman, np.zeros(3), np.zeros((5, 2))


def swap_case():
    return (lambda state, x: ((state[1], state[0]), None)), (1.0, 2.0), np.zeros(3)


def test_the_mermaid_text_is_pinned():
    W = np.ones((2, 2))

    def cell(h, x):
        z = 2 * x + h @ W
        return z, z

    assert explain.graph(cell, np.zeros(2), np.zeros((3, 2))).mermaid() == """\
flowchart LR
  n0(["hₜ₋₁"]):::state
  n1(["xₜ"]):::input
  n6(["yₜ"]):::output
  n7(["hₜ"]):::state
  subgraph g0["cell: one step, repeated for every t"]
    n2["2 × ·"]:::op
    n3{{"W"}}:::parameter
    n4["h @ W"]:::op
    n5["z = · + ·"]:::op
  end
  n1 --> n2
  n0 --> n4
  n3 --> n4
  n2 --> n5
  n4 --> n5
  n5 --> n6
  n5 --> n7
  n7 -. next step .-> n0
  classDef state fill:#cfe5f5,stroke:#0072b2,color:#000
  classDef input fill:#cdeee2,stroke:#009e73,color:#000
  classDef parameter fill:#fdebc5,stroke:#c98a00,color:#000
  classDef op fill:#ffffff,stroke:#555555,color:#000
  classDef cell fill:#ffffff,stroke:#555555,color:#000
  classDef output fill:#f6dcea,stroke:#b5568c,color:#000
"""


def test_rolled_and_unrolled_hang_together():
    for case in (lstm_case, elman_case, swap_case):
        cell, state, xs = case()
        leaves = len(tg.trees.flatten(state)[0])
        rolled, unrolled = explain.graph(cell, state, xs), explain.graph(cell, state, xs, steps=3)
        assert len(rolled.loops) == leaves and not unrolled.loops
        assert all(rolled.boxes[a].kind == rolled.boxes[b].kind == "state" for a, b in rolled.loops)
        assert len(unrolled.arrows) == 3 * len(rolled.arrows)
        assert len(unrolled.boxes) == 3 * (len(rolled.boxes) - leaves) + leaves
        assert all(graph.boxes[a].rank < graph.boxes[b].rank for graph in (rolled, unrolled) for a, b in graph.arrows)
    names = [box.lines[0] for box in explain.graph(*lstm_case(), steps=2, ops=False).boxes]
    assert names == ["h₋₁", "c₋₁", "x₀", "lstm", "y₀", "h₀", "c₀", "x₁", "lstm", "y₁", "h₁", "c₁"]


def test_parameters_of_a_cell_object_and_the_parts_of_a_split_have_their_names():
    class Cell:
        def __init__(self):
            self.weight = tg.tensor(np.ones((2, 4)), requires_grad=True)

        def __call__(self, h, x):
            keep, new = tg.split(x @ self.weight, 2)
            return h * tg.sigmoid(keep) + new[0:2], None

    picture = explain.graph(Cell(), np.zeros(2), np.zeros((1, 2)))
    assert picture.title.endswith("Cell")
    assert [box.lines[0] for box in picture.boxes] == ["hₜ₋₁", "xₜ", "weight", "x @ weight", "keep, new = split", "sigmoid", "×", "[0:2]", "+", "hₜ"]


def test_a_parameter_has_the_name_that_the_cell_gives_it():
    """Not the name of the argument as which a function that the cell calls takes it."""
    def affine(x, weight, bias):
        return x @ weight + bias

    W, U, b = np.ones((2, 2)), np.eye(2), np.zeros(2)
    picture = explain.graph(lambda h, x: (tg.tanh(affine(x, W, b) + affine(h, U, 0.0)), None), np.zeros(2), np.zeros((1, 2)))
    assert [box.lines[0] for box in picture.boxes if box.kind == "parameter"] == ["W", "b", "U"]


def test_arrows_from_one_box_share_their_way():
    """x is needed in every column: one line passes through the picture, and leaves it where it is needed."""
    def cell(h, x):
        return tg.tanh(tg.tanh(tg.tanh(h + x) + x) + x), None

    svg = explain.graph(cell, 0.0, np.zeros(2)).svg()
    passing = re.findall(r"H(-?[\d.]+)", " ".join(re.findall(r'<path d="(M[^"]*)" fill="none" stroke="#444"', svg)))
    assert svg.count("url(#tip)") == 10 and len(passing) == len(set(passing)) == 4  # the columns between, each passed once


def test_the_two_sides_of_an_operation_whose_order_matters():
    def cell(h, x):
        d = h - x
        e = x - h
        return (2 * d) / e, (d * e, (h + 1) - (x + 1))

    texts = [box.lines[0] for box in explain.graph(cell, 3.0, np.ones(2)).boxes if box.kind == "op"]
    assert sorted(texts) == sorted(["d = h − x", "e = x − h", "2 × ·", "· ÷ e", "×", "· + 1", "· + 1", "−"])


def test_only_what_reaches_an_output_is_drawn():
    def cell(h, x):
        _unused = tg.exp(x) * 3
        return h + x, None

    assert [box.lines[0] for box in explain.graph(cell, 0.0, np.zeros(3)).boxes] == ["hₜ₋₁", "xₜ", "+", "hₜ"]


def shapes_of(svg):
    """Every box of a picture with its text: (x0, y0, x1, y1, [text])."""
    root, found = xml.etree.ElementTree.fromstring(svg), []
    for element in root:
        tag = element.tag.rpartition("}")[2]
        if tag == "rect" and element.get("rx") not in (None, "10"):
            x, y, w, h = (float(element.get(k)) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h, []))
        elif tag == "path" and element.get("fill") not in (None, "none"):
            x, y, half, w = map(float, re.match(r"M(\S+) (\S+)l8 (\S+)h(\S+)l", element.get("d")).groups())
            found.append((x, y + half, x + w + 16, y - half, []))
        elif tag == "text" and element.get("text-anchor") == "middle" and element.get("font-size") is None:
            found[-1][4].append((float(element.get("x")), element.text))
    return found


@pytest.mark.parametrize("options", [{}, {"ops": False}, {"steps": 1}, {"steps": 3}, {"steps": 4, "ops": False}])
@pytest.mark.parametrize("case", [lstm_case, elman_case, swap_case])
def test_svg_boxes_are_apart_and_hold_their_text(case, options):
    picture = explain.graph(*case(), **options)
    boxes = shapes_of(picture.svg())
    assert len(boxes) == len(picture.boxes) and all(box[4] for box in boxes)
    for i, p in enumerate(boxes):
        for q in boxes[i + 1:]:
            assert min(p[2], q[2]) <= max(p[0], q[0]) or min(p[3], q[3]) <= max(p[1], q[1]), (p, q)
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", size=12)
    for x0, _, x1, _, texts in boxes:
        for x, text in texts:
            half = TextPath((0, 0), text.replace("$", r"\$"), prop=font).get_extents().width / 2
            assert x0 + 2 < x - half and x + half < x1 - 2, (text, matplotlib.__version__)


def passages(svg):
    """How often an arrow crosses a column; each at a height where no box of the column is."""
    boxes, seen = shapes_of(svg), 0
    for path in re.findall(r'<path d="(M[^"]*)" fill="none" stroke="#444"', svg):
        for x0, y, x1 in re.findall(r"(-?[\d.]+) (-?[\d.]+)H(-?[\d.]+)", path):
            seen += 1
            for left, top, right, bottom, texts in boxes:
                assert not (top < float(y) < bottom and float(x0) < right and left < float(x1)), (path, texts)
    return seen


def test_arrows_do_not_run_through_boxes():
    assert passages(explain.graph(*lstm_case(), steps=2).svg()) > 20


@settings(max_examples=20, deadline=None)
@given(random_cells.recipes())
def test_random_cells_are_drawn(recipe):
    at = recipe.arrays()
    picture = explain.graph(random_cells.cell(recipe, at["p"]), at["state"], at["xs"], steps=2)
    boxes = shapes_of(picture.svg())
    passages(picture.svg())
    assert len(boxes) == len(picture.boxes) and picture.svg().count("url(#tip)") == len(picture.arrows)
    for i, p in enumerate(boxes):
        for q in boxes[i + 1:]:
            assert min(p[2], q[2]) <= max(p[0], q[0]) or min(p[3], q[3]) <= max(p[1], q[1]), (p, q)


def test_names_that_mean_something_in_a_language_are_spelled():
    names = ['a "b"', "c#35;d", "`e`", "f\\g", "h\nlong", "漢字漢字漢字"]
    picture = explain.graph(lambda h, x: (h, {name: h * x for name in names}), 0.0, np.ones(2))
    lines = picture.mermaid().splitlines()
    assert [line.split("(")[1].split(")")[0] for line in lines if line.endswith(":::output")] == [
        '["y.a #quot;b#quot;ₜ"]', '["y.c#35;35;dₜ"]', '["y.#96;e#96;ₜ"]', '["y.f\\gₜ"]', '["y.h longₜ"]', '["y.漢字漢字漢字ₜ"]']
    assert r'label="y.a \"b\"ₜ"' in picture.dot() and r'label="y.f\\gₜ"' in picture.dot()
    left, _, right, _, _ = next(box for box in shapes_of(picture.svg()) if "漢" in box[4][0][1])
    assert right - left > 6 * 12 + 3 * 7


def test_dot_and_files(tmp_path):
    picture = explain.graph(*elman_case())
    text = picture.dot()
    assert text.startswith("digraph cell {\n") and text.endswith("}\n") and text.count("{") == text.count("}") == 2
    assert 'label="y.probability <1ₜ"' in text and "y.probability #lt;1ₜ" in picture.mermaid() and "y.probability &lt;1ₜ" in picture.svg()
    for ending, form in ((".svg", picture.svg), (".dot", picture.dot), (".mmd", picture.mermaid)):
        picture.save(tmp_path / f"cell{ending}")
        assert (tmp_path / f"cell{ending}").read_text(encoding="utf-8") == form()
    assert picture._repr_svg_() == picture.svg() and str(picture) == picture.mermaid()
    with pytest.raises(ArgumentError, match="the ending does not say in which form"):
        picture.save("cell.bmp")


def test_graph_refusals():
    cell, state, xs = elman_case()
    with pytest.raises(ArgumentError, match="steps is not a number of steps"):
        explain.graph(cell, state, xs, steps=0)
    with pytest.raises(ShapeError, match=r"the sequences have no first step\n  xs  \(0,\)"):
        explain.graph(cell, state, xs[:0])
    with pytest.raises(ArgumentError, match=r"the cell did not return \(state, y\)"):
        explain.graph(lambda h, x: h, state, xs)
