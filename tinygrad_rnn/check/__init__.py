"""The laboratory: is a gradient right, could the check have seen it, and what is the bug. The public names; computes nothing."""

from .cells import check_cell as check_cell
from .compare import compare as compare
from .curve import error_against_step as error_against_step
from .diagnose import diagnose as diagnose
from .gradcheck import gradcheck as gradcheck
from .op import check_op as check_op
from .power import power as power
from .rtrl import rtrl as rtrl
from .rule import check_rule as check_rule
from .scans import Engine as Engine
from .scans import check_scan as check_scan
