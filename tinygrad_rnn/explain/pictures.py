"""pictures: what a recurrent network does, as figures that can be put on a slide.

Knows how each kind of number is best looked at: norms on a logarithmic scale, units as rows and characters as
columns, the two arms of a V. Refuses to compute the numbers: `ledger`, `trace` and the caller do. Every function
returns a matplotlib Figure and writes it when a path is given; no window, no global state. Below it: errors.

matplotlib is the optional extra `lab`, and is imported at the first picture.
"""

import numpy as np

from ..errors import ArgumentError, MissingExtraError, ShapeError, message

_MOST_LABELS = 40  # characters of a text that are readable below an axis


def _figure(who, width=7.0, height=4.5, rows=1, **options):
    """A figure with `rows` axes one above the other, drawn without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(message(who, "matplotlib is not installed", {"needed for": "pictures"},
                                        "Install it with: pip install tinygrad-rnn[lab]")) from error
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1, squeeze=False, **options)[:, 0]


def _done(figure, path):
    if path is not None:
        figure.savefig(path)
    return figure


def _plain(ax):
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _whole_steps(axis):
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def heat_map(ledger, *, path=None):
    """Vanishing and exploding gradients: ‖∂L_s/∂h_t‖ over the loss's step s and the state's step t.

    A gradient that vanishes fades to the left of the diagonal, one that explodes grows there. Cells without a
    gradient, or with one that is not finite, are left white.

    Shapes: `ledger` is what `explain.ledger` returned, or a matrix (S, T).

    Raises: ShapeError for anything but a matrix; MissingExtraError without matplotlib.
    """
    matrix = np.asarray(getattr(ledger, "flow", ledger), float)
    if matrix.ndim != 2 or not matrix.size:
        raise ShapeError(message("heat_map(ledger)", "there is no matrix to draw", {"shape": matrix.shape},
                                 "Pass a ledger or a matrix (S, T)."))
    figure, (ax,) = _figure("heat_map(ledger)", 6.4, 5.2)
    shown = np.ma.masked_less_equal(np.where(np.isfinite(matrix), matrix, 0.0), 0.0)
    from matplotlib.colors import LogNorm

    low, high = (shown.min(), shown.max()) if shown.count() else (0.1, 1.0)
    faint, low = low, min(max(low, high * 1e-12), high * 0.1)  # twelve decades are enough, one is the least that shows a difference
    drawn = ax.imshow(shown, norm=LogNorm(low, high), cmap="viridis", origin="upper", aspect="auto", interpolation="nearest")
    figure.colorbar(drawn, ax=ax, extend="min" if faint < low else "neither", label=r"$\|\partial L_s \,/\, \partial h_t\|$")
    ax.set(xlabel="state after step $t$", ylabel="loss of step $s$", title="How much of each loss reaches each state")
    _whole_steps(ax.xaxis)
    _whole_steps(ax.yaxis)
    return _done(figure, path)


def gradient_norms(norms, *, path=None):
    """The norm of every weight's gradient over time, ‖dW_t‖, on a logarithmic scale.

    Shapes: `norms` is a ledger, or a dict from names to (T,).

    Raises: MissingExtraError without matplotlib.
    """
    if hasattr(norms, "weights"):
        norms = {name: norms.norms(name) for name in norms.weights}
    shown = {name: np.asarray(n, float) for name, n in norms.items() if np.any(np.asarray(n) > 0)}
    figure, (ax,) = _figure("gradient_norms(norms)")
    for (name, n), style in zip(shown.items(), _styles()):
        ax.plot(np.arange(len(n)), np.where(n > 0, n, np.nan), label=_plainly(name), **style)
    ax.set(xlabel="time step $t$", ylabel=r"$\|dW_t\|$", title="Where in time each gradient comes from", yscale="log")
    _whole_steps(ax.xaxis)
    _legend(ax, len(shown))
    return _done(figure, path)


def activations(text, values, *, path=None):
    """States and gates over a text: one panel for each, a row for every unit, a column for every character.

    Values that are not finite are left grey.

    Shapes: `values` is a dict from names to (T, H) (or (T, 1, H), a batch of one), T = len(text), as
    `trace(loss, params, data).over_time(name)` gives them.

    Raises: ShapeError when a panel does not have a column for each character; MissingExtraError without matplotlib.
    """
    panels = {}
    for name, value in values.items():
        value = np.asarray(value, float)
        value = value[:, 0] if value.ndim == 3 and value.shape[1] == 1 else value
        if value.ndim != 2 or len(value) != len(text):
            facts = {name: np.shape(values[name]), "characters": len(text)}
            raise ShapeError(message("activations(text, values)", f"{name} does not have a row for each character", facts,
                                     "Pass arrays (T, H) with T = len(text)."))
        panels[name] = value
    if not any(value.size for value in panels.values()):
        raise ArgumentError(message("activations(text, values)", "there is nothing to draw", {"values": {n: v.shape for n, v in panels.items()}},
                                    "Pass at least one array (T, H), and a text of at least one character."))
    panels = {name: value for name, value in panels.items() if value.size}
    width = min(max(4.5, 1.8 + 0.22 * len(text)), 14)
    heights = [min(max(1.1, 0.16 * value.shape[1]), 3.0) for value in panels.values()]
    figure, axes = _figure("activations(text, values)", width, sum(heights) + 0.3 * len(panels) + 1.0, len(panels), sharex=True,
                           height_ratios=heights)
    figure.suptitle("Activations over the text")
    for ax, (name, value) in zip(axes, panels.items()):
        shown = np.ma.masked_invalid(value.T)
        positive = not np.any(shown < 0)
        top = max(1.0, float(abs(shown).max())) if shown.count() else 1.0
        drawn = ax.imshow(shown, cmap="magma" if positive else "RdBu_r", vmin=0 if positive else -top, vmax=top,
                          aspect="auto", interpolation="nearest")
        ax.set_facecolor("0.6")
        figure.colorbar(drawn, ax=ax, pad=0.01, label="value")
        ax.set_title(_plainly(name), loc="left", fontsize=10)
        ax.set_ylabel("unit")
        _whole_steps(ax.yaxis)
    last = axes[-1]
    if len(text) <= 3 * _MOST_LABELS:
        size = 9 if len(text) <= _MOST_LABELS else 6
        last.set_xticks(np.arange(len(text)), _visible(text), fontsize=size, family="DejaVu Sans Mono")
        last.tick_params(axis="x", length=0)
        last.set_xlabel("character")
    else:
        last.set_xlabel("position in the text")
        _whole_steps(last.xaxis)
    return _done(figure, path)


def _plainly(name):
    """A name that starts no formula."""
    return str(name).replace("$", r"\$")


def _visible(text):
    """Characters as they can be seen below an axis: blanks as signs, `$` so that it starts no formula, and a dot for
    what the font of every matplotlib lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="DejaVu Sans Mono")))
    signs = {" ": "␣", "\n": "↵", "\t": "⇥", "$": r"\$"}
    return [signs.get(c) or (c if c.isprintable() and font.get_char_index(ord(c)) else "·") for c in text]


