"""The command line: `python -m tinygrad_rnn COMMAND`, also installed as `tinygrad-rnn`.

Knows the commands, their options, and how to refuse bad input: one line on stderr and exit status 2. An interrupt
(Ctrl-C) ends with status 130, after `train` has written its snapshot. A bug of the library's own is shown in full.
Refuses to know what the commands do. Below it: demo, laboratory, training, exercises, userfile, progress.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from . import errors, userfile
from .training.network import CELLS

PROGRAM = "tinygrad-rnn"
FAILED, REFUSED, INTERRUPTED = 1, 2, 130
PURPOSE = "Recurrent networks from a few lines of equations: derive the backward pass, read it, check it, train with it."
OURS = tuple(kind for kind in vars(errors).values() if isinstance(kind, type))


class Parser(argparse.ArgumentParser):
    """argparse that complains in one line."""

    def error(self, text):
        self.exit(REFUSED, f"{self.prog}: {text} (see {self.prog} --help)\n")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """argparse's help with defaults, where there are any."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def main(argv=None):
    """Run one command and return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        return _complain(arguments, "interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        text = userfile.blamed(error)
        if text is None and isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if text is None and isinstance(error, MemoryError):
            text = f"there is not enough memory: {error}"
        if text is None and isinstance(error, OURS):
            text = userfile.in_one_line(str(error))
        if text is None:
            raise
        return _complain(arguments, text, FAILED if isinstance(error, errors.NonFiniteError) else REFUSED)


def _complain(arguments, text, status):
    told = text.removeprefix(f"{arguments.command} ").removeprefix(f"{arguments.command}: ")
    print(f"{PROGRAM} {arguments.command}: {told}", file=sys.stderr)
    return status


def parser():
    """All commands with their options."""
    top = Parser(prog=PROGRAM, description=PURPOSE, epilog=f"'{PROGRAM} COMMAND --help' tells more about a command.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(run, name, help, description=""):
        sub = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}. {description}".strip(),
                                  formatter_class=Help)
        sub.set_defaults(run=run)
        return sub

    def sizes(sub):
        for name, size, text in (("input", 3, "columns of x"), ("hidden", 4, "units"), ("batch", 2, "rows"), ("steps", 5, "time steps")):
            sub.add_argument(f"--{name}", type=_positive, default=size, help=f"{text} to look at the cell with")

    sub = command(demo, "demo", "compare, correct, train and draw the five source models",
                  "For each model: automatic gradients against hand-derived ones and central differences, what the engine finds of the "
                  "source's mistakes, the source's own training, pictures. Exit status 1 if a gradient does not agree.")
    sub.add_argument("--out", default="out", type=Path, metavar="DIR", help="folder for the pictures")
    sub.add_argument("--quick", action="store_true", help="train for a fiftieth of the epochs")

    _train_options(command(train, "train", "train a recurrent network on a text or on a column of numbers",
                           "The last tenth is never trained on; what is printed of it is perplexity and bits per character (or, for numbers, the "
                           "error in the column's own units). Ctrl-C ends after the present update, writes the snapshot and exits with status 130; "
                           "--resume goes on from it as if nothing had happened, bit for bit."))

    sub = command(sample, "sample", "write text, or forecast numbers, with a trained network")
    sub.add_argument("snapshot", metavar="SNAPSHOT", help="a file that train has written")
    sub.add_argument("--length", type=_positive, default=500, help="characters to write, or numbers to forecast")
    sub.add_argument("--temperature", type=float, default=1.0, help="below 1 keeps to the likelier characters, 0 always takes the likeliest")
    sub.add_argument("--prompt", default=None, help="text to go on from (default: the end of a line)")
    sub.add_argument("--seed", type=_seed, default=0, help="of the draws")
    sub.add_argument("--cell", metavar="FILE.py:Cell", default=None, help="the cell, if the network was trained with one of your own")
    own = "FILE.py:NAME is run as your own code."
    sub = command(derive, "derive", "show the backward pass that is derived for a cell", "source: a NumPy module that stands alone, forward and backward. "
                  "equations: the same as δ_t = … on paper. plan: which instruction runs once, before, in or after the loop, and why. " + own)
    sub.add_argument("cell", metavar="CELL", help=f"FILE.py:Cell, or one of {', '.join(CELLS)}")
    sub.add_argument("what", nargs="?", choices=("source", "equations", "plan"), default="source", help="what to show")
    sub.add_argument("--optimized", action="store_true", help="the source as it runs, with its buffers")
    sub.add_argument("--latex", action="store_true", help="the equations as LaTeX")
    sizes(sub)

    sub = command(check, "check", "run the battery of checks on a cell", "Shapes, dtypes, purity, derivatives of order 1 to 3, scan against the plain loop, "
                  "padding, empty sequences. Exit status 1 if something is wrong. " + own)
    sub.add_argument("cell", metavar="CELL", help=f"FILE.py:Cell, or one of {', '.join(CELLS)}")
    sizes(sub)

    sub = command(diagnose, "diagnose", "name the mistake in a gradient that was derived by hand", "The file defines loss(params, *data) made of ops, "
                  "params (a dict of arrays), data (a tuple), and the function(params, *data) -> (loss, grads). Exit status 1 if a gradient is wrong. " + own)
    sub.add_argument("function", metavar="FILE.py:function", help="the derivation")

    sub = command(exercise, "exercise", "write an exercise: a derivation to be made, or one with a mistake to be found", "Then: tinygrad-rnn grade FILE.py.")
    sub.add_argument("name", metavar="NAME", help="elman, counting, classifier or step_by_step")
    sub.add_argument("kind", nargs="?", choices=("skeleton", "bug"), default="skeleton", help="an empty backward pass, or one with a mistake")
    sub.add_argument("--seed", type=_seed, default=0, help="chooses the mistake and the numbers")
    sub.add_argument("--out", metavar="FILE.py", help="the file to write (default: NAME_KIND.py)")

    sub = command(grade, "grade", "say which gradients of an exercise are right", "Exit status 1 unless all of them are. The file is run as your own code.")
    sub.add_argument("file", metavar="FILE.py", help="the exercise, with your derivation in its bptt")
    sub.add_argument("--hint", action="store_true", help="also say what the diagnosis thinks of the wrong ones")

    sub = command(bench, "bench", "run the benchmarks that this machine can run", "Libraries that are not installed are left out.")
    sub.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (default: all)")
    sub.add_argument("--options", nargs=argparse.REMAINDER, default=[], metavar="…",
                     help="everything after this goes to the benchmarks, as in: bench scan --options --quick")
    return top


def _train_options(sub):
    # options that make a run what it is have no default here: --resume must see which of them were given
    sub.add_argument("file", nargs="?", metavar="TEXTFILE", help="UTF-8 text, or CSV with --csv; without it Python's own help texts (pydoc_data.topics)")
    sub.add_argument("--csv", metavar="COLUMN", help="the file is CSV (parted by commas, semicolons or tabs): forecast this column one step ahead")
    for name, kind, text in (
        ("cell", str, f"{', '.join(CELLS)}, or FILE.py:Cell, called as Cell(input_size, hidden_size) (gru)"),
        ("layers", _positive, "recurrent layers (1)"),
        ("hidden", _positive, "units in a layer (128)"),
        ("dropout", _share, "between layers, while training (0)"),
        ("tbptt", _positive, "steps in a chunk: how far back a gradient goes (64)"),
        ("batch", _positive, "streams that are read side by side (32, or what the file has room for)"),
        ("optimizer", str, "adam, adamw, rmsprop, adagrad or sgd (adam)"),
        ("lr", _rate, "learning rate (depends on the optimizer; adam: 0.003)"),
        ("clip", _rate, "largest norm of the gradient (1)"),
        ("dtype", str, "float32 or float64 (float32)"),
        ("seed", _seed, "of the initial weights and the samples (0)"),
    ):
        sub.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)
    sub.add_argument("--epochs", type=_positive, default=10, help="readings of the part to train on")
    sub.add_argument("--updates", type=_positive, default=None, help="end after so many updates instead")
    sub.add_argument("--every", type=_positive, default=200, help="updates between two reports: figures, a sample, a snapshot")
    sub.add_argument("--save", type=Path, default=None, metavar="FILE.npz", help="the snapshot (default: out/NAME.npz; an earlier one of that name is kept as "
                     "NAME.previous.npz)")
    sub.add_argument("--resume", type=Path, default=None, metavar="FILE.npz", help="go on from this snapshot, with the options that it was made with")
    sub.add_argument("--plot", type=Path, default=None, metavar="FILE.png", help="draw the losses (needs matplotlib)")


def _number(kind, fits, what):
    def read(text):
        with contextlib.suppress(ValueError):
            if fits(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return read


_positive = _number(int, lambda n: n > 0, "a positive whole number")
_seed = _number(int, lambda n: n >= 0, "a whole number of at least 0")
_rate = _number(float, lambda x: 0 < x < float("inf"), "a positive number")
_share = _number(float, lambda x: 0 <= x < 1, "a share of at least 0 and below 1")


# ---- the commands -------------------------------------------------------------------------------------------


def demo(arguments):
    from .demo import run

    return 0 if run(arguments.out, quick=arguments.quick) else 1


def train(arguments):
    from .laboratory import maker
    from .progress import bar
    from .training import loop, report, snapshot
    from .training import run as runs

    given = {name: value for name, value in vars(arguments).items() if name in runs.Settings.__dataclass_fields__}
    if arguments.resume:
        run = _resumed(arguments, given)
        path = arguments.save or arguments.resume
    else:
        corpus, make_cell = _corpus(arguments.file, arguments.csv), maker(given.get("cell"))
        if make_cell is not None:
            given.setdefault("dtype", "float64")  # what a cell makes unless it is told otherwise
        run = runs.Run(corpus, runs.settings_for(corpus, given), make_cell)
        path = arguments.save or Path("out") / f"{Path(corpus.name).stem if arguments.file else 'pydoc_topics'}.npz"
    if arguments.plot:
        report.check_drawable(arguments.plot)  # not after hours of training
    updates = arguments.updates or arguments.epochs * len(run.chunks)
    with loop.interrupts() as stopped:  # from here on a Ctrl-C ends in a snapshot
        if not arguments.resume and (older := snapshot.set_aside(path)):
            print(f"the earlier {path} is now {older}")
        print(report.opening(run))
        with contextlib.closing(bar(updates, initial=run.updates, desc="training", unit="update")) as progress:
            loop.train(run, updates, arguments.every, path, bar=progress, stopped=stopped)
    print(f"wrote {path} after {run.updates} updates")
    if arguments.plot:
        report.picture(run, arguments.plot)
        print(f"wrote {arguments.plot}")
    if stopped():
        return _complain(arguments, f"interrupted; go on with --resume {path}", INTERRUPTED)


def _resumed(arguments, given):
    from .laboratory import maker
    from .training import run as runs

    saved = runs.load(arguments.resume)
    for name, value in given.items():
        if value != getattr(saved.settings, name) and not (name == "cell" and _own(value) and _own(saved.settings.cell)):
            raise errors.StateError(f"--{name} {value} does not fit --resume: {arguments.resume} was made with {name} {getattr(saved.settings, name)}")
    named = saved.corpus.name if saved.corpus.name != "pydoc_data.topics" else None
    column = getattr(saved.corpus, "column", None)
    corpus = _corpus(arguments.file or named, arguments.csv or column)
    return runs.Run(corpus, saved.settings, maker(given.get("cell"), saved)).restore(saved)


def _own(cell):
    """Whether a cell stands in a file of somebody's own, which may have been moved."""
    return ".py" in cell


