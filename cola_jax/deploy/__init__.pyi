from .export import check_no_shares, exporting
from .lm_eval import ColaLM
from .settings import check_least

__all__ = [
    "ColaLM",
    "check_least",
    "check_no_shares",
    "exporting",
]
