from .decoding import Completions, DecodingScorer
from .encode import Encoded, encode_answers
from .exact import Exact
from .generation import Generation, OpenScorer
from .grader import Grade, Grader
from .letter import Letter, StrictLetter
from .likelihood import Options, OptionsNorm
from .registry import SCORERS, ScorerName, scorer_class, scorer_names
from .scorer import Evaluate, Scorer
from .verdicts import Completion, Verdicts

__all__ = [
    "SCORERS",
    "Completion",
    "Completions",
    "DecodingScorer",
    "Encoded",
    "Evaluate",
    "Exact",
    "Generation",
    "Grade",
    "Grader",
    "Letter",
    "OpenScorer",
    "Options",
    "OptionsNorm",
    "Scorer",
    "ScorerName",
    "StrictLetter",
    "Verdicts",
    "encode_answers",
    "scorer_class",
    "scorer_names",
]
