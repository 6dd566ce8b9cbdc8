"""A snapshot: the arrays and the facts of a run in one file that is either whole or not there.

Knows how to tell a snapshot from any other file of arrays, and which version it is. Refuses to know what the arrays
mean, and how a file is written safely and read warily: `files` does. Below it: files, errors.
"""

from pathlib import Path

from .. import files
from ..errors import StateError, message

KIND = "tinygrad_rnn run"
VERSION = 1


def save(path, arrays, facts):
    """Write `arrays`, by name, and `facts`, what JSON can hold, to `path`, in a folder that is made if there is none.

    Raises: what `files.save` raises; OSError when the disk refuses. The old file is then as it was.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.npz")
        ...     tg.training.snapshot.save(path, {"w": np.ones(2)}, {"step": 7})
        ...     tg.training.snapshot.load(path)
        ({'w': array([1., 1.])}, {'step': 7})
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        files.save(path, arrays, {"kind": KIND, "version": VERSION, "arrays": list(arrays), "facts": facts})
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error  # not the name of a file that is put in its place


def set_aside(path):
    """Rename the snapshot that is at `path`, if there is one, to NAME.previous.npz; returns its new path, or None.

    Raises: what `load` raises if something else has this name: it is left alone; OSError.
    """
    path = Path(path)
    if not path.exists():
        return None
    load(path)
    older = path.with_suffix(f".previous{path.suffix}")
    path.replace(older)
    return older


def load(path):
    """Read `(arrays, facts)` back.

    Raises: what `files.read` raises for a file that is damaged or of another kind; StateError for one that is no snapshot, or
    of a version that is not known.
    """
    arrays, head = files.read(path)
    kind, version, facts = (head.get(name) for name in ("kind", "version", "facts")) if isinstance(head, dict) else (None,) * 3
    if kind != KIND or version != VERSION or not isinstance(facts, dict):
        what = f"it is of version {version}, this library reads {VERSION}" if kind == KIND and version != VERSION else "something else has written this file"
        raise StateError(message(f"load({str(path)!r})", f"this is no snapshot of a run: {what}", {}, "Pass a file that train has written."))
    if head.get("arrays") != list(arrays):
        raise StateError(message(f"load({str(path)!r})", "the snapshot is damaged: it does not hold the arrays that it lists", {}, "Pass a whole snapshot."))
    return arrays, facts
