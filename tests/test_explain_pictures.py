"""pictures: written, legible, and clear about what does not fit."""

import sys

import numpy as np
import pytest
from explain_cases import gated, gated_case

from tinygrad_rnn import explain
from tinygrad_rnn.errors import ArgumentError, MissingExtraError, ShapeError


def rectangles(figure):
    """The visible texts of a figure with the boxes they cover, in pixels."""
    figure.draw_without_rendering()
    renderer, found = figure.canvas.get_renderer(), []
    for ax in figure.axes:
        x0, y0, x1, y1 = ax.bbox.extents + [-1, -1, 1, 1]
        ticks = [t for t in ax.get_xticklabels(which="both") if x0 <= ax.transData.transform((t.get_position()[0], ax.get_ylim()[0]))[0] <= x1]
        ticks += [t for t in ax.get_yticklabels(which="both") if y0 <= ax.transData.transform((ax.get_xlim()[0], t.get_position()[1]))[1] <= y1]
        legend = ax.get_legend()
        for text in [ax.title, ax.xaxis.label, ax.yaxis.label, *ticks, *(legend.get_texts() if legend else [])]:
            if text.get_visible() and text.get_text().strip():
                found.append((text.get_text(), text.get_window_extent(renderer)))
    return found


def legible(figure):
    """Whether every text lies inside the figure and no two overlap."""
    found, whole = rectangles(figure), figure.bbox
    out = [name for name, box in found if box.x0 < -1 or box.y0 < -1 or box.x1 > whole.x1 + 1 or box.y1 > whole.y1 + 1]
    clash = [(a, b) for i, (a, p) in enumerate(found) for b, q in found[i + 1:]
             if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1]
    return not out and not clash and len(found) > 3, (out, clash)


def falls(figure):
    """Names of the lines that leave a logarithmic scale at the bottom: an exact 0 has no place on it."""
    return [line.get_label() for ax in figure.axes if ax.get_yscale() == "log" for line in ax.lines if np.any(np.asarray(line.get_ydata()) <= 0)]


