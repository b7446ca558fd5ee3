from .compare import asked_here, check_comparable, deciding
from .run import Run
from .session import Session, settings_of
from .settings import check_same
from .stored import Labels, read_labels
from .summary import scorer_flag

__all__ = [
    "Labels",
    "Run",
    "Session",
    "asked_here",
    "check_comparable",
    "check_same",
    "deciding",
    "read_labels",
    "scorer_flag",
    "settings_of",
]
