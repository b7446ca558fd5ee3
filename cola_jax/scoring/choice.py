"""Scorers of multiple choice: by the text of the options, and by the letter that names them."""

import abc
from typing import Any

import numpy as np

from cola_jax.chat import render_chat, user_message
from cola_jax.errors import InputError, shown
from cola_jax.prompts import Readings
from cola_jax.question import DELIMITER, Question
from cola_jax.scoring.answer_key import AnswerKey, mark_letters, mark_options, option_scores
from cola_jax.scoring.scorer import (
    Encoded,
    Scorer,
    ShotSource,
    check_length,
    encode_answers,
    in_float64,
    shots_of,
)
from cola_jax.scoring.verdicts import Verdicts

FIELD = "{question}"  # of a template
INSTRUCTION = "Answer the question.\n\n"
TEMPLATES = {  # of prompts that do not list the options, by format
    "plain": f"Question: {FIELD}\nAnswer:",
    "short": f"Q: {FIELD}\nA:",
    "bare": FIELD,
    "instruction": f"{INSTRUCTION}Question: {FIELD}\nAnswer:",
}


class ChoiceScorer(Scorer):
    """A scorer that compares the log-likelihoods of answers, one for each option of a question."""

    log_likelihoods = True
    mark = staticmethod(mark_options)

    def __init__(
        self, tokenizer: Any, *, format: str = "plain", shots: ShotSource = (), **options: Any
    ):
        """Take the arguments of `Scorer`, one of its formats, and the shots before each question.

        Raises InputError for a format that the scorer lacks.
        """
        super().__init__(tokenizer, **options)
        if format not in self.formats:
            raise InputError(
                f"the scorer {self.name!r} has the formats {', '.join(self.formats)}, not "
                f"{shown(format)}: use another scorer or format."
            )
        self.format, self.shots = format, shots

    @abc.abstractmethod
    def ask(self, question: Question) -> tuple[str, list[str]]:
        """Write a question's prompt, or in a chat the user's message, and its answers."""

    def check(self, question: Question) -> None:
        """Raise InputError for an open question, one without options, and too few shots."""
        if not question.options:
            raise InputError(f"question {question.id} has no options to choose from: give it some.")
        if question.open:
            raise InputError(
                f"question {question.id} is open, it has no options to choose from: use the scorer "
                "`exact` or `generation`."
            )
        shots_of(self.shots, question)

    def encode(self, question: Question) -> Encoded:
        """Encode a question; InputError as `check`."""
        self.check(question)
        prompt, answers = self.ask(question)
        if self.chat:
            prompt = render_chat(self.tokenizer, user_message(prompt))
        else:
            delimiter = question.get(DELIMITER)
            space = " " if delimiter is None else delimiter
            answers = [f"{space}{answer}" for answer in answers]
        encoded = encode_answers(question, self.tokenizer, prompt, answers, special=not self.chat)
        check_length(encoded, self.context)
        return encoded

    def shown(self, question: Question) -> list[Question]:
        """Return the shots before a question: those of its own subject."""
        shots = shots_of(self.shots, question)
        subject = question.get("subject")
        return [shot for shot in shots if shot.get("subject") == subject]

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Compare the scores of the options."""
        gold = encoded.question.answer
        finite = np.asarray(readings.finite)
        return Verdicts.of_scores(self.scores(readings, encoded), gold, finite)

    def scores(self, readings: Readings, encoded: Encoded) -> np.ndarray:
        """Add up the log-probabilities of each option's tokens, [C, J]."""
        return option_scores(in_float64(readings), self.answer_key(encoded))

    def answer_key(self, encoded: Encoded) -> AnswerKey:
        divisors = self.divisors(encoded.question)
        return AnswerKey.of(encoded.option, encoded.prompts.targets, divisors)

    def divisors(self, question: Question) -> list[float]:
        """Return the number by which each option's log-likelihood is divided."""
        return [1.0] * len(question.options)


