"""`options` and `options-norm`: the option whose text has the highest log-likelihood."""

from typing import Any

import numpy as np

from cola_jax.errors import InputError
from cola_jax.prompts import Readings
from cola_jax.question import DELIMITER, Question
from cola_jax.scoring.encode import (
    Encoded,
    ShotSource,
    check_length,
    encode_answers,
    render_chat,
    shots_of,
)
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.verdicts import Verdicts


class Options(Scorer):
    """The option whose text has the highest log-likelihood: lm-evaluation-harness's `acc`.

    All options are packed after one shared prompt, that of lm-evaluation-harness's ARC tasks, in
    which shots have two line breaks after them. Of equal options the first is the answer.
    """

    name = "options"

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat: bool = False,
        context: int | None = None,
        shots: ShotSource = (),
    ):
        """Takes what `Scorer` does, and questions that are shown with their answers before each.

        Raises ValueError for shots in a chat, whose template has no place for them.
        """
        super().__init__(tokenizer, chat=chat, context=context)
        if chat and shots:
            raise InputError(
                f"the scorer {self.name!r} shows no shots in a chat: drop --chat, or use 0 shots."
            )
        self.shots = shots

    def encode(self, question: Question) -> Encoded:
        """Encodes a question; ValueError for an open one, and for an option without text."""
        check_choice(question)
        if any(not option.strip() for option in question.options):
            raise InputError(
                f"question {question.id} has an empty option, whose text cannot be scored: use a "
                "scorer of letters, or leave the question out."
            )
        delimiter = question.get(DELIMITER)
        if delimiter is not None:  # the text is a whole prompt
            prompt, answers = question.text, [f"{delimiter}{option}" for option in question.options]
        elif self.chat:
            prompt, answers = render_chat(self.tokenizer, question.text), list(question.options)
        else:
            prompt = f"{self.shown(question)}Question: {question.text}\nAnswer:"
            answers = [f" {option}" for option in question.options]
        encoded = encode_answers(question, self.tokenizer, prompt, answers, special=not self.chat)
        check_length(encoded, self.context)
        return encoded

    def shown(self, question: Question) -> str:
        """Writes the shots before a question: those of its own subject."""
        return "".join(
            f"Question: {shot.text}\nAnswer: {shot.options[shot.answer]}\n\n"
            for shot in shots_of(self.shots, question)
            if shot.get("subject") == question.get("subject")
        )

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Adds up the log-probabilities of each option's tokens."""
        gold, finite = encoded.question.answer, np.asarray(readings.finite)
        return Verdicts.of_scores(self.scores(readings, encoded), gold, finite)

    def scores(self, readings: Readings, encoded: Encoded) -> np.ndarray:
        """Returns the score of every option [C, J]."""
        logprob = np.asarray(readings.logprob).astype(np.float64)
        count = len(encoded.question.options)
        sums = [logprob[:, encoded.option == j].sum(axis=1) for j in range(count)]
        return np.stack(sums, axis=1)


class OptionsNorm(Options):
    """The same per character of the option's text: lm-evaluation-harness's `acc_norm`."""

    name = "options-norm"

    def scores(self, readings: Readings, encoded: Encoded) -> np.ndarray:
        lengths = np.array([len(option) for option in encoded.question.options])
        return super().scores(readings, encoded) / lengths


def check_choice(question: Question) -> None:
    """Raises ValueError for an open question, and for one without options."""
    if not question.options:
        raise InputError(f"question {question.id} has no options to choose from: give it some.")
    if question.open:
        raise InputError(
            f"question {question.id} is open, it has no options to choose from: use the scorer "
            "`exact` or `generation`."
        )
