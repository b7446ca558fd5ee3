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
from .number_format import format_mean, format_percent
from .scorer import Encoded, Evaluate, Scorer, encode_answers
from .statistics import LEVEL, Effect, Share, number_or_none
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
    "Effect",
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
    "format_mean",
    "format_percent",
    "number_or_none",
    "scorer_class",
    "scorer_names",
]
