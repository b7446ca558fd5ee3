from .compare import asked_here, check_comparable, deciding
from .estimates import BEFORE, BEYOND, CHANGE, CORRECT, Estimate
from .facts import Facts
from .path_results import group_of
from .run import Run
from .session import Session, settings_of
from .settings import check_same
from .stored import Labels, read_labels

__all__ = [
    "BEFORE",
    "BEYOND",
    "CHANGE",
    "CORRECT",
    "Estimate",
    "Facts",
    "Labels",
    "Run",
    "Session",
    "asked_here",
    "check_comparable",
    "check_same",
    "deciding",
    "group_of",
    "read_labels",
    "settings_of",
]
