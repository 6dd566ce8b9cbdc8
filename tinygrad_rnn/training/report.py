"""What is said of a run: its losses in the units that people speak of, an example of what it has learned, a picture.

Knows words and figures. Refuses to change anything: a run that is looked at goes on as one that is not. Below it: run,
network, corpus, explain.pictures.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DomainError, MissingExtraError, message
from ..explain.pictures import loss_curves
from . import corpus as corpora
from .network import forecast, write
from .run import TAIL, network_of


def opening(run):
    """What is about to be trained, and, for numbers, what must be beaten."""
    c, s = run.corpus, run.settings
    text = f"{c.name}: {len(c.values):,} {c.units}, {len(run.chunks)} chunks of {s.batch} × {s.tbptt} an epoch\n{run.network}"
    if c.kind == "series":
        same = np.diff(c.values)[corpora.held_out_from(len(c.values)) - 1:]
        text += f"\nto beat, held out: {figures(c, float(np.mean(same**2)))} (each number again as the next)"
    return text


def line(run, report, speed=None):
    """One report as a line; `speed` is how many characters or numbers were trained on in a second."""
    updates, seen, held_out = report
    trained = "" if math.isnan(seen) else f"  trained on: {figures(run.corpus, seen)}"
    pace = "" if speed is None else f"  {speed:,.0f} {run.corpus.units}/s"
    return f"update {updates:>6}  epoch {updates / len(run.chunks):6.2f}  held out: {figures(run.corpus, held_out)}{trained}{pace}"


def example(run, length=120):
    """What the network writes, or expects to come, as it stands; drawn from a generator of its own, so that looking changes nothing."""
    run.network.eval()
    if run.corpus.kind == "text":
        rng = np.random.default_rng([run.settings.seed, run.updates])
        return "    | " + write(run.network, run.corpus.symbols, length, temperature=0.7, rng=rng).replace("\n", "\n    | ")
    tail = replace(run.corpus, values=run.corpus.values[-TAIL:])
    return "    expected to come: " + " ".join(f"{value:.4g}" for value in forecast(run.network, tail, 8))


def figures(corpus, loss):
    """A loss in the units that people speak of.

    Bits per character = loss / ln 2 and perplexity = exp(loss); for numbers the root of the mean squared error, in the column's units.
    """
    if corpus.kind == "text":
        return f"{loss / math.log(2):.3f} bits per character, perplexity {math.exp(min(loss, 700)):.2f}"
    return f"rmse {math.sqrt(loss) * corpus.deviation:.4g}"


def check_drawable(path):
    """Refuse a picture that could not be drawn.

    Raises: MissingExtraError without matplotlib; DomainError for a file name whose ending is no kind of picture; OSError
    for a place where nothing can be written.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise MissingExtraError(message("train --plot", "matplotlib is not installed", {}, 'Run pip install "tinygrad-rnn[lab]".')) from error
    kinds = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:] not in kinds:
        raise DomainError(message(f"train --plot {path}", "the ending of the name is no kind of picture", {"kinds": ", ".join(kinds)}, "Name it *.png."))
    path, existed = Path(path), Path(path).exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()
    if not existed:
        path.unlink()


def picture(run, path):
    """Draw the losses of all reports, in the units that people speak of.

    Raises: MissingExtraError without matplotlib.
    """
    text = run.corpus.kind == "text"
    updates, reports = np.split(np.array(run.history).reshape(-1, 3), [1], axis=1)
    losses = reports / math.log(2) if text else np.sqrt(reports) * run.corpus.deviation
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    loss_curves(dict(zip(("trained on", "held out"), losses.T)), at=updates[:, 0], xlabel="update",
                ylabel="bits per character" if text else "root mean squared error", path=path)


def generated(saved, make_cell, length, *, prompt=None, temperature=1.0, seed=0):
    """What a saved network writes, or the numbers that it expects, one a line.

    Raises: StateError when the snapshot does not fit its own facts; DomainError for a prompt or a temperature where
    numbers are forecast; what `write` raises.
    """
    if saved.corpus.kind == "series" and (prompt is not None or temperature != 1.0):
        raise DomainError(message("sample", "a prompt and a temperature are for texts; this network forecasts numbers", {}, "Leave them out."))
    network, _ = network_of(saved.corpus, saved.settings, make_cell)
    with saved.fitting(f"sample {saved.path}"):
        network.eval().load_state_dict(saved.part("parameter"))
    if saved.corpus.kind == "series":
        return "\n".join(f"{value:.6g}" for value in forecast(network, saved.corpus, length))
    return write(network, saved.corpus.symbols, length, prompt=prompt, temperature=temperature, rng=np.random.default_rng(seed))
