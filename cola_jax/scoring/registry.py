"""The scorers by name, each imported when it is first asked for: importing JAX takes seconds."""

from typing import TYPE_CHECKING, Literal

from cola_jax import scoring
from cola_jax.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from cola_jax.scoring.scorer import Scorer

SCORERS = {  # by name, the class
    "options": "Options",
    "options-norm": "OptionsNorm",
    "letter": "Letter",
    "letter-strict": "StrictLetter",
    "exact": "Exact",
    "generation": "Generation",
}
if TYPE_CHECKING:
    ScorerName = str
else:
    ScorerName = Literal[tuple(SCORERS)]  # the choices of a flag


def scorer_class(name: str) -> "type[Scorer]":
    """Return the scorer of that name; InputError with the list of names where there is none."""
    if name not in SCORERS:
        near = did_you_mean(name, SCORERS)
        raise InputError(f"scorer {name!r} is not one of {', '.join(SCORERS)}{near}.")
    return getattr(scoring, SCORERS[name])


def scorer_names(*, open: bool) -> list[str]:
    """Return the names of the scorers of open questions, or of multiple choice."""
    return [name for name in SCORERS if scorer_class(name).open == open]
