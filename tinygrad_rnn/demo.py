"""The five sources on one engine: compared, corrected, trained, drawn.

Knows how to show what the engine found: the automatic gradient of every source beside the one derived by hand and
central differences, each mistake of the sources by how far it leads astray, and each model trained by its own
recipe with the figures that its page prints. Refuses to know how a gradient is found. Below it: sources,
check, explain, gradients, progress.
"""

import inspect
import itertools
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .check import diagnose
from .explain import ledger, source
from .gradients import value_and_grad
from .ops import tanh
from .progress import bar
from .sources import classifier, counting, elman, sine_wave, step_by_step
from .sources.record import relative_error

BY_HAND, DIFFERENCES = 1e-10, 1e-6  # how far the engine may be from the hand derivation, and from central differences


@dataclass(frozen=True)
class Model:
    """One model of a source: its words, how it is checked, and how its training is shown."""

    title: str
    page: Any
    loss: Callable
    bptt: Callable
    example: Callable
    train: Callable
    epochs: int
    every: int
    figures: Callable


def _sine_figures(p):
    return f"loss {p.loss:<12.6g} validation {p.figures['validation']:<12.6g} rmse {p.figures['rmse']:.4f}"


def _linear_figures(p):
    return f"loss {p.loss:<12.6g} predictions {counting.predict_linear(p.params, counting.data()[0])}"


def _logistic_figures(p):
    return f"cost {p.loss:<18.16g} outputs {counting.predict_logistic(p.params, counting.data()[0])}"


def _rmse(p):
    return f"loss {p.loss:<12.6g} rmse {p.figures['rmse']:.4f}"


def _accuracy(p):
    return f"loss {p.loss:<12.6g} accuracy {p.figures['accuracy']:.1%}"


MODELS = (
    Model("000 sine wave: the next point of a sine", sine_wave, sine_wave.loss, sine_wave.bptt, sine_wave.example,
          sine_wave.train, 25, 5, _sine_figures),
    Model("001 counting, linear: how many ones", counting, counting.loss_linear, counting.bptt_linear, counting.example,
          counting.train_linear, 50_000, 10_000, _linear_figures),
    Model("001 counting, logistic: how many ones", counting, counting.loss_logistic, counting.bptt_logistic, counting.example,
          counting.train_logistic, 15_000, 1_000, _logistic_figures),
    Model("002 elman: an output at every step", elman, elman.loss, elman.bptt, elman.example, elman.train, 200, 50, _rmse),
    Model("003 classifier: is this phrase positive", classifier, classifier.loss, classifier.bptt, classifier.example,
          classifier.train, 60, 20, _accuracy),
    Model("004 step by step: softmax at every step", step_by_step, step_by_step.loss, step_by_step.bptt, step_by_step.example,
          step_by_step.train, 200, 50, _accuracy),
)


