"""explain: looking inside a computation. This file only gathers the names."""

from .anomaly import anomaly as anomaly
from .ledger import Flow as Flow
from .ledger import Ledger as Ledger
from .ledger import ledger as ledger
from .source import source as source
from .trace import Row as Row
from .trace import Trace as Trace
from .trace import trace as trace
