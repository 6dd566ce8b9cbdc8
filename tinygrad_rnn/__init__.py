"""tinygrad_rnn: a small reverse-mode autodiff engine on NumPy for recurrent networks. The public names; computes nothing."""

from . import check as check
from . import domains as domains
from . import errors as errors
from . import exercises as exercises
from . import explain as explain
from . import files as files
from . import nn as nn
from . import onnx as onnx
from . import ops as ops
from . import optim as optim
from . import parallel as parallel
from . import sources as sources
from . import training as training
from . import trees as trees
from .compiled import compiled as compiled
from .gradients import checkpoint as checkpoint
from .gradients import grad as grad
from .gradients import hessian as hessian
from .gradients import hvp as hvp
from .gradients import jacobian as jacobian
from .gradients import jvp as jvp
from .gradients import value_and_grad as value_and_grad
from .gradients import vjp as vjp
from .ops import *  # noqa: F403  (every op is public under its own name)
from .primitive import composite as composite
from .primitive import primitive as primitive
from .scan import scan as scan
from .tensor import Tensor as Tensor
from .tensor import no_grad as no_grad
from .tensor import tensor as tensor