def run(folder="out", *, quick=False, say=print):
    """Show everything; returns whether every gradient agreed. `quick` trains for a fiftieth of the epochs.

    Raises: OSError when there can be no such folder.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)  # not after half a minute
    agreed, histories = True, []
    for model in MODELS:
        say(f"\n{model.title}\n{'─' * len(model.title)}")
        agreed &= compare(model, say)
        errata(model, say)
        if model.page is elman:
            agreed &= derivation(say)
        printed(model, say)
        histories.append(train(model, max(2, model.epochs // 50) if quick else model.epochs, say))
    say("")
    for line in pictures(Path(folder), histories):
        say(line)
    say("Every gradient agrees." if agreed else "SOME GRADIENTS DO NOT AGREE: see above.")
    return agreed


# ---- comparing ----------------------------------------------------------------------------------------------


def gradients(loss, params, data):
    """The engine's gradients of a source's loss, those of its inputs under "x" as the sources call them."""
    _, found = value_and_grad(lambda both: loss(both[0], both[1], *data[1:]))((params, data[0]))
    return {**found[0], "x": found[1]}


def differences(loss, params, data, step=1e-3):
    """Central differences of fourth order of the loss, by every entry of every parameter and of the inputs.

    f'(x) ≈ (8 (f(x+s) − f(x−s)) − (f(x+2s) − f(x−2s))) / 12 s: with two more points the step can be so large that
    rounding does not drown a small gradient.
    """
    found, places = {}, {**params, "x": data[0]}
    for name, at in places.items():
        at, slope = np.array(at), np.zeros(np.shape(at))
        for i in np.ndindex(at.shape):
            sides = []
            for steps in (1, -1, 2, -2):
                moved = at.copy()
                moved[i] += steps * step
                moved = {**places, name: moved}
                sides.append(float(loss({p: moved[p] for p in params}, moved["x"], *data[1:])))
            slope[i] = (8 * (sides[0] - sides[1]) - (sides[2] - sides[3])) / (12 * step)
        found[name] = slope
    return found


def compare(model, say):
    """The table of automatic gradients against the two other ways to find them."""
    params, data = model.example()
    automatic, by_hand = gradients(model.loss, params, data), model.bptt(params, *data)[1]
    numeric, agreed = differences(model.loss, params, data), True
    say(f"  {'gradient of':<13}{'shape':<13}{'off by hand':<18}off central differences")
    for name, gradient in automatic.items():
        cells = []
        for other, tolerance in ((by_hand[name], BY_HAND), (numeric[name], DIFFERENCES)):
            error = relative_error(gradient, other)
            agreed &= error <= tolerance
            cells.append(f"{error:.1e} {'agrees' if error <= tolerance else 'DIFFERS'}")
        say(f"  {name:<13}{np.shape(gradient)!s:<13}{cells[0]:<18}{cells[1]}")
    return agreed


def errata(model, say):
    """Each mistake of the source, how far the gradients that it leads to are from the engine's, and what the engine makes of them
    alone: it is told nothing but the loss and the function that returns them."""
    mine = [e for e in model.page.ERRATA if e.corrected in (None, model.bptt)]
    if model.bptt is counting.bptt_logistic:
        mine = []  # the page's errata stand with its first model
    width = min(shutil.get_terminal_size((110, 24)).columns, 120) - 1
    for number, erratum in enumerate(mine, 1):
        say(textwrap.fill(erratum.what, width, initial_indent=f"  erratum {number}  ", subsequent_indent=" " * 13))
        if erratum.point is None:
            continue
        params, data = erratum.point()
        automatic, written = gradients(model.loss, params, data), erratum.as_written(params, *data)[1]
        off = {name: relative_error(written[name], automatic[name]) for name in written if name in automatic}
        wrong = ", ".join(f"{name} {error:.2g}" for name, error in off.items() if error > DIFFERENCES)
        right = ", ".join(name for name, error in off.items() if error <= DIFFERENCES)
        told = [f"relative error {wrong}" + (f"; right: {right}" if right else "")]
        named = {}
        for finding in diagnose(model.loss, params, data, erratum.as_written).findings:
            named.setdefault((finding.bug, finding.explanation), []).append(finding.tensor)
        told += [f"{bug}: {explanation} (spoils {', '.join(tensors)})" for (bug, explanation), tensors in named.items()]
        for text in told:
            say(textwrap.fill(f"engine: {text}", width, initial_indent=" " * 11, subsequent_indent=" " * 13))


def derivation(say):
    """The backward pass of Elman's cell as the engine derived it, as code, next to the one derived by hand; and what comes
    out when the derived text is run alone."""
    params, (x, y) = elman.example()
    Whx, Whh, Wyh, bh, by = (params[name] for name in ("Whx", "Whh", "Wyh", "bh", "by"))

    def elman_cell(h, x):
        z = Whh @ h + Whx @ x.T + bh
        h = tanh(z)
        y = Wyh @ h + by
        return h, y

    text = source(elman_cell, params["h0"], x)
    left = ["derived by the engine", *text[text.index("def backward"):].splitlines()]
    right = ["derived by hand", *inspect.getsource(elman.bptt).splitlines()]
    beside(*([line if len(line) < 72 else line[:70] + " …" for line in lines if line and '"""' not in line and "Shapes:" not in line]
             for lines in (left, right)), say)

    alone = {}
    exec(text, alone)
    _, outputs, saved = alone["forward"](params["h0"], x, Whh=Whh, Whx=Whx, bh=bh, Wyh=Wyh, by=by)
    d_h0, d_x, found = alone["backward"](np.zeros_like(params["h0"]), outputs - y.swapaxes(1, 2), saved)
    by_hand = elman.bptt(params, x, y)[1]
    error = max(relative_error(value, by_hand[name]) for name, value in {**found, "h0": d_h0, "x": d_x}.items())
    say(f"  the derived text, run alone with NumPy, is off by hand {error:.1e} {'agrees' if error <= BY_HAND else 'DIFFERS'}")
    return error <= BY_HAND


