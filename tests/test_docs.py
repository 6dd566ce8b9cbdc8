"""The documentation: every public name says what it owes, and every example, command and block of the README runs."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.primitive import Primitive, registry

PACKAGE = pathlib.Path(tg.__file__).parent
README = PACKAGE.parent / "README.md"
PARTS = ["Shapes", "Raises", "Gradient", "Source", "Example"]  # in this order, each where it applies
# Whose functions owe an example. The sources and the training of networks are programs to be read, with examples in
# the README; a class that the library hands back (a report, a record) is shown where it is made.
SHOWN = ("tg", "tg.nn", "tg.nn.functional", "tg.nn.init", "tg.optim", "tg.check", "tg.explain", "tg.trees", "tg.domains", "tg.parallel", "tg.errors")
MADE_BY_HAND = ("tg.nn", "tg.optim")


# ---- public names -------------------------------------------------------------------------------------------


def public_modules():
    """The library, the modules it hands out, and those that these hand out."""
    found, pending = {}, [tg]
    while pending:
        module = pending.pop()
        if module.__name__ not in found:
            found[module.__name__] = module
            pending += [m for name, m in vars(module).items() if inspect.ismodule(m) and not name.startswith("_")
                        and m.__name__.startswith("tinygrad_rnn") and hasattr(module, "__path__") and exported(module, name)]
    return list(found.values())


def exported(module, name):
    """Whether a package's `__init__` names it; submodules that were only imported on the way do not count."""
    text = pathlib.Path(module.__file__).read_text("utf-8")
    return bool(re.search(rf"\b{re.escape(name)} as {re.escape(name)}\b|\"{re.escape(name)}\"", text))


def public_names():
    """{dotted name: object} of the functions, ops and classes that somebody may call."""
    found = {}
    for module in public_modules():
        package = hasattr(module, "__path__")
        for name, thing in vars(module).items():
            here = exported(module, name) or module is tg and name in tg.ops.__all__ if package else getattr(thing, "__module__", "") == module.__name__
            if not name.startswith("_") and callable(thing) and here and getattr(thing, "__module__", "").startswith("tinygrad_rnn"):
                found.setdefault(id(thing), (f"{module.__name__.replace('tinygrad_rnn', 'tg')}.{name}", thing))
    return dict(sorted(found.values()))


PUBLIC = public_names()


def parts_of(doc):
    """The labelled parts of a docstring, in order."""
    return re.findall(rf"^({'|'.join(PARTS)}):", doc, re.MULTILINE)


def owed(thing, module="tg"):
    """The parts that a public name's docstring must have."""
    needs = set()
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return needs
    if isinstance(thing, Primitive):
        needs |= {"Gradient", "Example"}
        if not thing.elementwise or len(thing.arrays) > 1:
            needs.add("Shapes")
        if thing.faults or thing.broadcasts:
            needs.add("Raises")
        return needs
    if inspect.isfunction(thing) and re.search(r"^    (\s*)raise \w+", inspect.getsource(thing), re.MULTILINE):
        needs.add("Raises")
    if module in (MADE_BY_HAND if isinstance(thing, type) else SHOWN):
        needs.add("Example")
    return needs


def faults_of(name, thing):
    """What is wrong with a docstring, as a list of sentences."""
    doc = inspect.getdoc(thing) or ""
    first = doc.split("\n")[0]
    if not first:
        return [f"{name} has no docstring"]
    parts = parts_of(doc)
    wrong = [f"{name} lacks {part}:" for part in sorted(owed(thing, name.rpartition(".")[0]) - set(parts), key=PARTS.index)]
    if parts != sorted(parts, key=PARTS.index):
        wrong.append(f"{name} has its parts in the order {parts}")
    if len(doc.split("\n")) > 1 and doc.split("\n")[1]:
        wrong.append(f"{name}: the first line runs over")
    return wrong


def test_there_are_public_names():
    assert len(PUBLIC) > 120 and {"tg.tanh", "tg.vjp", "tg.scan", "tg.trees.flatten", "tg.errors.ShapeError"} <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    assert faults_of(name, PUBLIC[name]) == []


def test_planted_docstrings_are_found():
    def bare(): ...

    def raising(x):
        """One line.

        Example:
            >>> 1
            1

        Shapes: any.
        """
        raise ValueError(x)

    assert faults_of("tg.bare", bare) == ["tg.bare has no docstring"]
    assert faults_of("tg.raising", raising) == ["tg.raising lacks Raises:", "tg.raising has its parts in the order ['Example', 'Shapes']"]
    assert faults_of("tg.tanh", tg.tanh) == [] and owed(tg.add) == {"Shapes", "Raises", "Gradient", "Example"}


