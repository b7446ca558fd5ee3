"""The scorers by name, each imported when it is first asked for: importing JAX takes seconds."""

import importlib
from typing import TYPE_CHECKING, Literal

from cola_jax.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from cola_jax.scoring.scorer import Scorer

SCORERS = {  # by name, the module and the class
    "options": ("likelihood", "Options"),
    "options-norm": ("likelihood", "OptionsNorm"),
    "letter": ("letter", "Letter"),
    "letter-strict": ("letter", "StrictLetter"),
    "exact": ("exact", "Exact"),
    "generation": ("generation", "Generation"),
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
    module, kind = SCORERS[name]
    return getattr(importlib.import_module(f"cola_jax.scoring.{module}"), kind)


def scorer_names(*, open: bool) -> list[str]:
    """Return the names of the scorers of open questions, or of multiple choice."""
    return [name for name in SCORERS if scorer_class(name).open == open]