def beside(left, right, say):
    """Two texts side by side where the terminal is wide enough, one above the other where it is not."""
    width = max(map(len, left)) + 2
    if shutil.get_terminal_size((160, 24)).columns < width + max(map(len, right)) + 4:
        left, right = [*left, "", *right], []
    say("")
    for one, other in itertools.zip_longest(left, right, fillvalue=""):
        say(f"  {one:<{width}}{other}".rstrip())
    say("")


def printed(model, say):
    """The figures that a source prints before it trains."""
    if model.page is sine_wave:
        start = sine_wave.init()
        values = [float(sine_wave.loss(start, *sine_wave.data(part))) for part in ("training", "validation")]
        say(f"  its own start: loss {values[0]:.8f}, validation {values[1]:.8f}")
    elif model.page is classifier:
        say(f"  its printed check: {classifier.forward(*classifier.printed_point())[0]}")


# ---- training -----------------------------------------------------------------------------------------------


def train(model, epochs, say):
    """Train by the source's own recipe; returns the Progress of every epoch that is worth a point in a picture."""
    progress, kept = bar(epochs, desc="  training", unit="epoch"), []
    for at in model.train(epochs=epochs):
        if at.epoch % max(1, epochs // 500) == 0:
            kept.append(at)
        if at.epoch % model.every == 0 or at.epoch == epochs:
            progress.write(f"  epoch {at.epoch:>6}  {model.figures(at)}")
        progress.update(at.epoch > 0)
    progress.close()
    return kept


def pictures(folder, histories):
    """Draw the histories when matplotlib is there; yields a line for each picture, or one that says what is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        yield "No pictures: install matplotlib to get them (pip install 'tinygrad-rnn[lab]')."
        return
    for name, draw in (("loss", _draw_losses), ("sine", _draw_sine), ("gradient_norms", _draw_gradients)):
        figure = Figure(figsize=(10, 6), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, histories)
        figure.savefig(folder / f"{name}.png", dpi=110)
        yield f"wrote {folder / name}.png"


def _draw_losses(figure, histories):
    for axes, model, history in zip(figure.subplots(2, 3).flat, MODELS, histories):
        axes.semilogy([p.epoch for p in history], [p.loss for p in history])
        axes.set(title=model.title.split(":")[0], xlabel="epoch", ylabel="loss")
        axes.locator_params(axis="x", nbins=5)


def _draw_sine(figure, histories):
    params = histories[0][-1].params
    for axes, part, first in zip(figure.subplots(2, 1), ("training", "validation"), (50, 150)):
        X, Y = sine_wave.data(part)
        points = first + np.arange(len(Y))
        axes.plot(points, Y[:, 0], "o", markersize=3, label="truth")
        axes.plot(points, sine_wave.predict(params, X)[0], label="prediction")
        axes.set(title=f"sine wave, {part} windows", xlabel="point", ylabel="sin")
        axes.set_ylim(-1.2, 1.7)
        axes.legend(loc="upper right", ncols=2)


def _draw_gradients(figure, histories):
    weights = {sine_wave: "W", elman: "Whh", classifier: "w_h", step_by_step: "W_aa"}
    shown = [(model, history) for model, history in zip(MODELS, histories) if model.page in weights]
    for axes, (model, history) in zip(figure.subplots(2, 2).flat, shown):
        name, data = weights[model.page], model.page.data()
        if model.page is classifier:
            data = max(data, key=lambda phrase: phrase[0].shape[1])
        for at, label in ((history[0], "start"), (history[-1], "trained")):
            norms = ledger(model.loss, at.params, data).norms(name)
            axes.semilogy(np.where(norms > 0, norms, np.nan), ".-", label=label)  # an exact 0 has no place on this scale
        axes.set(title=model.title.split(":")[0], xlabel="time step t", ylabel=f"‖∂L/∂{name} from step t‖")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
