"""Pictures of questions: their tokens and embeddings, in place of a placeholder in the prompt."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_jax.errors import InputError, count, reading
from cola_jax.formats.vision import Embedded, Tower
from cola_jax.prompts import NO_READ, PROMPT, Prompts
from cola_jax.question import PICTURE
from cola_jax.scoring.scorer import Encoded, Scorer, check_length, hash_of


def with_pictures(
    scorer: Scorer, encoded: Sequence[Encoded], checkpoint: str | None
) -> list[Encoded]:
    """Put the pictures of questions into their prompts.

    Raises InputError for a model that reads none, a picture that is broken or too large, and a
    prompt that shows another number than its question has.
    """
    questions = [each.question for each in encoded]
    if not any(each.picture is not None or PICTURE in each.text for each in questions):
        return list(encoded)
    seen = any(each.picture is not None for each in questions)
    tower = Tower(checkpoint) if seen else None
    token = scorer.tokenizer.get_added_vocab().get(PICTURE)
    return [with_picture(each, scorer, token, tower) for each in encoded]


def with_picture(
    encoded: Encoded, scorer: Scorer, token: int | None, tower: Tower | None
) -> Encoded:
    """Put the picture of a question, if it has one, in place of a token of its prompt."""
    question = encoded.question
    places = np.flatnonzero(np.asarray(encoded.prompts.ids) == token)
    if len(places) != (question.picture is not None):
        raise InputError(
            f"question {question.id}: its prompt says {PICTURE} {count(len(places), 'time')}, but "
            f"it has {'no' if question.picture is None else 'one'} picture: give each question "
            "its `image`, and show no examples with pictures (--num-fewshot 0)."
        )
    if question.picture is None:
        return encoded
    assert tower is not None
    with reading(f"question {question.id}"):
        picture = tower.embed(question.picture)
    encoded = dataclasses.replace(
        encoded,
        prompts=insert(encoded.prompts, int(places[0]), picture),
        prompt_hash=hash_of(f"{encoded.prompt_hash} {question.picture_digest}"),
    )
    check_length(encoded, scorer.context, scorer.max_new_tokens)
    return encoded


def insert(row: Prompts, place: int, picture: Embedded) -> Prompts:
    """Replace the token at `place` in the prompt of a row [T] by those of a picture."""
    more = len(picture.ids) - 1

    def put(values: Any, new: np.ndarray, shift: int = 0) -> np.ndarray:
        values = np.asarray(values)
        parts = values[:place], new, values[place + 1 :] + shift
        return np.concatenate(parts).astype(np.int32)

    moved = row.replace(
        ids=put(row.ids, picture.ids),
        positions=put(row.positions, np.arange(place, place + more + 1), more),
        branch=put(row.branch, np.full(more + 1, PROMPT)),
        embeddings=picture.embeddings,
        places=(place + picture.places).astype(np.int32),
    )
    if row.read is None:
        return moved
    read = np.asarray(row.read)
    shifted = np.where((read != NO_READ) & (read >= place), read + more, read)
    return moved.replace(read=shifted.astype(np.int32))
