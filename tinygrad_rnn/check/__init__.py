"""The laboratory: is a gradient right, could the check have seen it, and what is the bug. The public names; computes nothing."""

from .curve import error_against_step as error_against_step
from .gradcheck import gradcheck as gradcheck
from .rule import check_rule as check_rule