class Options(ChoiceScorer):
    """The option whose text has the highest log-likelihood: lm-evaluation-harness's `acc`.

    All options are packed after one shared prompt, that of lm-evaluation-harness's ARC tasks. Of
    equal options the first is the answer.
    """

    name = "options"
    formats = tuple(TEMPLATES)

    def __init__(self, tokenizer: Any, **options: Any):
        """Take the arguments of `ChoiceScorer`; InputError for shots in a chat."""
        super().__init__(tokenizer, **options)
        if self.chat and self.shots:
            raise InputError(
                f"the scorer {self.name!r} shows no shots in a chat: drop --chat, or use 0 shots."
            )

    def check(self, question: Question) -> None:
        """Raise InputError for an option without text as well."""
        super().check(question)
        if any(not option.strip() for option in question.options):
            raise InputError(
                f"question {question.id} has an empty option, whose text cannot be scored: use a "
                "scorer of letters, or leave the question out."
            )

    def ask(self, question: Question) -> tuple[str, list[str]]:
        """Write the question alone."""
        options = list(question.options)
        if question.get(DELIMITER) is not None:  # the text is a whole prompt
            return question.text, options
        if self.chat:
            request = INSTRUCTION if self.format == "instruction" else ""
            return f"{request}{question.text}", options
        template = TEMPLATES[self.format]
        shots = "".join(
            f"{template.replace(FIELD, shot.text)} {shot.options[shot.answer]}\n\n"
            for shot in self.shown(question)
        )
        return f"{shots}{template.replace(FIELD, question.text)}", options


class OptionsNorm(Options):
    """The same per character of the option's text: lm-evaluation-harness's `acc_norm`."""

    name = "options-norm"
    log_likelihoods = False

    def divisors(self, question: Question) -> list[float]:
        return [float(len(option)) for option in question.options]


class Letter(ChoiceScorer):
    """The most likely of the offered letters, after a prompt that lists the options."""

    name = "letter"
    formats = ("plain", "harness")
    lists_options = True

    def __init__(self, tokenizer: Any, **options: Any):
        """Take the arguments of `ChoiceScorer`; `harness` asks as the harness's MMLU tasks do.

        Raises InputError for shots in another format.
        """
        super().__init__(tokenizer, **options)
        if self.shots and self.format != "harness":
            raise InputError(
                "the plain prompt of letters shows no shots: use the format `harness`, or 0 shots."
            )

    def encode(self, question: Question) -> Encoded:
        """Encode a question; InputError for a letter of several tokens as well."""
        encoded = super().encode(question)
        if len(encoded.option) != len(question.options):
            sizes = np.bincount(encoded.option).tolist()
            raise InputError(
                f"question {question.id}: letters are {sizes} tokens long here, but must be one "
                "each: use the scorer `options`."
            )
        return encoded

    def ask(self, question: Question) -> tuple[str, list[str]]:
        letters = list(question.letters)
        if self.format == "harness":
            return self.harness_prompt(question), letters
        if self.chat:
            named = f"{', '.join(letters[:-1])} or {letters[-1]}"
            request = f"Answer with one letter, {named}, and nothing else."
            return f"{stated(question)}\n\n{request}", letters
        return f"Question: {stated(question)}\nAnswer:", letters

    def harness_prompt(self, question: Question) -> str:
        """Write the prompt of lm-evaluation-harness's MMLU tasks."""
        subject = question.get("subject")
        about = f" about {subject.replace('_', ' ')}" if subject else ""
        shots = [
            f"{stated(shot, strip=True)}\nAnswer: {shot.letters[shot.answer]}"
            for shot in self.shown(question)
        ]
        start = f"The following are multiple choice questions (with answers){about}."
        return "\n\n".join([start, *shots, f"{stated(question, strip=True)}\nAnswer:"])


class StrictLetter(Letter):
    """The most likely token of all, which must be the right letter."""

    name = "letter-strict"
    log_likelihoods = True
    mark = staticmethod(mark_letters)

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Compare the letter with the best other token of the vocabulary."""
        marked = mark_letters(in_float64(readings), self.answer_key(encoded))
        return Verdicts.of_scores(
            marked.scores,
            encoded.question.answer,
            np.asarray(readings.finite),
            answer=marked.answer,
            outside=marked.outside,
        )


def stated(question: Question, *, strip: bool = False) -> str:
    """Write a question and its options, each after its letter on a line of its own."""
    text = question.text.strip() if strip else question.text
    options = zip(question.letters, question.options, strict=True)
    return "\n".join([text, *(f"{letter}. {option}" for letter, option in options)])
