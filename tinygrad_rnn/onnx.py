"""onnx: a model handed on as an ONNX graph (through the `onnx` library), which onnxruntime and others run.

Knows how this library's cells are written with ONNX's RNN, LSTM and GRU operators: their gate orders, their biases
and directions. Refuses what those operators cannot say. Below it: nn, errors.

    operator   gates there   what is there of ours            what is not
    RNN        one           tanh, relu, sigmoid, identity
    LSTM       i, o, f, c    peepholes                        a projection (proj_size)
    GRU        z, r, h       reset gate after the product,
                             or before (linear_before_reset)
    none                                                      MGU, IndRNN, layer-norm LSTM, cells of your own, zoneout

And the other way round, what these operators can say and the layers cannot:

    attribute                        of          why not here
    clip                             all         no cell bounds what goes into its activations
    activations                      all         LSTM and GRU have sigmoid and tanh, RNN the four above
    activation_alpha, …_beta         all         no activation here has a parameter
    input_forget                     LSTM        the input gate is not tied to the forget gate

Dropout is not part of the graph, which is that of the model after `eval()`. Lengths are an input if you ask for it; a row
of length 0 keeps its first state here, and gets zeros from onnxruntime.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DomainError, MissingExtraError, message
from .nn import Dropout, Embedding, GRUCell, LayerNorm, Linear, LSTMCell, Recurrent, RNNCell, Sequential
from .ops import relu, sigmoid, tanh
from .tensor import Tensor

OPSET = 17
ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}
FUNCTIONS = {tanh: "Tanh", relu: "Relu", sigmoid: "Sigmoid"}


def export(model, path, *, lengths=False, state=False, dtype: Any = np.float32):
    """Write a model as an ONNX file: a Recurrent (RNN, LSTM, GRU among them), a dense layer, or a Sequential of such.

    Inputs: "input"; with `lengths` also "lengths", (B,) of int32; with `state`, for a model that is one RNN, LSTM or
    GRU, also "h_0" and "c_0". Outputs: "output", and for one Recurrent its state: "h_n", "c_n" as PyTorch's, or
    "h_n_0", … for each cell of a stack whose states cannot be joined.

    Shapes: those of the batched call, with T, B and N left open; a Sequential that begins with Embedding takes int64.
    Weights are rounded to `dtype`: onnxruntime has these operators in float32 only.

    Raises: DomainError for what ONNX cannot say, with the reason; MissingExtraError when the onnx library is not
    installed.

    Source: the ONNX operators RNN, LSTM and GRU, version 14.

    Example:
        >>> import onnx, os, tempfile
        >>> model = tg.nn.Sequential(tg.nn.GRU(3, 8, rng=0, return_state=False), tg.nn.Linear(8, 2, rng=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.onnx")
        ...     tg.onnx.export(model, path)
        ...     [node.op_type for node in onnx.load(path).graph.node]
        ['GRU', 'Squeeze', 'MatMul', 'Add', 'Identity']
    """
    Path(path).write_bytes(convert(model, lengths=lengths, state=state, dtype=dtype).SerializeToString())


def convert(model, *, lengths=False, state=False, dtype: Any = np.float32):
    """The graph that `export` writes, as an `onnx.ModelProto`.

    Raises: as `export`.

    Example:
        >>> import onnx
        >>> model = tg.onnx.convert(tg.nn.LSTM(3, 8, rng=0), lengths=True, state=True)
        >>> [value.name for value in model.graph.input], [value.name for value in model.graph.output]
        (['input', 'lengths', 'h_0', 'c_0'], ['output', 'h_n', 'c_n'])
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise MissingExtraError(message("onnx.convert(model)", "the onnx library is not installed", {},
                                        'Run pip install "tinygrad-rnn[files]".')) from error
    layers = list(_layers(model))
    if not layers:
        raise _cannot(model, "there are no layers")
    model = layers[0] if len(layers) == 1 else model
    graph = _Graph(onnx, np.dtype(dtype), lengths)
    recurrent = [layer for layer in layers if isinstance(layer, Recurrent)]
    if (state and (len(layers) > 1 or not hasattr(model, "weight_ih_l0"))) or (lengths and not recurrent):
        raise _cannot(model, "state needs a model that is one RNN, LSTM or GRU, and lengths one with a recurrent layer")
    axes = (["B", "T"] if recurrent[0].batch_first else ["T", "B"]) if recurrent else ["N"]
    first = layers[0]
    if isinstance(first, Embedding):
        graph.input("input", np.int64, axes)
    else:
        cell = first.cells[0] if isinstance(first, Recurrent) else first
        sizes = [getattr(cell, name) for name in ("input_size", "in_features", "size") if hasattr(cell, name)]
        graph.input("input", graph.dtype, [*axes, *(sizes or ["I"])[:1]])
    if lengths:
        graph.input("lengths", np.int32, ["B"])
    x, ends = "input", []
    for i, layer in enumerate(layers):
        if isinstance(layer, Recurrent):
            x, ends = graph.recurrent(layer, x, state)
            if i < len(layers) - 1 and layer.return_state:
                raise _cannot(model, "a layer in the middle returns its state; make it with return_state=False")
        else:
            x = graph.dense(model, layer, x)
    graph.output("output", x)
    if len(layers) == 1 and recurrent and model.return_state:
        for name, end in graph.states(model, ends):
            graph.output(name, end)
    return graph.model()


def _layers(model):
    if isinstance(model, Sequential):
        for layer in model.layers:
            yield from _layers(layer)
    else:
        yield model


def _cannot(model, why):
    return DomainError(message(f"onnx.convert({type(model).__name__})", "ONNX cannot say this", {"why": why},
                               "Change the model, or hand on its state_dict."))


class _Graph:
    """A graph under construction: nodes that name their inputs, weights, inputs and outputs."""

    def __init__(self, onnx, dtype, lengths):
        self.onnx, self.dtype, self.lengths = onnx, dtype, "lengths" if lengths else ""
        self.nodes, self.weights, self.inputs, self.outputs = [], [], [], []

    def add(self, kind, *inputs, outputs=1, **attributes):
        """A node; returns the name of its output, or names for several."""
        names = [f"{kind.lower()}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, **attributes))
        return names if outputs > 1 else names[0]

    def weight(self, array):
        """A constant; returns its name. Floats are rounded to the graph's dtype."""
        array = np.asarray(array)
        array = np.asarray(array.astype(self.dtype) if array.dtype.kind == "f" else array, order="C")
        self.weights.append(self.onnx.numpy_helper.from_array(array, f"weight_{len(self.weights)}"))
        return self.weights[-1].name

    def _info(self, name, dtype, shape):
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def input(self, name, dtype, shape):
        """Declare an input of the graph; names in the shape stand for any size."""
        self.inputs.append(self._info(name, dtype, shape))

    def output(self, name, value):
        """Declare a value as an output; its shape is inferred."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self._info(name, self.dtype, None))

    def model(self):
        """The finished model, checked."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "model", self.inputs, self.outputs, self.weights)
        model = helper.make_model(graph, producer_name="tinygrad_rnn", opset_imports=[helper.make_opsetid("", OPSET)],
                                  ir_version=8)
        model = self.onnx.shape_inference.infer_shapes(model)
        self.onnx.checker.check_model(model, full_check=True)
        return model

    # ---- layers ---------------------------------------------------------------------------------------------

    def dense(self, model, layer, x):
        """A layer without time, or one of the functions that ONNX has."""
        if isinstance(layer, Dropout):
            return x
        if isinstance(layer, Linear):
            y = self.add("MatMul", x, self.weight(layer.weight.numpy().T))
            return self.add("Add", y, self.weight(layer.bias.numpy())) if isinstance(layer.bias, Tensor) else y
        if isinstance(layer, Embedding):
            return self.add("Gather", self.weight(layer.weight.numpy()), x)
        if isinstance(layer, LayerNorm):
            weight = np.ones(layer.size) if layer.weight is None else layer.weight.numpy()
            bias = [] if layer.bias is None else [self.weight(layer.bias.numpy())]
            return self.add("LayerNormalization", x, self.weight(weight), *bias, epsilon=layer.eps)
        if layer in FUNCTIONS:
            return self.add(FUNCTIONS[layer], x)
        raise _cannot(model, f"there is no operator for {getattr(layer, '__name__', type(layer).__name__)}")

    def recurrent(self, layer, x, state):
        """All cells of a container, one node each: the outputs, and each cell's last state."""
        if layer.zoneout:
            raise _cannot(layer, "zoneout mixes the state at every step")
        starts: list = [() for _ in layer.cells]
        if state:
            starts = list(zip(*[self._start(layer, name, size) for name, size in layer.cells[0].state_sizes.items()]))
        x = self.add("Transpose", x, perm=(1, 0, 2)) if layer.batch_first else x
        ends = []
        for first in range(0, len(layer.cells), layer.directions):
            ys = []
            for i in range(first, first + layer.directions):
                y, *end = self.cell(layer, layer.cells[i], x, i > first, starts[i])
                ys.append(self.add("Squeeze", y, self.weight(np.array([1]))))
                ends.append(end)
            x = ys[0] if len(ys) == 1 else self.add("Concat", *ys, axis=2)
        return self.add("Transpose", x, perm=(1, 0, 2)) if layer.batch_first else x, ends

    def _start(self, layer, name, size):
        """One state's part of every cell, as slices (1, B, H) of an input (L·D, B, H)."""
        count = len(layer.cells)
        self.input(f"{name}_0", self.dtype, [count, "B", size])
        parts = self.add("Split", f"{name}_0", outputs=count, axis=0) if count > 1 else [f"{name}_0"]
        return parts

    def cell(self, model, cell, x, reverse, start):
        """One cell over the sequence: names of Y (T, 1, B, H), Y_h (1, B, H) and, for an LSTM, Y_c."""
        kinds: dict = {RNNCell: ("RNN", (0,), 2), LSTMCell: ("LSTM", (0, 3, 1, 2), 3), GRUCell: ("GRU", (1, 0, 2), 2)}
        if type(cell) not in kinds:
            raise _cannot(model, f"there is no operator for {getattr(cell, '__name__', type(cell).__name__)}")
        kind, order, outputs = kinds[type(cell)]
        options: dict = {"direction": "reverse" if reverse else "forward", "hidden_size": cell.hidden_size}
        peepholes = []
        if kind == "LSTM" and cell.proj_size:
            raise _cannot(model, "the operator LSTM has no projection (proj_size)")
        if kind == "LSTM" and cell.peephole:
            parts = cell.peephole_i, cell.peephole_o, cell.peephole_f
            peepholes = [self.weight(np.concatenate([p.numpy() for p in parts])[None])]
        if kind == "GRU":
            options["linear_before_reset"] = int(cell.reset_after)
        if kind == "RNN":
            options["activations"] = [ACTIVATIONS[cell.nonlinearity]]
            if cell.nonlinearity == "identity":
                options |= {"activation_alpha": [1.0], "activation_beta": [0.0]}

        def gates(p):
            parts = np.split(p.numpy(), len(order))
            return np.concatenate([parts[k] for k in order])

        bias = self.weight(np.concatenate([gates(cell.bias_ih), gates(cell.bias_hh)])[None]) if cell.bias else ""
        inputs = [x, self.weight(gates(cell.weight_ih)[None]), self.weight(gates(cell.weight_hh)[None]), bias,
                  self.lengths]
        states = [*start] if start else [""] * (outputs - 1)
        return self.add(kind, *inputs, *states, *peepholes, outputs=outputs, **options)

    def states(self, model, ends):
        """Names and values of the last states: joined as PyTorch does where all cells are alike, else one by one."""
        parts = ["h_n", "c_n"][:len(ends[0])]
        if hasattr(model, "weight_ih_l0"):
            columns = list(zip(*ends))
            return [(name, column[0] if len(column) == 1 else self.add("Concat", *column, axis=0))
                    for name, column in zip(parts, columns)]
        axes = self.weight(np.array([0]))
        return [(f"{'hc'[k]}_n_{i}", self.add("Squeeze", value, axes))
                for i, end in enumerate(ends) for k, value in enumerate(end)]
