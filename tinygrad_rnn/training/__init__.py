"""A recurrent network trained on a text or on a column of numbers, from the file to the forecast.

Knows six things, one file each: `corpus` reads a file and cuts it into streams; `network` is the model; `run` trains
it, so that a run which is cut off anywhere and resumed ends in the same bits; `snapshot` keeps a run on disk; `report`
says how it does; `loop` goes on until it is told to stop. Refuses to know the command line and how a gradient is found. Below it: nn, optim, scan, gradients.
"""

from . import corpus as corpus
from . import report as report
from . import snapshot as snapshot
from .loop import train as train
from .network import Network as Network
from .run import Run as Run
from .run import Settings as Settings
from .run import load as load
