"""optim: optimisers, learning-rate schedules, gradient clipping.

Knows nothing itself, it gathers the names. Below it: tensor, errors.
"""

from .clipping import clip_grad_norm_ as clip_grad_norm_
from .clipping import clip_grad_value_ as clip_grad_value_
from .clipping import named as named
from .descent import SGD as SGD
from .descent import Adagrad as Adagrad
from .descent import Adam as Adam
from .descent import AdamW as AdamW
from .descent import RMSProp as RMSProp
from .descent import RMSprop as RMSprop
from .optimizer import Optimizer as Optimizer
from .schedules import CosineAnnealingLR as CosineAnnealingLR
from .schedules import ExponentialLR as ExponentialLR
from .schedules import LambdaLR as LambdaLR
from .schedules import LinearLR as LinearLR
from .schedules import MultiStepLR as MultiStepLR
from .schedules import Schedule as Schedule
from .schedules import StepLR as StepLR
