"""The losses of a run as a picture.

Knows matplotlib, which is optional. Refuses to open a window: it writes a file. Below it: errors, run.
"""

import math
from pathlib import Path

from ..errors import MissingExtraError, message


def losses(run, path):
    """Draw the training and the held-out loss of a run over its updates.

    Raises: MissingExtraError without matplotlib; ValueError for a file name whose ending is no kind of picture.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(message("train --plot", "matplotlib is not installed", {}, "Run pip install 'tinygrad-rnn[lab]'.")) from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    text = run.corpus.kind == "text"
    scale = (lambda loss: loss / math.log(2)) if text else (lambda loss: math.sqrt(loss) * run.corpus.deviation)
    for column, label in ((1, "trained on"), (2, "held out")):
        points = [(report[0], scale(report[column])) for report in run.history if not math.isnan(report[column])]
        axes.plot([n for n, _ in points], [loss for _, loss in points], ".-", label=label)
    axes.set(title=run.corpus.name, xlabel="update", ylabel="bits per character" if text else "root mean squared error")
    axes.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
