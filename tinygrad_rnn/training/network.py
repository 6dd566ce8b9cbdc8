"""The model: characters or numbers in, scores for the next character or the next number out.

Knows how the parts are put together (an embedding for characters, layers of any cell, a linear readout), the loss of a
chunk, and how to go on from where a sequence ends. Refuses to know how it is trained. Below it: nn, ops.
"""

from typing import Any

import numpy as np

from .. import nn
from ..errors import ArgumentError, DomainError, message
from ..tensor import no_grad

CELLS = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell, "mgu": nn.MGUCell, "indrnn": nn.IndRNNCell, "lnlstm": nn.LayerNormLSTMCell}


def built_in(name):
    """The library's cell of that name as `make(input_size, hidden_size, rng)`.

    Raises: DomainError for an unknown name.
    """
    if name not in CELLS:
        raise DomainError(message("--cell", f"there is no cell {name!r}", {"cells": ", ".join(CELLS)}, "Pass one of these, or FILE.py:Cell."))
    return lambda inputs, hidden, rng: CELLS[name](inputs, hidden, rng=rng)


class Network(nn.Module):
    """Embedding, recurrent layers, readout. `make_cell(input_size, hidden_size, rng)` makes the cell of each layer.

    Shapes: x (T, B) characters, or numbers if `symbols` is None; scores (T, B, symbols), or forecasts (T, B).
    """

    def __init__(self, make_cell, layers, hidden, symbols=None, *, dropout=0.0, rng):
        self.symbols = symbols
        inputs = 1 if symbols is None else min(hidden, 64)
        if symbols is not None:
            self.embedding = nn.Embedding(symbols, inputs, rng=rng)
        cells, width = [], inputs
        for _ in range(layers):
            cells.append(_trainable(make_cell(width, hidden, rng)))
            width = getattr(cells[-1], "output_size", hidden)
        self.recurrent = nn.Recurrent(cells, dropout=dropout, rng=rng)
        self.readout = nn.Linear(width, symbols or 1, rng=rng)

    def start(self, batch):
        """The state from which a batch of so many streams starts."""
        cells: list[Any] = self.recurrent.cells
        return [cell.initial_state((batch,)) for cell in cells]

    def __call__(self, x, state=None):
        steps = x[:, :, None] if self.symbols is None else self.embedding(x)
        ys, state = self.recurrent(steps, state)
        scores = self.readout(ys)
        return (scores[:, :, 0] if self.symbols is None else scores), state

    def loss(self, x, targets, state=None):
        """The mean loss of a chunk, and the state after it: nats per character, or the squared error of a number."""
        scores, state = self(x, state)
        if self.symbols is None:
            return nn.functional.mse_loss(scores, targets), state
        return nn.functional.cross_entropy(scores.reshape(-1, self.symbols), targets.reshape(-1)), state


def _trainable(cell):
    if not isinstance(cell, nn.Module) or not cell.parameters():
        raise ArgumentError(message("--cell", "the cell has no parameters that could be trained", {"cell": type(cell).__name__},
                                    "Derive its class from tg.nn.Module, and make its weights with tg.tensor(…, requires_grad=True)."))
    return cell


def write(network, symbols, length, *, prompt=None, temperature=1.0, rng):
    """`length` characters after `prompt`, each drawn from softmax(scores / temperature); at 0 always the likeliest.

    Without a prompt: after the end of a line, or, if the text has but one, after the first of its characters.

    Raises: DomainError for an empty prompt or one with characters that the text has not, and for a temperature below 0.
    """
    prompt = prompt if prompt is not None else "\n" if "\n" in symbols else symbols[0]
    unknown = sorted(set(prompt) - set(symbols))
    if unknown or not prompt:
        what = f"the text that was trained on has no {unknown[0]!r}" if unknown else "the prompt is empty"
        raise DomainError(message("sample --prompt", what, {}, "Pass a prompt made of characters of that text."))
    if not temperature >= 0:
        raise DomainError(message("sample --temperature", f"{temperature} is not a temperature", {}, "Pass 0 (always the likeliest) or more."))
    x, state, out = np.array([[symbols.index(character)] for character in prompt]), None, []
    with no_grad():
        for _ in range(length):
            scores, state = network(x, state)
            x = np.array([[_drawn(scores.numpy()[-1, 0], temperature, rng)]])
            out.append(symbols[x[0, 0]])
    return "".join(out)


def _drawn(scores, temperature, rng):
    """A character: adding Gumbel noise and taking the largest draws from the softmax of the scores."""
    if temperature == 0:
        return int(np.argmax(scores))
    with np.errstate(over="ignore"):  # at a temperature near 0 all but the largest end at −inf
        below = (scores - scores.max()).astype(float) / temperature
    return int(np.argmax(below + rng.gumbel(size=scores.shape)))


def forecast(network, series, length):
    """The `length` numbers that are expected after the end of a column, each fed back to find the next one."""
    x, state, out = series.values[:, None].astype(network.readout.weight.dtype), None, []
    with no_grad():
        for _ in range(length):
            ys, state = network(x, state)
            x = ys.numpy()[-1:]
            out.append(float(x[0, 0]) * series.deviation + series.mean)
    return out