TEXT = "The cat sat on\nthe mat, it costs $5."
r = np.random.default_rng(0).normal
FIGURES = {
    "heat_map": lambda P, path: P.heat_map(explain.ledger(gated, *gated_case(T=30)), path=path),
    "heat_map of two steps": lambda P, path: P.heat_map(np.array([[1.0, 0.0], [1e-9, 1.0]]), path=path),
    "heat_map of one value": lambda P, path: P.heat_map(np.ones((1, 1)), path=path),
    "heat_map of nothing that flows": lambda P, path: P.heat_map(np.zeros((4, 4)), path=path),
    "heat_map that explodes": lambda P, path: P.heat_map(np.tril(10.0 ** np.arange(265, 305)[:, None]), path=path),
    "gradient_norms": lambda P, path: P.gradient_norms(explain.ledger(gated, *gated_case(T=20)), path=path),
    "gradient_norms from zero": lambda P, path: P.gradient_norms({"U$_$": [0.0, 1e-3, 0.0, 1.0], "W": [1.0, 0.0, 2.0, 0.1]}, path=path),
    "gradient_norms of many": lambda P, path: P.gradient_norms({f"weight_hh_l{i}": abs(r(size=15)) for i in range(16)}, path=path),
    "activations": lambda P, path: P.activations(TEXT, {"f": abs(r(size=(len(TEXT), 1, 8))) / 9, "h": np.tanh(r(size=(len(TEXT), 8)))}, path=path),
    "activations of four panels": lambda P, path: P.activations("aé漢\x00_^", {n: r(size=(6, 64)) for n in "ifgo"}, path=path),
    "activations with holes": lambda P, path: P.activations(
        "ab", {"a$_$": np.array([[1.0, np.nan], [np.inf, -2.0]]), "no": np.full((2, 3), np.nan)}, path=path),
    "activations of a long name": lambda P, path: P.activations("abc", {"reset_gate_of_the_second_layer": np.ones((3, 2)), "x": np.ones((3, 2))}, path=path),
    "activations over a page": lambda P, path: P.activations(3 * TEXT, {"h": r(size=(3 * len(TEXT), 3))}, path=path),
    "activations over a book": lambda P, path: P.activations(30 * TEXT, {"h": r(size=(30 * len(TEXT), 30))}, path=path),
    "v_curve": lambda P, path: P.v_curve(10.0 ** -np.arange(1, 13), {"right": 10.0 ** (abs(np.arange(12) - 5) - 11.0), "wrong": np.full(12, 0.01)}, path=path),
    "v_curve of one": lambda P, path: P.v_curve([1e-3, 1e-4], [1e-6, 0.0], path=path),
    "loss_curves": lambda P, path: P.loss_curves({"training": 1 / np.arange(1, 60), "validation": 2 / np.arange(1, 60)}, path=path),
    "loss_curves of one": lambda P, path: P.loss_curves([3.0, np.nan, 2.0], path=path),
    "loss_curves at updates": lambda P, path: P.loss_curves({"a": [np.nan, 2.0, 1.0], "b": [9.0, 2.5]}, at=[0, 200, 250], xlabel="update", path=path),
    "forecast": lambda P, path: P.forecast(np.sin(np.arange(50)), {"engine": np.sin(np.arange(50)) + 0.1, "by hand": np.zeros(50)}, path=path),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_is_written_and_legible(name, tmp_path):
    pytest.importorskip("matplotlib")
    figure = FIGURES[name](explain.pictures, tmp_path / "picture.png")
    fine, why = legible(figure)
    assert fine, why
    assert falls(figure) == []
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_legibility_test_can_fail():
    pytest.importorskip("matplotlib")
    figure = explain.pictures.loss_curves({"a": [1.0, 2.0]})
    figure.axes[0].tick_params(labelsize=90)
    assert not legible(figure)[0]
    figure.axes[0].semilogy([0.0, 1.0], label="b")
    assert falls(figure) == ["b"]


def test_the_demo_draws_no_line_to_zero():
    pytest.importorskip("matplotlib")
    from tinygrad_rnn import demo

    histories = [[next(iter(model.train(epochs=1)))] for model in demo.MODELS]
    for draw in (demo._draw_losses, demo._draw_sine, demo._draw_gradients):
        figure, _ = explain.pictures._figure("demo", 10, 6)
        figure.clear()
        draw(figure, histories)
        assert falls(figure) == []
        fine, why = legible(figure)
        assert fine, why


def test_two_equal_curves_are_seen_to_be_two():
    """The second of each pair is dashed above the first, or below a dashed one: what shows through is of the other colour."""
    pytest.importorskip("matplotlib")
    lines = explain.pictures.loss_curves({str(i): [2.0, 1.0] for i in range(9)}).axes[0].lines
    for a, b in zip(lines, lines[1:]):
        above = max(a, b, key=lambda line: line.get_zorder())
        assert above.get_linestyle() == "--" and a.get_color() != b.get_color() and a.get_zorder() != b.get_zorder()
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 9


def test_a_curve_stands_where_it_was_measured():
    pytest.importorskip("matplotlib")
    long, short = explain.pictures.loss_curves({"a": [3.0, 2.0, 1.0], "b": [2.0]}, at=[0, 200, 250]).axes[0].lines
    assert list(long.get_xdata()) == [0, 200, 250] and list(short.get_xdata()) == [0]


def test_pictures_say_what_does_not_fit(monkeypatch):
    pytest.importorskip("matplotlib")
    P = explain.pictures
    with pytest.raises(ShapeError, match=r"h does not have a row for each character\n  h           \(3, 2\)\n  characters  2\n"):
        P.activations("ab", {"h": np.ones((3, 2))})
    with pytest.raises(ShapeError, match="there is no matrix to draw"):
        P.heat_map(np.ones(3))
    with pytest.raises(ShapeError, match="not one error for each step"):
        P.v_curve([1, 2], [1.0])
    with pytest.raises(ShapeError, match="prediction and truth differ in length"):
        P.forecast(np.ones(3), np.ones(2))
    with pytest.raises(ArgumentError, match="nothing to draw"):
        P.activations("ab", {})
    with pytest.raises(ArgumentError, match=r"nothing to draw\n  values  {'h': \(0, 3\)}\nPass at least one array \(T, H\), and a text"):
        P.activations("", {"h": np.ones((0, 3))})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError) as error:
        P.loss_curves([1.0])
    assert str(error.value) == """\
loss_curves(curves): matplotlib is not installed
  needed for  pictures
Install it with: pip install tinygrad-rnn[lab]"""