# ---- examples -----------------------------------------------------------------------------------------------


def docstrings():
    """(where, text) of every docstring with an example: of modules, functions, classes and methods, and of ops."""
    for info in [None, *pkgutil.walk_packages([str(PACKAGE)], "tinygrad_rnn.")]:
        name = "tinygrad_rnn" if info is None else info.name
        if name.endswith("__main__"):
            continue
        path = PACKAGE.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
                text = ast.get_docstring(node)
                if text and ">>>" in text:
                    yield f"{name}.{getattr(node, 'name', '')}".rstrip("."), text
    spelled = {"tril", "triu", *(n for n in registry if registry[n].forward.__name__ == n and n in dir(tg))}
    for name in sorted(spelled):
        if ">>>" in registry[name].__doc__:
            yield f"tg.{name}", registry[name].__doc__


EXAMPLES = list(docstrings())


def extras(text):
    """The packages beside NumPy that an example imports."""
    found = re.findall(r"^\s*>>> import ([\w, ]+)$", text, re.MULTILINE)
    return [name for line in found for name in line.split(", ") if name not in sys.stdlib_module_names]


def fails(name, text):
    """What doctest says about the examples of a text; empty when they run."""
    said = []
    test = doctest.DocTestParser().get_doctest(text, {"tg": tg, "np": np, "__name__": "__main__"}, name, name, 0)
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name, text", [pytest.param(*example, id=example[0], marks=[pytest.mark.oracle] if extras(example[1]) else [])
                                        for example in EXAMPLES])
def test_examples_run(name, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    assert fails(name, text) == ""


def test_a_wrong_example_is_found():
    assert "Expected" in fails("wrong", ">>> float(tg.tanh(0.0))\n1.0\n")
    assert extras("    >>> import onnx, os\n    >>> import json\n    ... import no\n") == ["onnx"]


# ---- README -------------------------------------------------------------------------------------------------


def blocks(language, text=None):
    text = README.read_text("utf-8") if text is None else text
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands():
    """Lines of the shell blocks that run the library; what installs or tests it is run elsewhere, on a fresh machine."""
    lines = [line.strip() for block in blocks("(?:sh|bash|console)") for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if "-m tinygrad_rnn" in line and "pip" not in line and "pytest" not in line]


def run_blocks(beyond):
    """The Python blocks in order, in one namespace; those that import packages which need not be there, if asked for."""
    namespace = {"__name__": "readme"}
    for i, block in enumerate(blocks("python")):
        if beyond or not re.search(r"^import (?!numpy|tinygrad_rnn)", block, re.MULTILINE):
            exec(compile(block, f"README.md, Python block {i + 1}", "exec"), namespace)
    return namespace


def test_the_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "theirs" not in run_blocks(beyond=False)


@pytest.mark.oracle
def test_the_blocks_of_the_readme_that_import_pytorch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "theirs" in run_blocks(beyond=True)


def test_the_commands_of_the_readme_run(tmp_path):
    for line in commands():
        words = shlex.split(line, comments=True)
        words[0] = sys.executable
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout[-800:]}{done.stderr[-800:]}"


def test_what_the_readme_names_exists():
    text = README.read_text("utf-8")
    for dotted in sorted(set(re.findall(r"`tg((?:\.\w+)+)", text))):
        thing = tg
        for name in dotted[1:].split("."):
            assert hasattr(thing, name), f"README names tg{dotted}, which does not exist"
            thing = getattr(thing, name)


def test_blocks_are_told_apart():
    text = "```python\nx = 1\n```\n\n```sh\npython -m tinygrad_rnn demo\n```\n"
    assert blocks("python", text) == ["x = 1\n"] and blocks("sh", text) == ["python -m tinygrad_rnn demo\n"]


def test_nothing_speaks_of_where_it_was_made():
    """Code and documents speak of the project alone."""
    words = re.compile(r"\b(?!README)[A-Z]+\.md\b|(?<!\w)/(work|tmp|home|root|Users)/|(?i:\bissue #?\d)|\b(TODO|FIXME)\b")
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi"), README]
    found = [f"{path.name}:{i}: {line.strip()}" for path in files for i, line in enumerate(path.read_text("utf-8").splitlines(), 1) if words.search(line)]
    assert found == []


def test_importing_every_module_has_no_effect_but_names(capsys):
    for info in pkgutil.walk_packages([str(PACKAGE)], "tinygrad_rnn."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    assert capsys.readouterr().out == ""
