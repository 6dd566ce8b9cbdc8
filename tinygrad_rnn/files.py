"""files: named arrays on disk, as `.npz` (NumPy alone) or `.safetensors` (with the library of that name).

Knows how to write a file that is whole or not there, and how to read one that came from anywhere: nothing in it is
executed (no pickles), sizes are checked before memory is asked for, and what does not fit is refused before a model
is touched. Refuses to know what the arrays mean: a module's `load_state_dict` checks names and shapes. Below it:
errors.
"""

import contextlib
import importlib
import io
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from .errors import ArgumentError, MissingExtraError, StateError, message

METADATA = "__metadata__"  # the npz member that holds the metadata as JSON; safetensors has a place of that name
OURS = "tinygrad_rnn"  # our entry in that place, whose entries are texts
BEYOND = ("BF16", "F8_E4M3", "F8_E5M2")  # floats that PyTorch writes into safetensors


def save(path, state, metadata=None):
    """Write a module's state, or a dict of name to array, and what `metadata` says about it.

    The format is that of the name: `.npz` or `.safetensors`. The file is written beside the old one and renamed over
    it: an interrupt or a full disk leaves the old one whole.

    Raises: ArgumentError for another ending, StateError for what cannot be stored (objects, metadata that JSON has no
    form for), MissingExtraError when the safetensors library is not installed.

    Example:
        >>> import os, tempfile
        >>> model = tg.nn.GRU(3, 4, rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.npz")
        ...     tg.files.save(path, model, {"epochs": 5})
        ...     tg.files.load(path, tg.nn.GRU(3, 4, rng=1))
        {'epochs': 5}
    """
    path, who = Path(path), "save(path, state)"
    writer = _format(who, path)[0]
    state = state.state_dict() if hasattr(state, "state_dict") else state
    arrays = {name: np.asarray(value.numpy() if hasattr(value, "numpy") else value) for name, value in state.items()}
    unfit = [name for name, array in arrays.items() if not _is_name(name) or array.dtype.kind not in "biufc"]
    if unfit:
        raise StateError(message(who, f"{unfit[0]!r} cannot be stored", {repr(unfit[0]): arrays[unfit[0]].dtype},
                                 "Pass arrays of numbers, by names that are texts."))
    try:
        text = json.dumps({} if metadata is None else metadata)
    except (TypeError, ValueError) as error:
        raise StateError(message(who, f"the metadata cannot be stored: {error}", {},
                                 "Pass numbers, texts, lists and dicts.")) from error
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    raw = writer(arrays, text)
    try:
        with open(unfinished, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())  # else a crash of the machine may leave the new name with nothing behind it
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


def _is_name(name):
    return isinstance(name, str) and name != METADATA and "\0" not in name and name.isprintable()


def load(path, model, **options):
    """Read a file into a module or an optimiser and return its metadata; it stays as it was unless everything fits.

    `options` go to its `load_state_dict`: `strict` and `cast` for a module.

    Raises: what `read` raises for the file, and what `load_state_dict` raises for names, shapes and dtypes.
    """
    arrays, metadata = read(path)
    model.load_state_dict(arrays, **options)
    return metadata


def read(path, *, max_bytes=1 << 32):
    """Read `(arrays, metadata)` from a file; files of other programs have whatever metadata they have, or {}.

    `max_bytes` bounds the file, and what the arrays may take in memory: a small compressed file may unpack to any size.

    Raises: StateError for a file that is damaged, cut short, of another kind, with two arrays of one name, with pickled
    objects, or larger than `max_bytes`; ArgumentError for another ending; MissingExtraError; OSError when there is no
    such file, or it cannot be read.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "arrays.npz")
        ...     tg.files.save(path, {"w": np.ones(2)})
        ...     tg.files.read(path)
        ({'w': array([1., 1.])}, {})
    """
    path = Path(path)
    reader = _format("read(path)", path)[1]
    size = path.stat().st_size
    if size > max_bytes:
        raise _unusable(path, size, f"it is larger than max_bytes={max_bytes:,}")
    raw = path.read_bytes()
    try:
        return reader(raw, max_bytes)
    except MissingExtraError:
        raise
    except _Refused as error:
        why = str(error)
    except Exception as error:  # foreign bytes make the parsers raise nearly anything, and all of it means the same
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    raise _unusable(path, size, why)


