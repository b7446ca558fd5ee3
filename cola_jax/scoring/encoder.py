"""`Encoder`: turns questions into the prompts of a scorer, on whatever machine runs them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cola_jax.execute.plan import common_with_first
from cola_jax.question import PICTURE, Question, stable_hash
from cola_jax.scoring.pictures import with_pictures
from cola_jax.scoring.scorer import Encoded, Scorer, prompts_of

FIRST = 32  # questions that are always encoded before work begins
EXTREMES = 32  # the longest, and as many of the shortest, likewise
MARGIN = 16  # tokens by which the rest of a prompt may be longer than in a sample
MOST_LONG = 1000  # questions, the longest, that are encoded since they may exceed the context


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """The prompts in which questions are asked: one for all, or one of several for each.

    The scorers differ in their prompts alone; the first one scores all questions.
    """

    scorers: tuple[Scorer, ...]

    @property
    def scorer(self) -> Scorer:
        """The scorer of verdicts."""
        return self.scorers[0]

    @property
    def own(self) -> "Encoder":
        """The encoder that asks all questions in the first prompt."""
        return dataclasses.replace(self, scorers=self.scorers[:1])

    def group(self, question: Question) -> int:
        """Return which of the prompts a question is asked in, by a hash of its id."""
        return place_of(question.id, len(self.scorers))

    def recorded(self, question: Question) -> Question:
        """Return a question as the rows of a run have it."""
        return question

    def __call__(self, questions: Sequence[Question], checkpoint: str | None) -> list[Encoded]:
        """Encode questions, with their pictures; InputError for one that cannot be asked so.

        `checkpoint` is the directory of the model, whose tower embeds pictures.
        """
        return with_pictures(self.scorer, self.tokenize(questions), checkpoint)

    def tokenize(self, questions: Sequence[Question]) -> list[Encoded]:
        """Encode questions without their pictures."""
        return [self.scorers[self.group(question)].encode(question) for question in questions]

    def check(self, questions: Sequence[Question]) -> list[Encoded]:
        """Raise InputError for questions that cannot be asked, as far as their texts tell.

        Encodes without pictures, and returns, the first questions in order, and then the shortest,
        the longest, and others that may exceed the context.
        """
        for question in questions:
            self.scorers[self.group(question)].check(question)
        texts = (own_text(self.scorer, question) for question in questions)
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        order = np.argsort(sizes, kind="stable")
        chosen = [*range(min(FIRST, len(questions))), *order[:EXTREMES], *order[-EXTREMES:]]
        chosen += first_with_picture(questions)
        indices = list(dict.fromkeys(map(int, chosen)))
        sample = self.tokenize([questions[i] for i in indices])
        longer = set(self.longer(sizes, sample).tolist()) - set(indices)
        return sample + self.tokenize([questions[i] for i in sorted(longer)])

    def longer(self, sizes: np.ndarray, sample: Sequence[Encoded]) -> np.ndarray:
        """Return the indices of questions that may exceed the context, by the bytes of their texts.

        A token has one byte or more, and the rest of a prompt has about as many as in the sample.
        """
        scorer = self.scorer
        if scorer.context is None:
            return np.arange(0)
        rest = []  # tokens that are not of the question's own text, such as those of shots
        for encoded in sample:
            text = own_text(scorer, encoded.question)
            own = len(scorer.tokenizer(text, add_special_tokens=False).input_ids)
            rest.append(int(np.asarray(encoded.prompts.positions).max()) + 1 - own)
        most = sizes + max(rest) + MARGIN + scorer.max_new_tokens
        (indices,) = np.nonzero(most > scorer.context)
        return indices[np.argsort(-sizes[indices], kind="stable")][:MOST_LONG]

    def sizes(self, questions: Sequence[Question], sample: Sequence[Encoded]) -> list[int]:
        """Estimate the tokens of questions after the tokens that their prompts share.

        They are a linear function of the length of the texts, and of whether there is a picture,
        fitted to a sample of the questions that are encoded.
        """
        own = np.zeros(len(sample))  # tokens after those that the prompts of a group share
        groups = np.array([self.group(encoded.question) for encoded in sample])
        for group in set(groups.tolist()):
            (members,) = np.nonzero(groups == group)
            rows = [sample[i] for i in members.tolist()]
            shared = int(common_with_first(prompts_of(rows)).min()) if len(rows) > 1 else 0
            own[members] = [encoded.num_tokens - shared for encoded in rows]
        known = features([encoded.question for encoded in sample])
        weights, *_ = np.linalg.lstsq(known, own, rcond=None)
        estimates = features(questions) @ weights
        return np.maximum(1, np.rint(estimates)).astype(int).tolist()


def place_of(question: str, prompts: int) -> int:
    """Return which of several prompts a question is asked in, by a hash of its id."""
    return stable_hash(f"prompt {question}") % prompts if prompts > 1 else 0


def own_text(scorer: Scorer, question: Question) -> str:
    """Return the texts of a question of which its longest row of tokens consists, for a scorer."""
    options = question.options
    if not scorer.lists_options:  # one of which follows the prompt
        options = (max(options, key=len, default=""),)
    return "".join((question.text, *options))


def features(questions: Sequence[Question]) -> np.ndarray:
    """Return what the number of tokens depends on, [n, 3]: 1, characters, and pictures."""
    lengths = [len(each.text) + sum(map(len, each.options)) for each in questions]
    pictures = [each.picture is not None for each in questions]
    return np.stack([np.ones(len(lengths)), lengths, pictures], axis=1).astype(np.float64)


def first_with_picture(questions: Sequence[Question]) -> list[int]:
    """Return the index of the first question that has or names a picture, if any."""
    for i, question in enumerate(questions):
        if question.picture is not None or PICTURE in question.text:
            return [i]
    return []
