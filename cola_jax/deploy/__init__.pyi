from .export import exporting
from .lm_eval import ColaLM
from .settings import check_least

__all__ = [
    "ColaLM",
    "check_least",
    "exporting",
]
