"""What is learned from: a text as a sequence of characters, or a column of a table as a sequence of numbers.

Knows how to read them, how to part what is trained on from what is only measured (the end of the sequence, never
a random part of it: what comes later is what must be predicted), and how to cut a sequence into streams that run
side by side. Refuses to know models. Below it: errors.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DomainError, message

HELD_OUT = 0.1  # the share of a sequence, at its end, that is never trained on


@dataclass(frozen=True)
class Text:
    """A text as the numbers of its characters in `symbols`, the sorted characters that occur in it."""

    name: str
    symbols: str
    values: np.ndarray

    kind = "text"
    units = "characters"

    def header(self):
        """All but the values, as JSON can hold it."""
        return {"kind": self.kind, "name": self.name, "symbols": self.symbols}


@dataclass(frozen=True)
class Series:
    """A column of numbers, shifted and scaled so that the part to be trained on has mean 0 and deviation 1."""

    name: str
    column: str
    mean: float
    deviation: float
    values: np.ndarray

    kind = "series"
    units = "numbers"

    def header(self):
        """All but the values, as JSON can hold it."""
        return {"kind": self.kind, "name": self.name, "column": self.column, "mean": self.mean, "deviation": self.deviation}


def from_header(header, values):
    """A corpus from what `header()` gave and from values, all of them or only the last ones."""
    kinds = {"text": Text, "series": Series}
    return kinds[header["kind"]](**{name: entry for name, entry in header.items() if name != "kind"}, values=values)


def digest(corpus):
    """A checksum by which a resumed run knows its data again: of the values and what they mean, not of the file's name."""
    meaning = repr({name: entry for name, entry in corpus.header().items() if name != "name"})
    return hashlib.sha256(meaning.encode() + corpus.values.tobytes()).hexdigest()


def text(content, name="text"):
    """A string as a Text.

    Raises: DomainError when it is empty.

    Example:
        >>> tg.training.corpus.text("abba").values
        array([0, 1, 1, 0])
    """
    if not content:
        raise DomainError(message(f"train {name}", "the file is empty", {}, "Pass a text of some thousand characters."))
    codes = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    symbols, values = np.unique(codes, return_inverse=True)
    return Text(name, "".join(map(chr, symbols)), values.astype(np.int64))


def read_text(path):
    """A UTF-8 file as a Text.

    Raises: DomainError when it is empty or not UTF-8, naming the byte; OSError when it cannot be read.
    """
    raw = Path(path).read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DomainError(message(f"train {path}", f"the file is not UTF-8 text: byte {error.start} is 0x{raw[error.start]:02x}", {},
                                  "Save it as UTF-8, or pass another file.")) from error
    return text(content.replace("\r\n", "\n"), str(path))


def topics():
    """The text of Python's own help topics, about 450,000 characters, which every CPython brings along."""
    from pydoc_data.topics import topics

    return text("\n\n".join(topics[name] for name in sorted(topics)), "pydoc_data.topics")


def read_series(path, column):
    """A column of a CSV file with a header line as a Series. Commas, semicolons or tabs part the columns: what the header has most of.

    Raises: DomainError for an empty file, a column that is not there or there twice, or an entry that is no finite
    number, naming its line; OSError when the file cannot be read.
    """
    who, values = f"train {path}", []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t", key=first.count))
            header = [name.strip() for name in next(rows, [])]
            if not header:
                raise DomainError(message(who, "the file is empty", {}, "Pass a CSV file with a header line."))
            if header.count(column) != 1:
                what = f"there are {header.count(column)} columns" if column in header else "there is no column"
                remedy = "Give each a name of its own." if column in header else "Pass one of these to --csv."
                raise DomainError(message(who, f"{what} {column!r}", {"columns": ", ".join(header)}, remedy))
            place = header.index(column)
            for row in rows:
                if row:
                    values.append(_number(row[place] if place < len(row) else "", who, column, rows.line_num))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DomainError(message(who, f"the file is not CSV in UTF-8: {error}", {}, "Save it as CSV in UTF-8.")) from error
    if not values:
        raise DomainError(message(who, f"column {column!r} has no entries", {}, "Pass a column of some hundred numbers."))
    return series(np.array(values), str(path), column)


def _number(entry, who, column, line):
    try:
        value = float(entry)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise DomainError(message(who, f"column {column!r} holds {entry!r} in line {line}, which is no finite number", {},
                                  "Fill the gap, write a decimal point, or leave the line out."))
    return value


def series(values, name="series", column="y"):
    """An array of numbers as a Series; its scale is that of the part to be trained on.

    Raises: DomainError for numbers so large that their deviation overflows.

    Example:
        >>> tg.training.corpus.series(np.array([1.0, 3.0, 7.0, 9.0])).values
        array([-1.,  1.,  5.,  7.])
    """
    seen = values[: max(1, held_out_from(len(values)))]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(seen.mean()), float(seen.std()) or 1.0
    if not np.isfinite(deviation):
        raise DomainError(message(f"train {name}", f"the numbers of column {column!r} are too large to be scaled",
                                  {"largest": f"{np.abs(values).max():.3g}"}, "Write them in another unit."))
    return Series(name, column, mean, deviation, (values - mean) / deviation)


# ---- cutting ------------------------------------------------------------------------------------------------


def held_out_from(count):
    """Where the part begins that is only measured: it keeps a tenth, and at least two values."""
    return max(0, min(round(count * (1 - HELD_OUT)), count - 2))


def parted(corpus, steps):
    """Where the part begins that is only measured.

    Raises: DomainError when what is before it is shorter than one chunk of `steps` and its targets.
    """
    start = held_out_from(len(corpus.values))
    if start <= steps:
        facts = {f"{corpus.units} to train on": start, "needed": steps + 1}
        raise DomainError(message(f"train {corpus.name}", f"a chunk of {steps} steps is longer than the {corpus.kind}", facts,
                                  f"Pass a longer {corpus.kind}" + (f", or --tbptt {start - 1} or less." if start > 1 else ".")))
    return start


def streams(values, count):
    """Cut a sequence into `count` equal streams side by side; up to count − 1 values at the end are left out.

    Shapes: (n,) -> (n // count, count): time first, and each column goes on where the one before it ended.

    Example:
        >>> tg.training.corpus.streams(np.arange(7), 2)
        array([[0, 3],
               [1, 4],
               [2, 5]])
    """
    length = len(values) // count
    return np.ascontiguousarray(values[: length * count].reshape(count, length).T)


def measured(values, start, count, lead):
    """Cut what comes from `start` on into streams that each begin `lead` values early.

    So the state has warmed up when the first of a stream's own values must be predicted.

    Shapes: (n,) -> (lead + (n − start) // count, count).

    Example:
        >>> tg.training.corpus.measured(np.arange(10), 6, 2, 3).T
        array([[3, 4, 5, 6, 7],
               [5, 6, 7, 8, 9]])
    """
    length = (len(values) - start) // count
    return values[start - lead + length * np.arange(count) + np.arange(lead + length)[:, None]]


def chunks(stream, steps):
    """The chunks of a set of streams in order, each with its targets, the same one step later.

    Shapes: (n, B) -> pairs of (steps, B); the last one may be shorter.

    Example:
        >>> [(x[:, 0].tolist(), y[:, 0].tolist()) for x, y in tg.training.corpus.chunks(np.arange(4)[:, None], 2)]
        [([0, 1], [1, 2]), ([2], [3])]
    """
    last = len(stream) - 1
    return [(stream[t : min(t + steps, last)], stream[t + 1 : min(t + steps, last) + 1]) for t in range(0, last, steps)]
