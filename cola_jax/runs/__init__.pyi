from .chosen_on import CHOSEN_ON
from .compare import asked_here, check_comparable, deciding
from .estimates import BEFORE, BEYOND, CHANGE, CORRECT, MODEL, Estimate
from .facts import Facts
from .path_results import LAYERS, group_of
from .recommendation import Measurement, Recommendation
from .run import Run
from .session import Session, settings_of
from .settings import check_same
from .stored import Labels, read_labels
from .tries import Try

__all__ = [
    "BEFORE",
    "BEYOND",
    "CHANGE",
    "CHOSEN_ON",
    "CORRECT",
    "LAYERS",
    "MODEL",
    "Estimate",
    "Facts",
    "Labels",
    "Measurement",
    "Recommendation",
    "Run",
    "Session",
    "Try",
    "asked_here",
    "check_comparable",
    "check_same",
    "deciding",
    "group_of",
    "read_labels",
    "settings_of",
]
