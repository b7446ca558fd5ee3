"""`Prepared`: the questions of a task as they are asked, and what encodes them."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from cola_jax.errors import count
from cola_jax.question import Question, digest
from cola_jax.scoring.encoder import Encoder
from cola_jax.scoring.scorer import Encoded, Scorer
from cola_jax.tasks.wordings import Maker, WordedScorer, draw_wordings

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Questions, the encoder of their prompts, and the record of these for a run's settings.

    Workers encode the questions. The samples are those that are encoded here, without pictures,
    to refuse a task before long work starts: the first questions in order, and those that may not
    fit.
    """

    questions: list[Question]  # with decoys, and options in the order of their prompts
    encoder: Encoder
    record: dict[str, Any]
    sample: list[Encoded]  # of the questions
    # other wordings in which found paths are asked again, with the sample in each
    again: Mapping[WordedScorer, list[Encoded]] = dataclasses.field(default_factory=dict)
    held_out: Sequence[Question] = ()  # asked in the first prompt of the encoder
    held_out_sample: Sequence[Encoded] = ()

    @classmethod
    def of(
        cls,
        questions: list[Question],
        encoder: Encoder,
        record: dict[str, Any],
        held_out: Sequence[Question] = (),
    ) -> "Prepared":
        """Check questions, and encode the samples; InputError for one that cannot be asked.

        All questions are checked as far as their texts tell, and the samples whole.
        """
        sample = encoder.check(questions)
        return cls(
            questions,
            encoder,
            record,
            sample,
            held_out=held_out,
            held_out_sample=encoder.own.check(held_out) if held_out else (),
        )

    def asked_again(
        self, maker: Maker, number: int, taken: Sequence[WordedScorer], *, exact: bool
    ) -> "Prepared":
        """Return the same with drawn wordings in which found paths are asked again.

        They are those that all questions of the sample can have; see `draw_wordings`.
        """
        again: dict[WordedScorer, list[Encoded]] = {}

        def encode(worded: WordedScorer) -> None:
            again[worded] = worded.sample(self.sample)

        draw_wordings(maker, "again", number, taken, exact=exact, check=encode)
        if not exact:
            log.info("found paths are asked again in %s", count(len(again), "other wording"))
        return dataclasses.replace(self, again=again)

    @property
    def scorer(self) -> Scorer:
        """The scorer of verdicts."""
        return self.encoder.scorer

    def settings(self) -> dict[str, Any]:
        """Return the record with digests of the questions and of the other wordings."""
        out = self.record | {"questions_digest": digest_of_questions(self.questions, self.scorer)}
        if self.again:
            digests = [worded.digest for worded in self.again]
            out |= {"prompts": len(digests), "prompts_digest": digest(*digests)}
        return out


def digest_of_questions(questions: Sequence[Question], scorer: Scorer) -> str:
    """Return the SHA-256 of questions in order and of the settings of their scorer."""
    sha = hashlib.sha256(repr((scorer.name, sorted(scorer.record().items()))).encode())
    for each in questions:
        facts = each.id, each.text, each.options, each.answer, each.open, each.metadata
        sha.update(repr((*facts, each.picture_digest)).encode("utf-8", "surrogatepass"))
    return sha.hexdigest()
