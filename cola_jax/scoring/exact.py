"""`exact`: whether greedy decoding gives the gold answer, from one forward pass."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_jax.errors import InputError, shown
from cola_jax.execute.decoder import Stop
from cola_jax.execute.inputs import decode_tokens
from cola_jax.prompts import Prompts, Readings
from cola_jax.question import Question
from cola_jax.scoring.answer_key import AnswerKey, mark_exact
from cola_jax.scoring.generation import GOLD, OpenScorer
from cola_jax.scoring.scorer import (
    Encoded,
    check_length,
    hash_of,
    in_float64,
    pack,
    tokenize_prompt,
)
from cola_jax.scoring.verdicts import Verdicts

ENDS_READ = 8  # end tokens whose log-probabilities are read; any end is recognised


@dataclasses.dataclass(frozen=True)
class EncodedAnswer(Encoded):
    """A question with its answers forced after the prompt, each with the tokens that end it."""

    end: np.ndarray  # [Q], whether a read asks about the end of its option
    ends: tuple[int, ...]  # tokens that end an answer; empty where it needs no end


class Exact(OpenScorer):
    """Feeds the answers after the prompt: right if each token of gold is the most likely one.

    That is so if and only if greedy decoding gives the gold answer. A decoy is packed as a second
    option. An answer's score is the margin of its weakest token, positive where it is decoded.
    """

    name = "exact"
    log_likelihoods = True
    answer_logprobs = True
    mark = staticmethod(mark_exact)

    def encode(self, question: Question) -> Encoded:
        """Encode the prompt with each answer after it, read at every token and at its end.

        Raises InputError for multiple choice, and for an answer that cannot be decoded there.
        """
        self.check(question)
        text = self.prompt(question)
        prompt = tokenize_prompt(self.tokenizer, text, not self.chat)
        answers = [self.answer_tokens(question, text, prompt, each) for each in question.options]
        # a box is complete when it is closed; any other answer when something ends it
        if self.rule == "boxed":
            ends = closing_tokens(self.tokenizer, answers[0][0][-1])
            bodies = [body for body, _ in answers]
            continuations = [(body, body[-1] == ends[0]) for body in bodies]
        else:
            ends = end_tokens(self.stop)
            continuations = [with_end(body, whole, ends) for body, whole in answers]
        row, option = pack(prompt, [tokens for tokens, _ in continuations])
        row, option, end = ask_about_ends(row, option, [ended for _, ended in continuations], ends)
        encoded = EncodedAnswer(
            question,
            row,
            option,
            hash_of(text),
            prompt=decode_tokens(self.tokenizer, prompt),
            end=end,
            ends=ends,
        )
        check_length(encoded, self.context)
        return encoded

    def check(self, question: Question) -> None:
        """Raise InputError for an answer with a stop string as well."""
        super().check(question)
        for option in question.options:
            body, _ = self.answer_texts(question, option)
            if self.stop.find_string(body) is not None:
                raise InputError(
                    f"question {question.id}: the answer {shown(body)} contains a stop string, so "
                    "no decoding gives it: leave it out, or use another format."
                )

    def answer_texts(self, question: Question, option: str) -> tuple[str, str]:
        """Return the text of an answer after its prompt, without and with its end."""
        whole = self.format.completion(question, option, chat=self.chat)
        stop = self.format.stop
        body = whole[: len(whole) - len(stop[0])] if stop and not self.chat else whole
        return body, whole

    def answer_tokens(
        self, question: Question, text: str, prompt: list[int], option: str
    ) -> tuple[list[int], list[int]]:
        """Return the tokens that an answer adds after a prompt, without and with its end."""
        body, whole = self.answer_texts(question, option)
        tokens = self.tokens_after(question, text, prompt, body)
        if not tokens:
            raise InputError(
                f"question {question.id}: an answer adds no token to its prompt, so it cannot be "
                "scored."
            )
        return tokens, self.tokens_after(question, text, prompt, whole)

    def tokens_after(
        self, question: Question, text: str, prompt: list[int], answer: str
    ) -> list[int]:
        """Return the tokens that a text adds after a prompt."""
        # the model cannot decode a token that begins in the prompt
        whole = self.tokenizer(text + answer, add_special_tokens=not self.chat).input_ids
        if whole[: len(prompt)] != prompt:
            raise InputError(
                f"question {question.id}: the tokenizer joins the end of its prompt and the answer "
                f"{shown(answer)}: let the prompt end without a blank, or use the scorer "
                "`generation`."
            )
        return whole[len(prompt) :]

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Compare the weakest token of each answer with its rival."""
        marked = mark_exact(in_float64(readings), self.answer_key(encoded))
        return Verdicts.of_scores(
            marked.scores,
            GOLD,
            np.asarray(readings.finite),
            answer=marked.answer,
            outside=np.nan,
            answer_logprobs=marked.answer_logprobs,
        )

    def answer_key(self, encoded: Encoded) -> AnswerKey:
        assert isinstance(encoded, EncodedAnswer)
        divisors = [1.0] * len(encoded.question.options)
        targets = encoded.prompts.targets
        return AnswerKey.of(encoded.option, targets, divisors, encoded.end, encoded.ends)


def with_end(body: list[int], whole: list[int], ends: tuple[int, ...]) -> tuple[list[int], bool]:
    """Return the tokens of an answer and of its end, and whether the last is an end."""
    if not ends:
        return body, False
    if whole[: len(body)] != body:  # the tokenizer joins the answer and its end: take them as one
        return whole, False
    return body + (whole[len(body) : len(body) + 1] or list(ends[:1])), True


def ask_about_ends(
    row: Prompts, option: np.ndarray, has_end: Sequence[bool], ends: tuple[int, ...]
) -> tuple[Prompts, np.ndarray, np.ndarray]:
    """Ask about several end tokens at the last position of each answer that has an end.

    Returns the row, the answer of each read, and whether the read is about an end.
    """
    read = np.asarray(row.read)
    targets = np.asarray(row.targets)
    columns = []
    for j, ended in enumerate(has_end):
        *body, last = np.flatnonzero(option == j).tolist()
        columns += [(read[i], targets[i], j, False) for i in body]
        tokens = list(dict.fromkeys([targets[last], *(ends if ended else ())]))[:ENDS_READ]
        columns += [(read[last], token, j, ended) for token in tokens]
    read, targets, option, end = (np.array(x, np.int32) for x in zip(*columns, strict=True))
    return row.replace(read=read, targets=targets), option, end.astype(bool)


def closing_tokens(tokenizer: Any, last: int) -> tuple[int, ...]:
    """List the tokens that begin with the last token of a box, which closes it."""
    text = tokenizer.decode([last])
    if not text.endswith("}"):
        return (last,)
    return (last, *(i for i in tokens_starting_with(tokenizer, (text,)) if i != last))


def end_tokens(stop: Stop) -> tuple[int, ...]:
    """List the tokens that end an answer: stop tokens, and those whose text begins a stop string.

    The stop string may be one token or begin a longer one, as a line break often does.
    """
    starting = tokens_starting_with(stop.tokenizer, stop.strings) if stop.strings else ()
    return tuple(dict.fromkeys([*stop.tokens, *starting]))


@functools.lru_cache(maxsize=8)
def tokens_starting_with(tokenizer: Any, strings: tuple[str, ...]) -> tuple[int, ...]:
    """List the tokens whose text begins with one of the strings, the shortest texts first."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    starting = [i for i, text in enumerate(texts) if text.startswith(strings)]
    return tuple(sorted(starting, key=lambda i: (len(texts[i]), i)))
