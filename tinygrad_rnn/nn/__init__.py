"""nn: modules, cells, recurrent containers, dense layers, losses and initialisers.

Knows nothing itself, it gathers the names. Every gradient of everything here comes from the ops' rules. Below it:
scan, gradients, ops, tensor, trees.
"""

from . import functional as functional
from . import init as init
from .cell import Cell as Cell
from .cells import GRUCell as GRUCell
from .cells import LSTMCell as LSTMCell
from .cells import RNNCell as RNNCell
from .dense import Dropout as Dropout
from .dense import Embedding as Embedding
from .dense import LayerNorm as LayerNorm
from .dense import Linear as Linear
from .dense import Sequential as Sequential
from .module import Module as Module
from .recurrent import Recurrent as Recurrent
from .stacks import GRU as GRU
from .stacks import LSTM as LSTM
from .stacks import RNN as RNN
from .variants import IndRNNCell as IndRNNCell
from .variants import LayerNormLSTMCell as LayerNormLSTMCell
from .variants import MGUCell as MGUCell
