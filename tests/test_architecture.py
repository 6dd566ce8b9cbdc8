"""The floors of the package: imports point downward only, and what that keeps small."""

import ast
import importlib
import pathlib
import pkgutil
import sys

import pytest

import tinygrad_rnn

ROOT = pathlib.Path(tinygrad_rnn.__file__).parent
CORE = {"errors", "trees", "domains", "tensor", "primitive", "ops", "walk", "gradients"}  # what a reader reads first

# a module, or a package as a whole, may import what stands on a lower floor
FLOORS = {
    "errors": 0, "domains": 0, "progress": 0, "workspace": 0,
    "trees": 1, "files": 1, "userfile": 1,
    "tensor": 2,
    "primitive": 3,
    "ops": 4,
    "walk": 5, "program": 5,
    "gradients": 6, "following": 6, "spelling": 6, "forms": 6, "rows": 7, "gates": 7, "rewrite": 8, "means": 6, "joins": 6, "quotients": 6,
    "schedule": 7, "buffers": 7, "writing": 7, "lending": 8, "blocks": 8,
    "steps": 9,
    "emit": 10,
    "loops": 11, "straight": 11,
    "derive": 12,
    "scan": 13, "compiled": 13,
    "nn": 14, "optim": 14, "check": 14, "explain": 14, "sources": 14, "parallel": 14,
    "training": 15, "onnx": 15,
    "laboratory": 16, "demo": 16, "exercises": 16,
    "cli": 17,
    "__main__": 18,
}
OUTSIDE = {  # packages besides NumPy and the standard library, imported only when they are asked for
    "matplotlib": {"explain", "training", "demo", "sources", "check", "laboratory", "cli"}, "tqdm": {"progress"}, "safetensors": {"files"},
    "onnx": {"onnx"}, "onnxruntime": {"onnx"},
}


def modules():
    return sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(name):
    return name.split(".")[0]


