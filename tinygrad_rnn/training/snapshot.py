"""A snapshot: named arrays and a few facts in one `.npz` file that is either whole or not there.

Knows how to write such a file so that an interrupt, a full disk or a crash leaves the old one as it was (a new
file in the same folder, flushed to the disk, then renamed over the old one), and how to read one that came
from anywhere: nothing in it is ever executed, every byte is checksummed, and what does not fit is refused in
one sentence before anything is used. Refuses to know what the arrays mean. Below it: errors.
"""

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from ..errors import StateError, message

FACTS = "facts"  # the member that holds the facts, as JSON text in bytes
KIND = "tinygrad_rnn snapshot"
VERSION = 1


def save(path, arrays, facts):
    """Write `arrays`, a dict of NumPy arrays, and `facts`, what JSON can hold, to `path`; all of it or nothing.

    Raises: StateError for an array of Python objects, or one under the name "facts"; OSError when the disk refuses.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.npz")
        ...     tg.training.snapshot.save(path, {"w": np.ones(2)}, {"step": 7})
        ...     tg.training.snapshot.load(path)
        ({'w': array([1., 1.])}, {'step': 7})
    """
    path = Path(path)
    unfit = [name for name, array in arrays.items() if name == FACTS or np.asarray(array).dtype.hasobject]
    if unfit:
        raise StateError(message("save(path, arrays, facts)", f"{unfit[0]} cannot be kept in a snapshot",
                                 {"dtype": np.asarray(arrays[unfit[0]]).dtype}, "Pass arrays of numbers under other names than 'facts'."))
    text = json.dumps({"kind": KIND, "version": VERSION, "facts": facts})
    members = {**arrays, FACTS: np.frombuffer(text.encode(), np.uint8)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.{os.getpid()}.unfinished"
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    _flush_folder(path.parent)


def _flush_folder(folder):
    """The rename itself reaches the disk only with its folder; systems without that notion refuse to open one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path):
    """Read `(arrays, facts)` back; pickled objects are never loaded.

    Raises: StateError when the file is damaged, cut short, holds pickled objects, or is no snapshot; OSError when it
    cannot be read at all.
    """
    raw = io.BytesIO(Path(path).read_bytes())
    try:
        with np.load(raw, allow_pickle=False) as archive:
            names = zipfile.ZipFile(raw).namelist()
            members = {name: archive[name] for name in archive.files}
    except Exception as error:  # foreign bytes make zipfile and NumPy raise nearly anything, and all of it means the same
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refused(path, f"it is damaged, cut short or of another kind ({why})") from error
    if len(set(names)) < len(names):
        raise _refused(path, "two members have the same name")
    return {name: array for name, array in members.items() if name != FACTS}, _facts(path, members.get(FACTS))


def _facts(path, member):
    try:
        head = json.loads(member.tobytes())
        kind, version, facts = head["kind"], head["version"], head["facts"]
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise _refused(path, "another program wrote it") from error
    if kind != KIND or not isinstance(facts, dict):
        raise _refused(path, "another program wrote it")
    if version != VERSION:
        raise _refused(path, f"it is of version {version}, this library reads version {VERSION}")
    return facts


def _refused(path, why):
    return StateError(message(f"load({str(path)!r})", f"this is not a whole snapshot: {why}", {}, "Pass a file that `train` has written."))
