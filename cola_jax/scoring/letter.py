"""`letter` and `letter-strict`: the letter that names the right option."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_jax.errors import InputError
from cola_jax.prompts import Readings
from cola_jax.question import Question
from cola_jax.scoring.encode import (
    Encoded,
    ShotSource,
    check_length,
    encode_answers,
    render_chat,
    shots_of,
)
from cola_jax.scoring.likelihood import check_choice
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts


class Letter(Scorer):
    """The most likely of the offered letters, after a prompt that lists the options."""

    name = "letter"
    formats = ("plain", "harness")
    lists_options = True

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat: bool = False,
        context: int | None = None,
        harness: bool = False,
        shots: ShotSource = (),
    ):
        """Takes what `Scorer` does.

        Args:
          harness: use the prompt of lm-evaluation-harness's MMLU tasks.
          shots: questions shown with their answers; of each question, those of its own subject.

        Raises ValueError for shots in another prompt than the harness's.
        """
        super().__init__(tokenizer, chat=chat, context=context)
        if shots and not harness:
            raise InputError(
                "the plain prompt of letters shows no shots: use the format `harness`, or 0 shots."
            )
        self.harness, self.shots = harness, shots

    def encode(self, question: Question) -> Encoded:
        """Encodes a question; ValueError for an open one, and for a letter of several tokens."""
        check_choice(question)
        if self.harness:
            prompt = harness_prompt(question, shots_of(self.shots, question))
        else:
            prompt = chat_prompt(question) if self.chat else plain_prompt(question)
        if self.chat:
            prompt, answers = render_chat(self.tokenizer, prompt), list(question.letters)
        else:
            answers = [f" {letter}" for letter in question.letters]
        encoded = encode_answers(question, self.tokenizer, prompt, answers, special=not self.chat)
        if len(encoded.option) != len(answers):
            sizes = np.bincount(encoded.option).tolist()
            raise InputError(
                f"question {question.id}: letters are {sizes} tokens long here, but must be one "
                "each: use the scorer `options`."
            )
        check_length(encoded, self.context)
        return encoded

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Compares the log-probabilities of the letters."""
        gold, finite = encoded.question.answer, np.asarray(readings.finite)
        return Verdicts.of_scores(np.asarray(readings.logprob), gold, finite)


class StrictLetter(Letter):
    """The most likely token of all, which must be the right letter."""

    name = "letter-strict"

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Compares the letter with the best other token of the vocabulary."""
        gold, finite = encoded.question.answer, np.asarray(readings.finite)
        logprob, token = np.asarray(readings.logprob), np.asarray(readings.token)
        chosen = token[:, :1] == np.asarray(encoded.prompts.targets)[None]
        letter = chosen.argmax(axis=1)
        answer = np.where(chosen.any(axis=1), letter, NO_ANSWER)
        # the best token but the likeliest letter: exact for that letter, and it alone can be ahead
        outside = np.take_along_axis(np.asarray(readings.rival), letter[:, None], axis=1)[:, 0]
        outside = np.where(finite, outside, -np.inf)
        return Verdicts.of_scores(logprob, gold, finite, answer=answer, outside=outside)


def plain_prompt(question: Question) -> str:
    """Lists as many letters as there are options."""
    return f"Question: {question.text}\n{listed(question)}\nAnswer:"


def chat_prompt(question: Question) -> str:
    """Lists the options, and tells the model to answer with one letter."""
    letters = f"{', '.join(question.letters[:-1])} or {question.letters[-1]}"
    asked = f"Answer with one letter, {letters}, and nothing else."
    return f"{question.text}\n{listed(question)}\n\n{asked}"


def harness_prompt(question: Question, shots: Sequence[Question] = ()) -> str:
    """Writes the prompt of lm-evaluation-harness's MMLU tasks, with shots of the same subject."""
    subject = question.get("subject")
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    parts = [f"The following are multiple choice questions (with answers){about}."]
    for shot in shots:
        if shot.get("subject") == subject:
            parts.append(f"{stated(shot)}\nAnswer: {shot.letters[shot.answer]}")
    return "\n\n".join([*parts, f"{stated(question)}\nAnswer:"])


def stated(question: Question) -> str:
    """Returns a question and its options, each after its letter."""
    return f"{question.text.strip()}\n{listed(question)}"


def listed(question: Question) -> str:
    """Returns the options, each after its letter on a line of its own."""
    options = zip(question.letters, question.options, strict=True)
    return "\n".join(f"{letter}. {option}" for letter, option in options)
