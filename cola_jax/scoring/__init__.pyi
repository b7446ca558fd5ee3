from .decoding import Completions, DecodingScorer
from .encode import TEMPLATE_ARGUMENTS, Encoded, encode_answers
from .exact import Exact
from .filtered import FilteredGeneration
from .generation import Generation, OpenScorer
from .grader import Grade, Grader
from .letter import Letter, StrictLetter
from .likelihood import Options, OptionsNorm
from .registry import SCORERS, ScorerName, scorer_class, scorer_names
from .scorer import Evaluate, Scorer
from .verdicts import Completion, Verdicts

__all__ = [
    "SCORERS",
    "TEMPLATE_ARGUMENTS",
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
    "StrictLetter",
    "Verdicts",
    "encode_answers",
    "scorer_class",
    "scorer_names",
]
