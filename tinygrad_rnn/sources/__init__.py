"""Five recurrent networks that were published as NumPy notebooks "from scratch", one page each.

Knows five models: the equations, a loss made of the engine's ops, a backpropagation through time (BPTT)
derived by hand in plain NumPy that shares nothing with the engine, the mistakes of the published
derivations, the data and the recipe. Refuses to know how gradients are found: the loss asks `scan` and the
ops, the hand derivation asks nobody. Below it stand the ops, `scan` and `gradients`; nothing stands on it but
the command line.

Read them in this order; each adds one difficulty:

    sine_wave      matrices and one error at the last step, and three meanings of "truncated after five steps"
    counting       two scalars and three steps: all of BPTT on one line, and a cost that broadcasts
    elman          an output at every step: the error enters everywhere, and an index is off by one
    classifier     batch first, rows for columns: the transposes move, and one is forgotten
    step_by_step   softmax at every step: the backward pass as a function of any upstream gradient

Every page has the same words on it. `init(seed, ...)` draws the parameters, a dict with the source's own
names. `loss(params, *data)` is the model in ops. `bptt(params, *data) -> (loss, grads)` is the right
derivation by hand, with the gradients of the inputs under "x" and of the initial state under its own name.
`bptt_as_written` is what the source does instead. `ERRATA` says which gradients that spoils, by how much and
where. `example(seed)` draws a point that hides nothing: asymmetric weights, biases and an initial state that
are not zero, and sizes that all differ. `train(...)` is the recipe: it yields a `Progress` for every epoch.
(`counting` is two models: its names end in `_linear` and `_logistic`.)
"""

from . import classifier as classifier
from . import counting as counting
from . import elman as elman
from . import sine_wave as sine_wave
from . import step_by_step as step_by_step
from .record import Erratum as Erratum
from .record import Progress as Progress