def v_curve(steps, errors, *, path=None):
    """The V of a gradient check: error of the difference quotient against its step.

    On the right the truncation error falls with the step, on the left rounding grows as it shrinks; a wrong
    gradient has a floor in place of the V.

    Shapes: `steps` (N,), `errors` (N,) or a dict from names to (N,). Errors that are exactly 0 are not drawn.

    Raises: ShapeError when the two differ in length; MissingExtraError without matplotlib.
    """
    errors = errors if isinstance(errors, dict) else {"": errors}
    steps = np.asarray(steps, float)
    for name, error in errors.items():
        if np.shape(error) != steps.shape:
            raise ShapeError(message("v_curve(steps, errors)", "there is not one error for each step",
                                     {"steps": steps.shape, name or "errors": np.shape(error)}, "Pass arrays of one length."))
    figure, (ax,) = _figure("v_curve(steps, errors)")
    for (name, error), style in zip(errors.items(), _styles()):
        error = np.asarray(error, float)
        ax.plot(steps, np.where(error > 0, error, np.nan), label=_plainly(name), **style)
    ax.set(xlabel="step of the difference quotient", ylabel="relative error", title="Error of finite differences",
           xscale="log", yscale="log")
    _legend(ax, len(errors) if "" not in errors else 0)
    return _done(figure, path)


