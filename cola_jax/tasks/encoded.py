"""All questions of a task, encoded in this process."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from cola_jax.question import sha256
from cola_jax.scoring.scorer import Encoded, Scorer
from cola_jax.tasks.prepared import Prepared


@dataclasses.dataclass(frozen=True)
class EncodedVariant:
    """Every question of a task, asked in another way."""

    name: str
    scorer: Scorer
    encoded: list[Encoded]
    places: list[tuple[int, ...]]  # for each question, the place of each of its options here

    def take(self, indices: Sequence[int]) -> "EncodedVariant":
        """Select questions."""
        encoded, places = ([each[i] for i in indices] for each in (self.encoded, self.places))
        return dataclasses.replace(self, encoded=encoded, places=places)


@dataclasses.dataclass(frozen=True)
class EncodedTask:
    """Encoded questions, their scorer, and the record of their prompts for a run's settings."""

    encoded: list[Encoded]
    scorer: Scorer
    record: dict[str, Any]
    variants: Sequence[EncodedVariant] = ()
    held_out: Sequence[Encoded] = ()

    @classmethod
    def of(cls, prepared: Prepared, checkpoint: str | None) -> "EncodedTask":
        """Encode all questions, with their pictures; InputError as the encoder."""
        variants = []
        for variant in prepared.variants:
            changed = [variant.change(question) for question in prepared.questions]
            encoded = variant.encoder([question for question, _ in changed], checkpoint)
            places = [places for _, places in changed]
            variants.append(EncodedVariant(variant.name, variant.scorer, encoded, places))
        encoded = prepared.encoder(prepared.questions, checkpoint)
        held_out = prepared.encoder.own(prepared.held_out, checkpoint)
        return cls(encoded, prepared.scorer, prepared.record, variants, held_out)

    def settings(self) -> dict[str, Any]:
        """Return the record with digests of the questions."""
        out: dict[str, Any] = self.record | {"task": task_digest(self.encoded, self.scorer)}
        if "prompt" in out:  # its hash covers the texts of shots too
            parts = [out["prompt"], [each.prompt_hash for each in self.encoded]]
            text = json.dumps(parts, sort_keys=True)
            out["prompt"] = out["prompt"] | {"hash": sha256(text).hex()}
        if self.variants:
            out["variants"] = {
                each.name: task_digest(each.encoded, each.scorer) for each in self.variants
            }
        return out


def task_digest(encoded: Sequence[Encoded], scorer: Scorer) -> str:
    """Return the SHA-256 of questions and their prompts, in order."""
    import jax
    import numpy as np

    sha = hashlib.sha256(repr(sorted(scorer.record().items())).encode())
    for each in encoded:
        question = each.question
        sha.update(repr((question.id, question.options, question.answer)).encode())
        row = each.prompts.replace(embeddings=None, places=None)
        if question.picture is not None:  # in place of its embeddings, which differ by machine
            sha.update(each.prompt_hash.encode())
        for array in (*jax.tree.leaves(row), each.option):
            sha.update(repr(np.asarray(array).tolist()).encode())
    return sha.hexdigest()
