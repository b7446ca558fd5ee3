"""The scorers by name."""

from cola_jax.errors import InputError, did_you_mean
from cola_jax.scoring.exact import Exact
from cola_jax.scoring.generation import Generation
from cola_jax.scoring.letter import Letter, StrictLetter
from cola_jax.scoring.likelihood import Options, OptionsNorm
from cola_jax.scoring.scorer import Scorer

SCORERS: dict[str, type[Scorer]] = {
    scorer.name: scorer
    for scorer in (Options, OptionsNorm, Letter, StrictLetter, Exact, Generation)
}


def scorer_class(name: str) -> type[Scorer]:
    """Returns the scorer of that name; ValueError with the list of names where there is none."""
    if name not in SCORERS:
        near = did_you_mean(name, SCORERS)
        raise InputError(f"scorer {name!r} is not one of {', '.join(SCORERS)}{near}.")
    return SCORERS[name]
