"""`Divergence`: how far a path's predictions on prompts are from the pretrained model's."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from cola_jax.execute.plan import common_with_first
from cola_jax.prompts import PROMPT, Prompts, Readings
from cola_jax.question import Question
from cola_jax.scoring.encoder import Encoder
from cola_jax.scoring.scorer import Encoded, Scorer, hash_of
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts

READS = 64  # positions of a prompt at most, evenly spaced: each costs two products with the head
SHARING = 256  # questions that tell which tokens all prompts share
NOT_FINITE = 1e4  # nats, more than any path that is finite


class Divergence(Scorer):
    """Scores closeness to the pretrained model on prompts alone, without answers.

    The score is minus KL(identity path || path) of the next token in nats, the mean over the read
    positions of a prompt: the fitness of EvoPress (arXiv 2410.14649). No path is right or wrong.
    """

    name = "kl"
    divergence = True

    def __init__(self, scorer: Scorer):
        """Take the scorer that writes the prompts."""
        super().__init__(scorer.tokenizer, chat=scorer.chat, context=scorer.context)
        self.scorer = scorer

    def encode(self, question: Question) -> Encoded:
        """Encode a question's prompt, read from its first token on; InputError as the scorer."""
        return read_prompt(self.scorer.encode(question), 0)

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Score the mean divergence; the margin is the same."""
        score = -np.asarray(readings.divergence).mean(axis=1)
        finite = np.asarray(readings.finite) & np.isfinite(score)
        answer = np.full(len(score), NO_ANSWER)
        return Verdicts.of_scores(score[:, None], 0, finite, answer=answer, outside=np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class PromptEncoder(Encoder):
    """Encodes the prompts of questions alone, read after the tokens that those of a group share."""

    skips: tuple[int, ...] = ()  # of each group, the tokens that are not read

    @property
    def scorer(self) -> Scorer:
        """The scorer of divergences."""
        return Divergence(self.scorers[0])

    def recorded(self, question: Question) -> Question:
        """Return a question as the rows of a run have it, without options and gold."""
        return unanswered(question)

    def tokenize(self, questions: Sequence[Question]) -> list[Encoded]:
        """Encode prompts without their pictures."""
        return self.read(super().tokenize(questions))

    def __call__(self, questions: Sequence[Question], checkpoint: str | None) -> list[Encoded]:
        """Encode prompts with their pictures; InputError as the scorers."""
        return self.read(Encoder(self.scorers)(questions, checkpoint))

    def sizes(self, questions: Sequence[Question], sample: Sequence[Encoded]) -> list[int]:
        """Estimate the tokens of prompts, as `Encoder`, by the texts of questions alone."""
        return super().sizes([unanswered(question) for question in questions], sample)

    def read(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """Read the prompts of encoded questions."""
        return [read_prompt(each, self.skips[self.group(each.question)]) for each in encoded]


def label_free_encoder(
    encoder: Encoder, questions: Sequence[Question], checkpoint: str | None
) -> PromptEncoder:
    """Return the encoder of the same prompts without answers.

    The first questions of each prompt tell which tokens are shared, such as those of shots.
    """
    skips = []
    for group in range(len(encoder.scorers)):
        members = (question for question in questions if encoder.group(question) == group)
        rows = encoder(list(itertools.islice(members, SHARING)), checkpoint)
        skips.append(common_tokens(rows))
    return PromptEncoder(encoder.scorers, tuple(skips))


def common_tokens(encoded: Sequence[Encoded]) -> int:
    """Count the tokens with which all prompts begin."""
    if not encoded:
        return 0
    return int(common_with_first(Prompts.stack([prompt_of(each) for each in encoded])).min())


def read_prompt(encoded: Encoded, first: int) -> Encoded:
    """Read a prompt at up to `READS` positions, from `first` to its last token.

    Leaves out options and gold, so that nothing that is run or stored depends on them.
    """
    row = prompt_of(encoded)
    last = len(row.ids) - 1
    first = min(first, last)
    steps = np.arange(READS) * (last - first) // (READS - 1)
    read = np.unique(first + steps).astype(np.int32)
    return Encoded(
        unanswered(encoded.question),
        row.replace(read=read, targets=np.zeros_like(read)),
        np.zeros_like(read),
        hash_of(f"{encoded.prompt_hash} read at {read.tolist()}"),
        prompt=encoded.prompt,
    )


def unanswered(question: Question) -> Question:
    """Return a question without options and gold."""
    return dataclasses.replace(question, options=(), answer=0)


def prompt_of(encoded: Encoded) -> Prompts:
    """Return the prompt of an encoded question [T], without answers and reads."""
    row = encoded.prompts
    of_prompt = np.asarray(encoded.prompts.branch) == PROMPT
    kept = {x: np.asarray(getattr(row, x))[of_prompt] for x in ("ids", "positions", "branch")}
    return row.replace(**kept, read=None, targets=None)


def divergences(verdicts: Verdicts) -> np.ndarray:
    """Return the divergences in nats of the evaluations that `Divergence` scored."""
    return np.where(verdicts.finite, -verdicts.margin, NOT_FINITE)
