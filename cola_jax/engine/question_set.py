"""`QuestionSet`: questions with their encoder, divided into batches."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cola_jax.engine.engine import Capacity
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.work import Batch
from cola_jax.execute.inputs import check_tokens
from cola_jax.execute.plan import cut_batches
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.scoring.encoder import FIRST, Encoder
from cola_jax.scoring.pictures import with_pictures
from cola_jax.scoring.scorer import Encoded, Scorer


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionSet:
    """Questions, the encoder that workers use, and the prompts of a sample of them."""

    questions: list[Question]
    encoder: Encoder
    sample: list[Encoded]  # the first questions in order, then those that may be too long

    @classmethod
    def of(
        cls,
        questions: Sequence[Question],
        encoder: Encoder,
        model: ModelHandle,
        sample: Sequence[Encoded] | None = None,
    ) -> "QuestionSet":
        """Take questions and the sample of `Encoder.check`, which is made here when None.

        Raises InputError for a question that cannot be asked, as far as its text and the sample
        tell.
        """
        listed = list(questions)
        made = encoder.check(listed) if sample is None else sample
        encoded = with_pictures(encoder.scorer, made, model.directory)
        check_vocabulary(encoded, model)
        return cls(listed, encoder, encoded)

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def scorer(self) -> Scorer:
        """The scorer of verdicts."""
        return self.encoder.scorer

    @property
    def recorded(self) -> list[Question]:
        """The questions as the rows of a run have them."""
        return list(map(self.encoder.recorded, self.questions))

    @property
    def first(self) -> list[Encoded]:
        """The first questions, which decide the common prefixes."""
        return self.sample[:FIRST]

    @property
    def prefixes(self) -> list[Prompts]:
        """The prompts whose common prefixes are run once."""
        return [encoded.prompts for encoded in self.first]

    @functools.cached_property
    def tokens(self) -> list[int]:
        """The tokens of each question after those that its prompt shares with others, about."""
        return self.encoder.sizes(self.questions, self.sample)

    def take(self, indices: Sequence[int]) -> "QuestionSet":
        """Return some of the questions; those that decide the common prefixes stay."""
        return dataclasses.replace(self, questions=[self.questions[i] for i in indices])

    def encode(self, model: ModelHandle) -> list[Encoded]:
        """Encode all questions in this process."""
        return self.encoder(self.questions, model.directory)

    def check_memory(self, model: ModelHandle, capacity: Capacity, positions: int) -> None:
        """Raise InputError where memory does not suffice for a path of `positions` layers."""
        self.scorer.check_memory(model.config, capacity.memory, self.sample, positions)

    def batches(
        self, left: Sequence[int], capacity: Capacity, known: Mapping[str, Any] | None = None
    ) -> Iterator[Batch]:
        """Cut the questions `left` into batches of similar lengths in one prompt, longest first.

        `known` has the rows of questions by their ids.
        """
        tokens = self.tokens
        known = known or {}
        groups: dict[int, list[int]] = {}
        for i in left:
            groups.setdefault(self.encoder.group(self.questions[i]), []).append(i)
        most_tokens = capacity.memory.limits.batch_tokens
        most_questions = capacity.questions
        if self.scorer.decodes:  # prompts of any lengths wait for a decoder
            most_tokens = sum(tokens) + 1
            most_questions = capacity.decoded
        for _, members in sorted(groups.items()):
            sizes = [tokens[i] for i in members]
            group = np.array(members)
            for part in cut_batches(sizes, capacity.parts, most_questions, most_tokens):
                indices = group[part]
                questions = [self.questions[i] for i in indices]
                rows = {each.id: known[each.id] for each in questions if each.id in known}
                yield Batch(indices, questions, rows)


def check_vocabulary(sample: Sequence[Encoded], model: ModelHandle) -> None:
    """Raise InputError for prompts with tokens outside of the vocabulary of a model."""
    for each in sample:
        check_tokens("token ids", each.prompts.ids, model.config.vocab_size)
        if each.prompts.targets is not None:
            check_tokens("targets", each.prompts.targets, model.config.vocab_size)
