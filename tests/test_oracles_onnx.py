"""The layers against ONNX: the operators' own test vectors, and exported models run by onnxruntime."""

import importlib

import numpy as np
import pytest

import tinygrad_rnn as tg

pytestmark = pytest.mark.oracle

# ---- the operators' vectors ---------------------------------------------------------------------------------

EXPRESSED = {"hidden_size", "direction", "layout", "linear_before_reset"}  # the other attributes stand in a table of tg.onnx
GATES = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  # where the operator keeps our gates: i o f c, z r h


def vectors():
    """(node, inputs, outputs, name) of every test of the three operators in the onnx package."""
    found = []
    for operator in GATES:
        module = importlib.import_module(f"onnx.backend.test.case.node.{operator.lower()}")
        original = module.expect
        module.expect = lambda node, inputs, outputs, name, **_: found.append((node, inputs, outputs, name))
        try:
            cases = getattr(module, operator)
            for name in sorted(dir(cases)):
                if name.startswith("export"):
                    getattr(cases, name)()
        finally:
            module.expect = original
    return found


def as_layer(node, named, gates=GATES):
    """Our container with the node's weights, and how it is to be called."""
    from onnx.helper import get_attribute_value

    options = {a.name: get_attribute_value(a) for a in node.attribute}
    assert options.keys() <= EXPRESSED, options.keys() - EXPRESSED
    kind, H, layout = node.op_type, options["hidden_size"], options.get("layout", 0)
    direction = options.get("direction", b"forward").decode()
    make = {"RNN": lambda I: tg.nn.RNNCell(I, H, dtype=np.float32), "LSTM": lambda I: tg.nn.LSTMCell(I, H, peephole="P" in named, dtype=np.float32),
            "GRU": lambda I: tg.nn.GRUCell(I, H, reset_after=bool(options.get("linear_before_reset", 0)), dtype=np.float32)}[kind]

    def ours(w):
        parts = np.split(w, len(gates[kind]))
        return np.concatenate([parts[k] for k in gates[kind]])

    cells = []
    for d in range(len(named["W"])):
        cell = make(named["X"].shape[-1])
        biases = np.split(named["B"][d], 2) if "B" in named else [np.zeros(len(named["W"][d]), np.float32)] * 2
        state = dict(weight_ih=ours(named["W"][d]), weight_hh=ours(named["R"][d]), bias_ih=ours(biases[0]), bias_hh=ours(biases[1]))
        if "P" in named:
            state |= dict(zip(("peephole_i", "peephole_o", "peephole_f"), np.split(named["P"][d], 3)))
        cell.load_state_dict(state)
        cells.append(cell)
    if direction == "reverse":  # the container's second direction, behind a cell of no weight
        cells.insert(0, make(named["X"].shape[-1]))
    layer = tg.nn.Recurrent(cells, bidirectional=len(cells) == 2, batch_first=layout == 1)
    starts = [named[name].swapaxes(0, 1) if layout else named[name] for name in ("initial_h", "initial_c") if name in named]
    states = [tuple(s[d] for s in starts) if kind == "LSTM" else starts[0][d] for d in range(len(cells))] if starts else None
    return layer, states, named.get("sequence_lens"), direction, layout, H


