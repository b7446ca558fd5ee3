from .choice import Letter, Options, OptionsNorm, StrictLetter
from .exact import Exact
from .generation import (
    Completions,
    DecodingScorer,
    FilteredGeneration,
    Generation,
    OpenScorer,
)
from .grader import Grade, Grader
from .scorer import Encoded, Evaluate, Scorer, encode_answers
from .statistics import LEVEL, Share, number_or_none
from .verdicts import Completion, Verdicts

SCORERS: dict[str, str]
ScorerName = str

def scorer_class(name: str) -> type[Scorer]: ...
def scorer_names(*, open: bool) -> list[str]: ...

__all__ = [
    "LEVEL",
    "SCORERS",
    "Completion",
    "Completions",
    "DecodingScorer",
    "Encoded",
    "Evaluate",
    "Exact",
    "FilteredGeneration",
    "Generation",
    "Grade",
    "Grader",
    "Letter",
    "OpenScorer",
    "Options",
    "OptionsNorm",
    "Scorer",
    "ScorerName",
    "Share",
    "StrictLetter",
    "Verdicts",
    "encode_answers",
    "number_or_none",
    "scorer_class",
    "scorer_names",
]