def _unusable(path, size, why):
    return StateError(message(f"read({path.name!r})", "this file cannot be used", {"why": why, "size": f"{size:,} bytes"},
                              "Pass a whole file of this format; nothing was changed."))


class _Refused(Exception):
    """What is wrong with a file, in words."""


def _format(who, path):
    formats = {".npz": (_npz, _read_npz), ".safetensors": (_safetensors, _read_safetensors)}
    if path.suffix not in formats:
        raise ArgumentError(message(who, "the ending of the name says no format",
                                    {"path": path.name, "endings": ", ".join(formats)},
                                    "Name the file *.npz or *.safetensors."))
    return formats[path.suffix]


def _once(names):
    """Refuse two arrays of one name."""
    seen = set()
    for name in names:
        if name in seen:
            raise _Refused(f"two arrays are called {name}")
        seen.add(name)


# ---- npz ----------------------------------------------------------------------------------------------------


def _npz(arrays, text):
    """The bytes that `numpy.savez` would write, but for the time of day: equal states give equal files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in {METADATA: np.frombuffer(text.encode(), np.uint8), **arrays}.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return out.getvalue()


def _read_npz(raw, max_bytes):
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        _once(names)
        headers = [_header(archive, member) for member in members]
        total = sum(math.prod(shape) * dtype.itemsize for shape, _, dtype in headers)
        if total > max_bytes:
            raise _Refused(f"its arrays take {total:,} bytes, more than max_bytes={max_bytes:,}")
        for name, member, (shape, fortran, dtype) in zip(names, members, headers):
            with archive.open(member) as file:
                _skip_header(file)
                data = file.read()
            arrays[name] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()
    metadata = arrays.pop(METADATA, None)
    return arrays, {} if metadata is None else json.loads(metadata.tobytes())


def _skip_header(file):
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # the later ones are for records, and their headers may be of any size
        raise _Refused(f"it has an array of format version {version}")
    return np.lib.format.read_array_header_1_0(file)


def _header(archive, member):
    """Shape, order and dtype of a member, if they say as many bytes as there are."""
    with archive.open(member) as file:
        shape, fortran, dtype = _skip_header(file)
        if dtype.kind not in "biufc":
            raise _Refused(f"{member.filename} holds {'pickled objects' if dtype.hasobject else dtype}, not numbers")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise _Refused(f"{member.filename} does not have the bytes of its shape {shape}")
    return shape, fortran, dtype


# ---- safetensors --------------------------------------------------------------------------------------------


def _library():
    try:
        return importlib.import_module("safetensors.numpy")
    except ImportError as error:
        raise MissingExtraError(message("files", "the safetensors library is not installed", {},
                                        'Run pip install "tinygrad-rnn[files]", or use .npz.')) from error


def _safetensors(arrays, text):
    library = _library()
    unfit = [name for name, array in arrays.items() if array.dtype.kind == "c"]
    if unfit:
        raise StateError(message("save(path, state)", f"safetensors has no form for {unfit[0]}",
                                 {unfit[0]: arrays[unfit[0]].dtype}, "Use .npz."))
    return library.save({name: np.asarray(array, order="C") for name, array in arrays.items()}, {OURS: text})


def _read_safetensors(raw, max_bytes):
    library = _library()
    pairs = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")], object_pairs_hook=list)
    _once(name for name, _ in pairs)
    for name, entry in pairs:
        if name != METADATA and (dtype := dict(entry)["dtype"]) in BEYOND:
            raise _Refused(f"{name} is of {dtype}, which NumPy does not have")
    arrays = library.load(raw)
    entries = dict(dict(pairs).get(METADATA) or [])
    metadata = json.loads(entries[OURS]) if OURS in entries else entries
    return {name: array.copy() for name, array in arrays.items()}, metadata
