"""explain: looking inside a computation. This file only gathers the names."""

from . import pictures as pictures
from .anomaly import anomaly as anomaly
from .equations import equations as equations
from .graph import Graph as Graph
from .graph import graph as graph
from .ledger import Flow as Flow
from .ledger import Ledger as Ledger
from .ledger import ledger as ledger
from .plan import Plan as Plan
from .plan import plan as plan
from .source import source as source
from .trace import Row as Row
from .trace import Trace as Trace
from .trace import trace as trace
