"""Scoring: the scorers by name, the verdicts that they return, and the grading of answers.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

from typing import Any, Literal

from cola_jax.errors import InputError, did_you_mean
from cola_jax.lazy import attach

__getattr__, __dir__ = attach(__name__, __file__)

SCORERS = {  # by name, the class
    "options": "Options",
    "options-norm": "OptionsNorm",
    "letter": "Letter",
    "letter-strict": "StrictLetter",
    "exact": "Exact",
    "generation": "Generation",
}
ScorerName = Literal[tuple(SCORERS)]  # the choices of a flag


def scorer_class(name: str) -> Any:
    """Return the scorer of that name; InputError with the list of names where there is none."""
    if name not in SCORERS:
        near = did_you_mean(name, SCORERS)
        raise InputError(f"scorer {name!r} is not one of {', '.join(SCORERS)}{near}.")
    return __getattr__(SCORERS[name])


def scorer_names(*, open: bool) -> list[str]:
    """Return the names of the scorers of open questions, or of multiple choice."""
    return [name for name in SCORERS if scorer_class(name).open == open]