def _corpus(file, column):
    from .training import corpus as corpora

    if column is not None:
        if file is None:
            raise errors.ArgumentError("--csv needs a file: pass the CSV file's path before it")
        return corpora.read_series(file, column)
    return corpora.topics() if file is None else corpora.read_text(file)


def sample(arguments):
    from .laboratory import maker
    from .training import load, report

    saved = load(arguments.snapshot)
    made_with = saved.settings.cell
    if arguments.cell not in (None, made_with) and not (_own(arguments.cell) and _own(made_with)):
        raise errors.StateError(f"--cell {arguments.cell} does not fit: {arguments.snapshot} was made with cell {made_with}")
    print(report.generated(saved, maker(arguments.cell, saved), arguments.length, prompt=arguments.prompt,
                           temperature=arguments.temperature, seed=arguments.seed))


def derive(arguments):
    from .laboratory import derive

    print(derive(arguments.cell, arguments.what, arguments, optimized=arguments.optimized, latex=arguments.latex).rstrip())


def check(arguments):
    from .laboratory import battery

    return _verdict(battery(arguments.cell, arguments))


def diagnose(arguments):
    from .laboratory import diagnosis

    return _verdict(diagnosis(arguments.function))


def exercise(arguments):
    from .exercises import write

    path = write(arguments.name, arguments.kind, path=arguments.out, seed=arguments.seed)
    print(f"wrote {path}\nNow edit it, and then: {PROGRAM} grade {path}")


def grade(arguments):
    from .exercises import grade

    if not Path(arguments.file).is_file():
        raise errors.ArgumentError(f"{arguments.file}: no such file. Write one with: {PROGRAM} exercise NAME")
    return _verdict(grade(arguments.file, hint=arguments.hint))


def _verdict(report):
    print(report)
    return 0 if report else FAILED


def bench(arguments):
    from .laboratory import bench

    return bench(arguments.names, arguments.options)