def run(node, inputs, gates=GATES):
    """Our outputs by the operator's names and in its shapes."""
    named = {name: value for name, value in zip([n for n in node.input if n], inputs)}
    layer, states, lengths, direction, layout, H = as_layer(node, named, gates)
    ys, ends = layer(named["X"], states, lengths=lengths)
    ends = [end if isinstance(end, tuple) else (end,) for end in ends][-len(named["W"]):]
    y = np.stack(np.split(ys.numpy(), ys.shape[-1] // H, -1)[-len(named["W"]):], 2 if layout else 1)
    columns = [np.stack([part.numpy() for part in column], 1 if layout else 0) for column in zip(*ends)]
    return dict(zip(("Y", "Y_h", "Y_c"), (y, *columns)))


def test_all_vectors_of_the_operators():
    checked = {}
    for node, inputs, outputs, name in vectors():
        got = run(node, inputs)
        for output, expected in zip([n for n in node.output if n], outputs):
            np.testing.assert_allclose(got[output], expected, rtol=1e-3, atol=1e-6, err_msg=f"{name} {output}")
        checked[node.op_type] = checked.get(node.op_type, 0) + 1
    assert checked.get("RNN", 0) >= 6 and checked.get("LSTM", 0) >= 6 and checked.get("GRU", 0) >= 6, checked


def test_the_table_of_what_the_layers_cannot_say_is_whole():
    import onnx

    table = tg.onnx.__doc__.replace("…_beta", "activation_beta").split("cannot:")[1]
    attributes = {name for operator in GATES for name in onnx.defs.get_schema(operator).attributes} - EXPRESSED - {"output_sequence"}
    assert attributes == {"clip", "activations", "activation_alpha", "activation_beta", "input_forget"}
    assert all(name in table for name in attributes)


def test_another_gate_order_fails_the_vectors():
    """The vectors' weights are constants, which no order of gates changes; where the weights are drawn, it does."""
    wrong = {"RNN": (0,), "LSTM": (0, 1, 2, 3), "GRU": (0, 1, 2)}
    rng = np.random.default_rng(0)
    for node, inputs, _, name in vectors():
        if node.op_type != "RNN":
            drawn = [rng.normal(size=a.shape).astype(np.float32) if a.dtype.kind == "f" else a for a in inputs]
            assert not np.allclose(run(node, drawn)["Y_h"], run(node, drawn, wrong)["Y_h"], rtol=1e-3), name


# ---- exported models ----------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path):
    import onnxruntime

    def start(model, **options):
        path = tmp_path / "model.onnx"
        tg.onnx.export(model, path, **options)
        quiet = onnxruntime.SessionOptions()
        quiet.intra_op_num_threads = quiet.inter_op_num_threads = 1
        quiet.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])

    return start


def agree(session, expected, **inputs):
    names = [output.name for output in session.get_outputs()]
    assert names == list(expected)
    for name, got in zip(names, session.run(None, inputs)):
        want = expected[name].numpy() if isinstance(expected[name], tg.Tensor) else expected[name]
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)


KINDS = [("RNN", dict()), ("RNN", dict(nonlinearity="relu")), ("RNN", dict(nonlinearity="sigmoid")), ("RNN", dict(nonlinearity="identity")),
         ("LSTM", dict()), ("GRU", dict())]


@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.parametrize("layers, bidirectional, batch_first, bias", [
    (1, False, False, True), (2, True, True, True), (3, True, False, False), (2, False, True, False)])
def test_exported_layers(session, kind, options, layers, bidirectional, batch_first, bias):
    """Output and states, with and without a first state and lengths; other batch and sequence sizes in the same session."""
    model = getattr(tg.nn, kind)(3, 4, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias, rng=0, dtype=np.float32, **options)
    rng, D, both = np.random.default_rng(0), 1 + bidirectional, kind == "LSTM"
    plain, full = session(model), session(model, lengths=True, state=True)

    def named(output, last):
        return {"output": output, **dict(zip(("h_n", "c_n"), last if both else (last,)))}

    for T, B in ((5, 2), (1, 3), (7, 1)):
        x = rng.normal(size=(B, T, 3) if batch_first else (T, B, 3)).astype(np.float32)
        states = [rng.normal(size=(layers * D, B, 4)).astype(np.float32) for _ in range(1 + both)]
        lengths = rng.integers(1, T + 1, B).astype(np.int32)
        agree(plain, named(*model(x)), input=x)
        agree(full, named(*model(x, tuple(states) if both else states[0], lengths=lengths)), input=x, lengths=lengths, **dict(zip(("h_0", "c_0"), states)))


def test_exported_stacks_of_cells(session):
    f = dict(rng=np.random.default_rng(0), dtype=np.float32)
    model = tg.nn.Recurrent([tg.nn.GRUCell(3, 4, reset_after=False, **f), tg.nn.RNNCell(3, 2, **f), tg.nn.LSTMCell(6, 5, peephole=True, forget_bias=1.0, **f),
                             tg.nn.GRUCell(6, 5, **f)], bidirectional=True)
    x = np.random.default_rng(1).normal(size=(6, 2, 3)).astype(np.float32)
    y, (a, b, (h, c), d) = model(x)
    agree(session(model), {"output": y, "h_n_0": a, "h_n_1": b, "h_n_2": h, "c_n_2": c, "h_n_3": d}, input=x)


