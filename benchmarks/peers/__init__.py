"""Everything that is timed, one file a library. Loads a library only when it is asked for.

A peer is ``prepare(cell, p) -> (run, read)``: ``run()`` is what is timed and gives the library's own result,
``read(result)`` turns that into ``(loss, gradients)`` of plain arrays in this benchmark's layout. ``prepare`` does
what a program does once (moving weights into the library's arrays, compiling). It returns None where the library has
no such thing.
"""

from importlib import import_module

PEERS = {
    "hand": ("by_hand", "prepare", "hand-written NumPy"),
    "floor": ("products", "prepare", "matrix products alone"),
    "ours": ("ours", "prepare_compiled", "tinygrad_rnn compiled"),
    "ours-scan": ("ours", "prepare_scan", "tinygrad_rnn scan"),
    "ours-loop": ("ours", "prepare_loop", "tinygrad_rnn loop"),
    "generated": ("ours", "prepare_generated", "its generated code"),
    "torch": ("pytorch", "prepare_fused", "PyTorch fused"),
    "torch-loop": ("pytorch", "prepare_loop", "PyTorch loop"),
    "jax": ("jax_scan", "prepare", "JAX jit scan"),
    "pytensor": ("pytensor_scan", "prepare", "PyTensor scan"),
    "autograd": ("hips_autograd", "prepare", "autograd"),
    "mygrad": ("mygrad_tape", "prepare", "MyGrad"),
    "mygrad-unguarded": ("mygrad_tape", "prepare_unguarded", "MyGrad unguarded"),
}


def title(key):
    return PEERS[key][2]


def load(key):
    """The peer's ``prepare``. ModuleNotFoundError when its library is not installed."""
    module, function, _ = PEERS[key]
    return getattr(import_module(f"peers.{module}"), function)


def load_all(keys):
    """({key: prepare} of the libraries that are installed, a sentence for each of the others)."""
    loaded, missing = {}, []
    for key in dict.fromkeys(keys):
        try:
            loaded[key] = load(key)
        except ModuleNotFoundError as error:
            missing.append(f"{title(key)}: not installed ({error.name}).")
    return loaded, missing