def loss_curves(curves, *, at=None, xlabel="epoch", ylabel="loss", path=None):
    """Losses over training, one line for each.

    Shapes: `curves` is a dict from names to (N,), of any lengths, or one such sequence; `at`, the places of all of them on
    the axis, by default 0, 1, 2, …, is at least as long as the longest. The scale is logarithmic when all values are
    positive and span more than a factor of 20.

    Raises: MissingExtraError without matplotlib.
    """
    curves = {name: np.asarray(c, float) for name, c in (curves.items() if isinstance(curves, dict) else [("", curves)])}
    figure, (ax,) = _figure("loss_curves(curves)")
    for (name, curve), style in zip(curves.items(), _styles()):
        ax.plot(np.arange(len(curve)) if at is None else at[:len(curve)], curve, label=_plainly(name), **style)
    finite = np.concatenate([c[np.isfinite(c)] for c in curves.values()] or [np.ones(1)])
    if finite.size and finite.min() > 0 and finite.max() > 20 * finite.min():
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel, title="Training")
    _whole_steps(ax.xaxis)
    _legend(ax, len(curves) if "" not in curves else 0)
    return _done(figure, path)


def forecast(truth, predictions, *, path=None):
    """Prediction against truth over time, and their difference below.

    Shapes: `truth` (T,), `predictions` (T,) or a dict from names to (T,).

    Raises: ShapeError when the lengths differ; MissingExtraError without matplotlib.
    """
    truth = np.asarray(truth, float).ravel()
    predictions = {name: np.asarray(p, float).ravel() for name, p in
                   (predictions.items() if isinstance(predictions, dict) else [("prediction", predictions)])}
    for name, prediction in predictions.items():
        if prediction.shape != truth.shape:
            raise ShapeError(message("forecast(truth, predictions)", f"{name} and truth differ in length",
                                     {name: prediction.shape, "truth": truth.shape}, "Pass arrays of one length."))
    figure, (ax, below) = _figure("forecast(truth, predictions)", 7.5, 5, 2, sharex=True, height_ratios=[3, 1])
    time = np.arange(len(truth))
    ax.plot(time, truth, color="black", linewidth=1.2, label="truth")
    for (name, prediction), style in zip(predictions.items(), _styles()):
        ax.plot(time, prediction, label=_plainly(name), **style)
        below.plot(time, prediction - truth, **style)
    below.axhline(0, color="black", linewidth=0.6)
    ax.set(ylabel="value", title="Prediction against truth")
    below.set(xlabel="time step", ylabel="error")
    _whole_steps(below.xaxis)
    _plain(below)
    _legend(ax, 1 + len(predictions))
    return _done(figure, path)


def _styles():
    """Colours that stay apart for the colour-blind (Okabe and Ito), then the same with other marks. Every other line is
    dashed and on top, so that two equal curves are seen to be two."""
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    i = 0
    while True:
        yield {"color": colours[i % 6], "linestyle": ("-", "--")[i % 2], "zorder": 2 + i % 2 / 2, "marker": "osv^D"[i // 6 % 5],
               "markersize": 3, "linewidth": 1.4}
        i += 1


def _legend(ax, entries):
    """Outside of the axes when there are many lines, so that it covers none."""
    _plain(ax)
    ax.grid(True, which="major", alpha=0.25)
    if entries:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
