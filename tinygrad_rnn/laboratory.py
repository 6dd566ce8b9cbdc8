"""What the command line does with cells and derivations of somebody's own: derive, check, diagnose, benchmarks.

Knows how a cell in a file becomes a cell with a state and a sequence to look at it with, and where the parts of a
derivation stand in a file. Refuses to know how derivations are found or judged. Below it: userfile, check, explain,
training, trees.

A cell is a class, made as `Cell(input_size, hidden_size)`, or an object or function called as `cell(state, x)`. What
has no `initial_state` and `input_size` is looked at with the `state` and `xs` that its file defines.
"""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np

from . import check, explain, trees, userfile
from .errors import ArgumentError, message
from .training.network import CELLS


def subject(spec, sizes):
    """`(cell, state, xs)` for FILE.py:Cell, or for the name of one of the library's cells; sizes: input, hidden, batch, steps.

    Raises: ArgumentError for an unknown name, and when it cannot be known what the cell is to be called with.
    """
    if spec in CELLS:
        found, beside = CELLS[spec], {}
    elif ".py" not in spec:
        raise ArgumentError(message(spec, "there is no such cell", {"cells": ", ".join(CELLS)}, "Pass one of these, or FILE.py:Cell."))
    else:
        found = userfile.fetch(spec)
        beside = vars(userfile.run(spec.rpartition(":")[0]))
    cell = userfile.call(spec, found, sizes.input, sizes.hidden) if isinstance(found, type) else found
    if not callable(cell):
        raise ArgumentError(message(spec, "this cannot be called", {"type": type(cell).__name__}, "Pass a class, an object or a function: cell(state, x)."))
    state, xs = beside.get("state"), beside.get("xs")
    if hasattr(cell, "initial_state"):
        state = cell.initial_state((sizes.batch,))
    if isinstance(found, type) or hasattr(cell, "input_size"):
        dtypes = [leaf.dtype for leaf in trees.flatten(state)[0] if hasattr(leaf, "dtype")]
        columns = getattr(cell, "input_size", sizes.input)
        xs = np.random.default_rng(0).normal(size=(sizes.steps, sizes.batch, columns)).astype(dtypes[0] if dtypes else float)
    if state is None or xs is None:
        raise ArgumentError(message(spec, "it is not known what to call this cell with", {"the file lacks": "state" if state is None else "xs"},
                                    "Define state and xs in the file: an initial state, and a sequence with time first."))
    return cell, state, xs


def maker(spec, saved=None):
    """The function `make(input_size, hidden_size, rng)` for FILE.py:Cell; None for a name of the library's, or none.

    A file that a snapshot names is not run unless it is named here too: a snapshot may come from anywhere.

    Raises: ArgumentError when a snapshot needs a cell that is not named, or what is named cannot be called.
    """
    if spec is None and saved is not None and ".py" in saved.settings.cell:
        raise ArgumentError(f"{saved.path} was made with a cell of your own: pass --cell {saved.settings.cell}")
    if spec is None or ".py" not in spec:
        return None
    cell = userfile.fetch(spec)
    if not callable(cell):
        raise ArgumentError(message(spec, "this cannot be called", {"type": type(cell).__name__}, "Pass a class: Cell(input_size, hidden_size)."))
    takes_rng = "rng" in getattr(inspect.signature(cell), "parameters", ())
    return lambda inputs, hidden, rng: userfile.call(spec, cell, inputs, hidden, **({"rng": rng} if takes_rng else {}))


def derive(spec, what, sizes, *, optimized=False, latex=False):
    """The derived backward pass of a cell: its source, its equations, or the plan of its loop."""
    cell, state, xs = subject(spec, sizes)
    if what == "source":
        return explain.source(cell, state, xs, optimized=optimized)
    if what == "equations":
        return explain.equations(cell, state, xs, form="latex" if latex else "text")
    return str(explain.plan(cell, state, xs))


def battery(spec, sizes):
    """What `check.check_cell` says of a cell; one that starts from zeros is tried where zeros hide nothing."""
    cell, state, xs = subject(spec, sizes)
    if hasattr(cell, "initial_state"):
        rng = np.random.default_rng(0)
        state = trees.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype) if leaf.dtype.kind == "f" else leaf, state)
    return check.check_cell(cell, state, xs)


def diagnosis(spec):
    """What `check.diagnose` says of the derivation FILE.py:function; the file also defines `loss`, `params` and `data`.

    Raises: ArgumentError when the file does not.
    """
    by_hand = userfile.fetch(spec)
    beside = vars(userfile.run(spec.rpartition(":")[0]))
    missing = [name for name in ("loss", "params", "data") if name not in beside]
    if missing or not callable(by_hand):
        what = f"the file defines no {missing[0]}" if missing else "this is no function"
        raise ArgumentError(message(spec, what, {}, "Define loss(params, *data) made of ops, params (a dict of arrays), data (a tuple), and a "
                                    "function(params, *data) that returns (loss, grads)."))
    return check.diagnose(beside["loss"], beside["params"], beside["data"], by_hand)


def benchmarks():
    """The benchmarks by name: the scripts beside the package that can be run.

    Raises: ArgumentError where only the package is installed.
    """
    folder = Path(__file__).resolve().parent.parent / "benchmarks"
    found = {path.stem: path for path in sorted(folder.glob("*.py")) if '__name__ == "__main__"' in path.read_text(encoding="utf-8")}
    if not found:
        raise ArgumentError(message("bench", "the benchmarks are not installed, they stand beside the package in its source tree", {},
                                    "Clone the repository and run pip install -e '.[bench]' there."))
    return found


def bench(names, options):
    """Run benchmarks one after the other, each in a process of its own; returns the first exit status that is not 0."""
    found, status = benchmarks(), 0
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ArgumentError(message("bench", f"there is no benchmark {unknown[0]!r}", {"benchmarks": ", ".join(found)}, "Pass some of these, or none for all."))
    for name in names or found:
        print(f"=== {name} {' '.join(options)}", flush=True)
        status = status or subprocess.call([sys.executable, str(found[name]), *options])
    return status
