"""FILE.py:name, a cell or a function of somebody's own, and whose fault an exception is.

Knows how to run a file as its owner's code and to fetch one name from it, and how to say in one line where in that
file something went wrong. Refuses to know what the name is used for. Below it: errors.
"""

import importlib.util
import inspect
import sys
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path

from .errors import ArgumentError, message

loaded = {}  # resolved path -> module: every file of somebody's own that was run, once each


def fetch(spec):
    """The object that `FILE.py:name` stands for.

    Raises: ArgumentError when the text has no such form, the file or the name is not there; whatever the file raises.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py") or not name:
        raise ArgumentError(message(spec, "this is not of the form FILE.py:name", {}, "Pass the path of a Python file, a colon, and a name in it."))
    module = run(path)
    try:
        return getattr(module, name)
    except AttributeError:
        own = [n for n, value in vars(module).items() if not n.startswith("_") and getattr(value, "__module__", None) == module.__name__]
        raise ArgumentError(message(spec, f"{path} defines no {name}", {"it defines": ", ".join(own) or "nothing"}, "Pass one of its names.")) from None


def call(spec, found, *arguments, **options):
    """What a class or a function of somebody's own makes of these arguments.

    Raises: ArgumentError when it does not take them; whatever it raises.
    """
    try:
        inspect.signature(found).bind(*arguments, **options)
    except TypeError as error:
        shown = ", ".join([*map(repr, arguments), *options])
        raise ArgumentError(message(spec, f"it cannot be called with ({shown}): {error}", {}, "Let it take these arguments.")) from error
    return found(*arguments, **options)


def run(path):
    """The module that a file is, with its own folder on the path so that it may import its neighbours.

    Raises: ArgumentError when there is no such file; whatever the file raises, SystemExit as a RuntimeError.
    """
    file = Path(path).resolve()
    if file in loaded:
        return loaded[file]
    if not file.is_file():
        raise ArgumentError(message(str(path), "no such file", {}, "Pass the path of a Python file."))
    loader = SourceFileLoader(file.stem, str(file))
    spec = importlib.util.spec_from_loader(file.stem, loader)
    assert spec is not None  # there is one for every loader
    loaded[file] = module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    sys.path.insert(0, str(file.parent))
    try:
        loader.exec_module(module)
    except SystemExit as error:
        raise RuntimeError(f"the file ended itself with sys.exit({error.code!r})") from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def blamed(error):
    """The line `file.py, line 7: ZeroDivisionError: …` if an exception passed through a file of somebody's own, else None."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) in loaded:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    passed = [frame for one in (error, error.__cause__) if one for frame in traceback.extract_tb(one.__traceback__)]
    frames = [frame for frame in passed if Path(frame.filename) in loaded]
    if not frames:
        return None
    text = in_one_line(str(error))
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}{': ' + text if text else ''}"


def in_one_line(text):
    """A message of several lines, facts in the middle and a remedy last, as one line.

    Example:
        >>> from tinygrad_rnn.userfile import in_one_line
        >>> in_one_line(tg.errors.message("f(x)", "x is empty", {"x": (0, 3)}, "Pass at least one row."))
        'f(x): x is empty (x (0, 3)). Pass at least one row.'
    """
    first, *rest = text.splitlines() or [""]
    facts = ", ".join(" ".join(line.split()) for line in rest if line.startswith("  "))
    remedy = " ".join(line.strip() for line in rest if line.strip() and not line.startswith("  "))
    return first + (f" ({facts})" if facts else "") + (f". {remedy}" if remedy else "")