def imports(path, text=None):
    """(module, line, inside a function) for every import of a file; the library's own modules begin with a dot."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text("utf-8") if text is None else text)
    within = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in within
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module, node.lineno, id(node) in within
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1]
            for alias in node.names:
                target = [*base, *(node.module or "").split("."), alias.name]
                target = [part for part in target if part]
                while target and not (ROOT.joinpath(*target).with_suffix(".py").exists() or ROOT.joinpath(*target, "__init__.py").exists()):
                    target.pop()
                yield "." + ".".join(target), node.lineno, id(node) in within


def violations(path, text=None):
    """Imports that do not point downward, and foreign packages where they do not belong."""
    me, found = name_of(path), []
    for target, line, inside in imports(path, text):
        where = f"{path.relative_to(ROOT)}:{line}"
        if target.startswith("."):
            other = unit(target[1:])
            if other == "" and me != "":
                found.append(f"{where} imports the package itself")
            elif me and other != unit(me) and FLOORS[other] >= FLOORS[unit(me)]:
                found.append(f"{where} {unit(me)} (floor {FLOORS[unit(me)]}) imports {other} (floor {FLOORS[other]})")
        elif (top := target.split(".")[0]) not in sys.stdlib_module_names and top != "numpy":
            if unit(me) not in OUTSIDE.get(top, ()):
                found.append(f"{where} imports {top}")
            elif not inside:
                found.append(f"{where} imports {top} although nobody asked for it yet")
    return found


def test_every_unit_has_a_floor():
    assert {unit(name_of(path)) for path in modules()} - {""} <= set(FLOORS)


def test_imports_point_downward():
    assert [v for path in modules() for v in violations(path)] == []


@pytest.mark.parametrize("where, text, fault", [
    ("walk.py", "from .gradients import vjp", "walk (floor 5) imports gradients (floor 6)"),
    ("program.py", "from .walk import walk", "program (floor 5) imports walk (floor 5)"),
    ("nn/cells.py", "from ..check import gradcheck", "nn (floor 14) imports check (floor 14)"),
    ("tensor.py", "def f():\n    from .ops.shape import stack", "tensor (floor 2) imports ops (floor 4)"),
    ("trees.py", "import tqdm", "imports tqdm"),
    ("explain/trace.py", "import matplotlib.pyplot", "imports matplotlib although nobody asked for it yet"),
    ("tensor.py", "from . import Tensor", "imports the package itself"),
])
def test_planted_imports_are_found(where, text, fault):
    (found,) = violations(ROOT / where, text)
    assert fault in found


def graph():
    edges = {name_of(path): set() for path in modules()}
    for path in modules():
        for target, _, _ in imports(path):
            if target.startswith(".") and target[1:] != name_of(path):
                edges[name_of(path)].add(target[1:])
    return edges


def cycle(edges):
    """One circle of imports, or None."""
    state = {}

    def visit(node, trail):
        state[node] = "open"
        for other in sorted(edges.get(node, ())):
            if state.get(other) == "open":
                return [*trail[trail.index(other):], other] if other in trail else [node, other]
            if other not in state and (found := visit(other, [*trail, other])):
                return found
        state[node] = "done"
        return None

    return next((found for node in sorted(edges) if node not in state and (found := visit(node, [node]))), None)


def test_no_cycles():
    edges = {name: {e for e in others if not name.startswith(e + ".")} for name, others in graph().items()}  # a package sees its modules
    assert cycle(edges) is None
    edges["tensor"] = edges["tensor"] | {"walk"}
    assert cycle(edges) is not None


def test_the_package_computes_nothing():
    tree = ast.parse((ROOT / "__init__.py").read_text("utf-8"))
    rest = [node for node in tree.body[1:] if not isinstance(node, ast.ImportFrom)]
    assert [ast.unparse(node) for node in rest if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("__"))] == []


def test_no_file_is_a_junk_drawer():
    assert [str(p) for p in modules() if p.stem in ("utils", "util", "misc", "common", "helpers", "helper", "base", "tools")] == []


def code_lines(path):
    """Lines that are neither blank, nor comment, nor docstring."""
    text = path.read_text("utf-8")
    prose = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(bool(line.strip()) and not line.strip().startswith("#") and i not in prose for i, line in enumerate(text.splitlines(), 1))


def test_the_core_is_read_in_one_sitting():
    sizes = {str(path.relative_to(ROOT)): code_lines(path) for path in modules() if unit(name_of(path)) in CORE}
    assert sum(sizes.values()) <= 2_100, sizes
    assert max(sizes.values()) <= 300, sizes


def test_importing_the_library_brings_in_numpy_alone():
    import subprocess
    code = ("import sys, tinygrad_rnn; tops = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names);"
            "print(sorted(t for t in tops if not t.startswith('_')))")
    out = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(out.stdout)) <= {"numpy", "tinygrad_rnn", "sitecustomize", "usercustomize"}


# ---- the stub -----------------------------------------------------------------------------------------------


def stubbed(name):
    tree = ast.parse((ROOT / "tensor.pyi").read_text("utf-8"))
    body = tree.body if name is None else next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    named = [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return set(named + [n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)])


def test_the_stub_knows_every_method_that_ops_bind():
    real = {name for name in vars(tinygrad_rnn.Tensor) if name not in ("__doc__", "__module__", "__slots__", "__weakref__", "__repr__")}
    assert stubbed("Tensor") - {"__repr__"} == real


def test_the_stub_knows_the_module():
    module = importlib.import_module("tinygrad_rnn.tensor")
    tree = ast.parse((ROOT / "tensor.py").read_text("utf-8"))
    own = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))} | {"mode"}
    assert {n for n in own if not n.startswith("_")} <= stubbed(None) and all(hasattr(module, n) for n in own)


def test_methods_are_ops_under_their_own_documentation():
    for name in ("tanh", "sum", "softmax", "__add__", "__matmul__", "split"):
        assert getattr(tinygrad_rnn.Tensor, name).__doc__


def test_every_module_says_what_it_knows_and_refuses_to_know():
    short = []
    for info in pkgutil.walk_packages([str(ROOT)], "tinygrad_rnn."):
        if not info.name.endswith("__main__"):
            doc = importlib.import_module(info.name).__doc__ or ""
            lacking = [word for word in ("Knows", "Refuses", "Below it") if word.lower() not in doc.lower()]
            if lacking and not (ROOT / pathlib.Path(*info.name.split(".")[1:]) / "__init__.py").exists():
                short.append((info.name, lacking))
    assert short == []