def test_exported_models(session):
    f = dict(rng=np.random.default_rng(0), dtype=np.float32)
    model = tg.nn.Sequential(tg.nn.Embedding(7, 3, **f), tg.nn.LSTM(3, 4, batch_first=True, return_state=False, **f), tg.nn.LayerNorm(4, dtype=np.float32),
                             tg.nn.Dropout(0.5), tg.nn.Linear(4, 5, **f), tg.tanh, tg.nn.Linear(5, 2, bias=False, **f)).eval()
    x = np.random.default_rng(1).integers(0, 7, (3, 6))
    agree(session(model), {"output": model(x)}, input=x)
    dense = tg.nn.Sequential(tg.nn.Linear(3, 4, **f), tg.relu, tg.nn.LayerNorm(4, bias=False, dtype=np.float32), tg.nn.Linear(4, 2, **f), tg.sigmoid)
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    agree(session(dense), {"output": dense(x)}, input=x)
    nested = tg.nn.Sequential(tg.nn.Sequential(dense[0], dense[1]), tg.nn.Sequential(*dense.layers[2:]))
    agree(session(nested), {"output": dense(x)}, input=x)
    alone = tg.nn.LSTM(3, 4, **f)
    y, (h, c) = alone(x[:, None])
    agree(session(tg.nn.Sequential(alone)), {"output": y, "h_n": h, "c_n": c}, input=x[:, None])
    wide = tg.nn.GRU(3, 4, rng=0, return_state=False)  # float64 weights are rounded on the way out
    agree(session(wide), {"output": wide(x[:, None].astype(float)).numpy().astype(np.float32)}, input=x[:, None])


def test_a_wrong_export_is_found(session, monkeypatch):
    """Biases of the two products exchanged: only a GRU whose reset gate acts after the product can tell."""
    model = tg.nn.GRU(3, 4, rng=0, dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    output, h = model(x)
    cell = model.cells[0]
    cell.bias_ih, cell.bias_hh = cell.bias_hh, cell.bias_ih
    with pytest.raises(AssertionError):
        agree(session(model), {"output": output, "h_n": h}, input=x)


class Own(tg.nn.Cell):
    pass


@pytest.mark.parametrize("model, why", [
    (lambda: tg.nn.LSTM(3, 4, proj_size=2), "the operator LSTM has no projection (proj_size)"),
    (lambda: tg.nn.Recurrent(tg.nn.MGUCell(3, 4)), "there is no operator for MGUCell"),
    (lambda: tg.nn.Recurrent(tg.nn.IndRNNCell(3, 4)), "there is no operator for IndRNNCell"),
    (lambda: tg.nn.Recurrent(tg.nn.LayerNormLSTMCell(3, 4)), "there is no operator for LayerNormLSTMCell"),
    (lambda: tg.nn.Recurrent(Own(3, 4)), "there is no operator for Own"),
    (lambda: tg.nn.Recurrent(tg.nn.GRUCell(3, 4), zoneout=0.1), "zoneout mixes the state at every step"),
    (lambda: tg.nn.Sequential(tg.nn.Sequential()), "there are no layers"),
    (lambda: tg.nn.Sequential(tg.nn.Linear(3, 4), tg.exp), "there is no operator for exp"),
    (lambda: tg.nn.Sequential(tg.nn.GRU(3, 4), tg.nn.Linear(4, 2)), "a layer in the middle returns its state; make it with return_state=False")])
def test_what_onnx_cannot_say(tmp_path, model, why):
    model = model()
    with pytest.raises(tg.errors.DomainError) as found:
        tg.onnx.export(model, tmp_path / "model.onnx")
    assert str(found.value).splitlines()[1:] == [f"  why  {why}", "Change the model, or hand on its state_dict."]
    assert not (tmp_path / "model.onnx").exists()
    for options in (dict(state=True), dict(lengths=True)):
        with pytest.raises(tg.errors.DomainError, match="state needs a model"):
            tg.onnx.convert(tg.nn.Linear(3, 2), **options)
