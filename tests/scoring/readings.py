"""Readings of made-up numbers, and questions of made-up tokens."""

import dataclasses
from typing import Any

import numpy as np

from cola_jax.prompts import Readings
from cola_jax.question import Question
from cola_jax.scoring import Encoded
from cola_jax.scoring.encode import pack

CANDIDATES = 6


def encoded(continuations, options=("ice", "some iron ore", "wind of the sea"), gold=1) -> Encoded:
    """Makes a question whose options are these tokens."""
    prompts, option = pack([1, 2], continuations)
    return Encoded(Question("q", "?", options, gold), prompts, option, "hash")


def with_gold(encoded: Encoded, gold: int) -> Encoded:
    """Returns the same question with another right answer."""
    question = dataclasses.replace(encoded.question, answer=gold)
    return dataclasses.replace(encoded, question=question)


def made_up(reads: int, seed: int = 0, **fields: Any) -> Readings:
    """Makes readings [C, Q]."""
    generator = np.random.default_rng(seed)
    shape = (CANDIDATES, reads)
    return Readings(
        **{
            "logprob": generator.normal(-3, 2, shape).astype(np.float32),
            "token": generator.integers(0, 20, shape, np.int32),
            "rival": generator.normal(-3, 2, shape).astype(np.float32),
            "finite": np.ones(CANDIDATES, bool),
            **fields,
        }
    )


def half_finite(reads: int, token: int = 10) -> tuple[Readings, np.ndarray]:
    """Makes readings of which every second path is not finite; also returns which are."""
    finite = np.arange(CANDIDATES) % 2 == 0
    logprob = np.where(finite[:, None], -1.0, np.nan) * np.ones(reads)
    tokens = np.full((CANDIDATES, reads), token, np.int32)
    return made_up(reads, logprob=logprob, rival=logprob - 1, token=tokens, finite=finite), finite
