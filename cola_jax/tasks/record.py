"""What is recorded about the prompts of a run."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cola_jax.question import Question
from cola_jax.scoring.encode import TEMPLATE_ARGUMENTS, Encoded
from cola_jax.tasks.formats import Format


def prompt_record(
    format: Format,
    texts: Sequence[str],
    *,
    shots: Sequence[Question] = (),
    chat: bool = False,
    stop_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Returns all that decides the prompts, JSON-compatible, with a SHA-256 over it and them.

    `texts` are the prompts as the model gets them, in order, and `stop_ids` the tokens that end
    its answer.
    """
    record: dict[str, Any] = {
        "format": dataclasses.asdict(format) | {"shots": len(shots), "stop": list(format.stop)},
        "shots": [shot.id for shot in shots],
        "chat": chat,
        "template_arguments": dict(TEMPLATE_ARGUMENTS) if chat else None,
        "stop_ids": [int(token) for token in stop_ids],
    }
    # shots are part of the texts, so their words are covered too
    said = json.dumps([record, list(texts)], sort_keys=True, ensure_ascii=True)
    return record | {"hash": hashlib.sha256(said.encode()).hexdigest()}


def task_digest(questions: Sequence[Encoded]) -> str:
    """Returns the SHA-256 of all that the model sees and is asked, in order."""
    sha = hashlib.sha256()
    for encoded in questions:
        question = encoded.question
        sha.update(repr((question.id, question.options, question.answer)).encode())
        if encoded.reply is not None:
            reply = encoded.reply
            sha.update(repr((reply.rule, reply.stop.tokens, reply.stop.strings)).encode())
        for array in (*jax.tree.leaves(encoded.prompts), encoded.option):
            sha.update(repr(np.asarray(array).tolist()).encode())
    return sha.hexdigest()
