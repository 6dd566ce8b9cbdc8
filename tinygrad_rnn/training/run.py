"""A run of training: where it stands, one update further, and back from the disk in the same bits.

Knows truncated backpropagation through time over streams that run side by side: the state is carried from chunk to
chunk, the gradient is not. All that a run is (parameters, the optimiser's memory, the carried state, the place in the
data, the generator) goes into its snapshot, so that a run which was cut off and resumed ends in the same bits as one
which was not. Refuses to know the command line. Below it: network, corpus, snapshot, optim, explain.anomaly.
"""

import contextlib
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np

from .. import optim, trees
from ..errors import DomainError, NonFiniteError, StateError, message
from ..explain import anomaly
from ..ops import stop_gradient
from ..tensor import no_grad
from . import corpus as corpora
from . import snapshot
from .network import Network, built_in

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSProp, "adagrad": optim.Adagrad, "sgd": optim.SGD}
RATES = {"adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3, "adagrad": 2e-2, "sgd": 0.5}
TAIL = 512  # values at the end of a column that a snapshot keeps, to forecast from
LEAD = 64  # values that are read before a held-out stream is measured


@dataclass(frozen=True)
class Settings:
    """What makes two runs on the same data the same run. `batch` streams are read side by side, `tbptt` steps at a time."""

    cell: str = "gru"
    layers: int = 1
    hidden: int = 128
    dropout: float = 0.0
    tbptt: int = 64
    batch: int = 32
    optimizer: str = "adam"
    lr: float = RATES["adam"]
    clip: float = 1.0
    dtype: str = "float32"
    seed: int = 0


class Run:
    """A network, its optimiser, and how far they have come in a corpus.

    Raises: DomainError for a corpus that is shorter than a chunk, for more streams than it has room for, and for an
    unknown cell or optimiser.

    Example:
        >>> corpus = tg.training.corpus.text("to be or not to be " * 20)
        >>> run = tg.training.Run(corpus, tg.training.Settings(hidden=8, tbptt=10, batch=4))
        >>> before = run.evaluate()
        >>> for _ in range(30):
        ...     loss = run.update()
        >>> run.evaluate() < before
        True
    """

    def __init__(self, corpus, settings, make_cell=None):
        self.corpus, self.settings = corpus, settings
        start, steps, values = corpora.parted(corpus, settings.tbptt), settings.tbptt, self._typed(corpus.values)
        if settings.batch > start // 2:
            raise DomainError(message(f"train {corpus.name}", f"{settings.batch} streams are more than the {corpus.kind} has room for",
                                      {f"{corpus.units} to train on": start}, f"Pass --batch {room(start, steps)} or less."))
        self.network, self.rng = network_of(corpus, settings, make_cell)
        self.chunks = corpora.chunks(corpora.streams(values[:start], settings.batch), steps)
        lead = min(start, LEAD)
        held_out = corpora.measured(values, start, min(settings.batch, room(len(values) - start, steps)), lead)
        self.lead, self.held_out = held_out[:lead - 1], corpora.chunks(held_out[lead - 1:], steps)
        self.optimizer = OPTIMIZERS[settings.optimizer](self.network, lr=settings.lr)
        self.updates, self.state = 0, None
        self.recent, self.history = [], []  # losses since the last report; (updates, training loss, held-out loss)

    def _typed(self, values):
        return values if self.corpus.kind == "text" else values.astype(self.settings.dtype)

    # ---- training -------------------------------------------------------------------------------------------

    @property
    def chunk(self):
        """What the next update is made from: (steps, B) values, and the same one step later."""
        return self.chunks[self.updates % len(self.chunks)]

    def update(self):
        """One chunk: forward, backward, clip, step; returns the mean loss of the chunk.

        Raises: NonFiniteError when the loss or a gradient is not finite, which names the op and the time step where the
        first such value was born; no parameter has been changed then.
        """
        (x, targets), carried = self.chunk, self.state if self.updates % len(self.chunks) else None
        self.optimizer.zero_grad()
        with np.errstate(all="ignore"):  # what is not finite is looked for below, and named
            loss, state = self.network.train().loss(x, targets, carried)
            value = loss.item()
            if math.isfinite(value):
                loss.backward()
        if not math.isfinite(value):
            raise self._not_finite(f"the loss of update {self.updates + 1} is {value}", x, targets, carried)
        try:
            optim.clip_grad_norm_(self.network, self.settings.clip)
        except NonFiniteError as error:
            what = str(error).partition(": ")[2].splitlines()[0]
            raise self._not_finite(f"update {self.updates + 1}: {what}", x, targets, carried) from error
        self.optimizer.step()
        self.state = trees.map(stop_gradient, state)
        self.updates += 1
        self.recent.append(value)
        return value

    def _not_finite(self, what, x, targets, carried):
        """The error for a chunk, computed once more under watch: with another mask of dropout it may pass."""
        facts = {"lr": self.settings.lr}
        try:
            with anomaly():
                self.network.loss(x, targets, carried)[0].backward()
        except NonFiniteError as error:
            facts["first"] = str(error).splitlines()[0]
        return NonFiniteError(message(f"train {self.corpus.name}", what, facts, "Pass a smaller --lr or --clip; the last snapshot is from before."))

    def evaluate(self):
        """The mean loss on what is never trained on; each stream's state has read what comes before its part."""
        total, count, state = 0.0, 0, None
        self.network.eval()
        with no_grad(), np.errstate(all="ignore"):
            if len(self.lead):
                _, state = self.network(self.lead)
            for x, targets in self.held_out:
                loss, state = self.network.loss(x, targets, state)
                total, count = total + loss.item() * targets.size, count + targets.size
        return total / count

    def report(self):
        """Evaluate, and enter both losses into the history; returns the new line of it."""
        self.history.append((self.updates, float(np.mean(self.recent)) if self.recent else math.nan, self.evaluate()))
        self.recent = []
        return self.history[-1]

    # ---- on disk --------------------------------------------------------------------------------------------

    def save(self, path):
        """All of it, to a snapshot; the file is the old one or the new one, never half of each."""
        arrays = {f"parameter {name}": array for name, array in self.network.state_dict().items()}
        arrays |= {f"optimizer {name}": array for name, array in self.optimizer.state_dict().items()}
        arrays |= {f"state {i}": np.asarray(leaf) for i, leaf in enumerate(trees.flatten(self.state)[0])}
        arrays |= {"recent": np.array(self.recent), "history": np.array(self.history).reshape(-1, 3)}
        arrays |= {"tail": self.corpus.values[-TAIL:] if self.corpus.kind == "series" else np.zeros(0)}
        facts = {"settings": asdict(self.settings), "corpus": self.corpus.header(), "digest": corpora.digest(self.corpus),
                 "updates": self.updates, "rng": self.rng.bit_generator.state}
        snapshot.save(path, arrays, facts)

    def restore(self, saved):
        """Go on from a snapshot of a run of the same settings on the same data.

        Raises: StateError when it is of other data or does not fit; the run is then of no use.
        """
        who = f"train --resume {saved.path}"
        if saved.facts.get("digest") != corpora.digest(self.corpus):
            raise StateError(message(who, f"the snapshot is not of this {self.corpus.kind}", {"made from": saved.corpus.name, "now": self.corpus.name},
                                     "Pass the file that it was made from, unchanged."))
        leaves: list[Any]
        leaves, structure = trees.flatten(self.network.start(self.settings.batch))
        with saved.fitting(who):
            self.network.load_state_dict(saved.part("parameter"))
            self.optimizer.load_state_dict(saved.part("optimizer"))
            self.updates, self.rng.bit_generator.state = int(saved.facts["updates"]), saved.facts["rng"]
            if self.updates:  # before the first one there is no state to carry
                carried = [saved.part("state")[str(i)].reshape(leaf.shape).astype(leaf.dtype, casting="no") for i, leaf in enumerate(leaves)]
                self.state = trees.unflatten(structure, carried)
            self.recent, self.history = saved.arrays["recent"].tolist(), [(int(n), *losses) for n, *losses in saved.arrays["history"].tolist()]
        return self


@dataclass(frozen=True)
class Saved:
    """A snapshot of a run, read but not yet used; `corpus` holds no values but the last ones of a column."""

    path: str
    arrays: dict
    facts: dict
    settings: Settings
    corpus: corpora.Text | corpora.Series

    def part(self, kind):
        """The arrays of one kind by their own names."""
        return {name.removeprefix(f"{kind} "): array for name, array in self.arrays.items() if name.startswith(f"{kind} ")}

    @contextlib.contextmanager
    def fitting(self, who):
        """A block in which everything that does not fit means one thing: this is no snapshot of such a run."""
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StateError(message(who, f"the snapshot does not fit what it says it is: {why}", {}, "Pass a file that train has written, "
                                     "with the cell that it was made with.")) from error


def load(path):
    """Read a run's snapshot.

    Raises: StateError when it is damaged, or of something else than a run; OSError when it cannot be read.
    """
    arrays, facts = snapshot.load(path)
    try:
        settings = Settings(**facts["settings"])
        return Saved(str(path), arrays, facts, settings, corpora.from_header(facts["corpus"], arrays["tail"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise StateError(message(f"load({str(path)!r})", "this snapshot is not of a run of training", {}, "Pass a file that train has written.")) from error


def network_of(corpus, settings, make_cell=None):
    """The network at its start, and the generator that drew it.

    Raises: DomainError for an unknown cell, or dropout in a single layer; ArgumentError for a cell without parameters.
    """
    if settings.dropout and settings.layers == 1:
        raise DomainError(message("train --dropout", "dropout acts between layers, and there is only one", {}, "Pass --layers 2, or leave it out."))
    if make_cell is None:
        make_cell = built_in(settings.cell)
    if settings.dtype not in ("float32", "float64"):
        raise DomainError(message("train --dtype", f"there is no dtype {settings.dtype!r} to train in", {}, "Pass float32 or float64."))
    rng = np.random.default_rng(settings.seed)
    symbols = len(corpus.symbols) if corpus.kind == "text" else None
    network = Network(make_cell, settings.layers, settings.hidden, symbols, dropout=settings.dropout, rng=rng)
    return cast(Network, network.astype(settings.dtype)), rng


def settings_for(corpus, given):
    """Settings with those that are `given` and, for the rest, what suits the corpus and the optimiser."""
    settings = Settings(**given)
    if settings.optimizer not in OPTIMIZERS:
        raise DomainError(message("train --optimizer", f"there is no optimiser {settings.optimizer!r}", {"optimisers": ", ".join(OPTIMIZERS)},
                                  "Pass one of these."))
    suited = {"lr": RATES[settings.optimizer], "batch": min(settings.batch, room(corpora.parted(corpus, settings.tbptt), settings.tbptt))}
    return replace(settings, **{name: value for name, value in suited.items() if name not in given})


def room(count, tbptt):
    """How many streams of at least one whole chunk `count` values have room for; at least one."""
    return max(1, count // (tbptt + 1))
