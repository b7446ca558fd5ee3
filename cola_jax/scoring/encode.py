"""From questions to token rows: prompts, and answers packed after them."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from cola_jax.errors import InputError, reading, shown
from cola_jax.prompts import PROMPT, Prompts
from cola_jax.question import Question
from cola_jax.scoring.answer import Rule

# Llama's template prints today's date by default, and Qwen3's starts to think.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024", "enable_thinking": False}

# Questions shown with their answers before each, or a function from a question to those before it
ShotSource = Sequence[Question] | Callable[[Question], Sequence[Question]]


class PromptFormat(Protocol):
    """The wording of open questions and the rules of their answers; see `tasks.formats`."""

    @property
    def name(self) -> str: ...
    @property
    def stop(self) -> tuple[str, ...]: ...
    @property
    def extract(self) -> Rule: ...
    @property
    def max_new_tokens(self) -> int: ...
    def ask(self, question: Question, shots: Sequence[Question] = ()) -> str: ...
    def completion(self, question: Question, answer: str, *, chat: bool = False) -> str: ...


def shots_of(shots: ShotSource, question: Question) -> Sequence[Question]:
    """Return the questions that are shown before a question."""
    return shots(question) if callable(shots) else shots


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A question as a token row, and the option that each read belongs to."""

    question: Question
    prompts: Prompts  # one row: fields [T] and [Q]
    option: np.ndarray  # [Q]
    prompt_hash: str  # of the prompt's text

    @property
    def num_tokens(self) -> int:
        """The number of tokens run: the prompt and all packed continuations."""
        return len(self.prompts.ids)


def encode_answers(
    question: Question,
    tokenizer: Any,
    prompt: str,
    answers: Sequence[str],
    *,
    special: bool = True,
) -> Encoded:
    """Encode a prompt with each answer packed after it, one option each.

    Tokens are split as in lm-evaluation-harness: those of the prompt alone, and those that each
    whole text adds.

    Args:
      special: add the tokenizer's special tokens, which a chat template writes itself.

    Raises:
      InputError: where the tokenizer ends the prompt, and for an answer that adds no token.
    """
    ids = tokenize_prompt(tokenizer, prompt, special)
    continuations = []
    for answer in answers:
        tokens = tokenizer(prompt + answer, add_special_tokens=special).input_ids[len(ids) :]
        if not tokens:
            raise InputError(
                f"question {question.id}: the option {shown(answer)} adds no token to its prompt, "
                "so it cannot be scored."
            )
        continuations.append(tokens)
    row, option = pack(ids, continuations)
    return Encoded(question, row, option, hash_of(prompt))


def encode_prompt(
    question: Question, tokenizer: Any, prompt: str, *, special: bool = True
) -> Encoded:
    """Encode a prompt alone, to decode after it."""
    row, option = pack(tokenize_prompt(tokenizer, prompt, special), [])
    return Encoded(question, row.replace(read=None, targets=None), option, hash_of(prompt))


def tokenize_prompt(tokenizer: Any, prompt: str, special: bool) -> list[int]:
    """Tokenize a prompt; InputError where the tokenizer ends it with its EOS token."""
    ids = tokenizer(prompt, add_special_tokens=special).input_ids
    if special and ids and ids[-1] == tokenizer.eos_token_id:
        raise InputError(
            "the tokenizer ends every text with its EOS token, after which no answer can be "
            "scored: turn add_eos_token off in the checkpoint's tokenizer_config.json."
        )
    return ids


def pack(
    prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> tuple[Prompts, np.ndarray]:
    """Pack continuations after a prompt, and read at the token before each of their tokens.

    The last token of a continuation is left out, since no token of it follows.

    Returns:
      The row [T], and the continuation [Q] of each read position.
    """
    ids, positions, branch = list(prompt), list(range(len(prompt))), [PROMPT] * len(prompt)
    read, targets, option = [], [], []
    for j, tokens in enumerate(continuations):
        first = len(ids)
        ids += tokens[:-1]
        positions += range(len(prompt), len(prompt) + len(tokens) - 1)
        branch += [j + 1] * (len(tokens) - 1)
        read += [len(prompt) - 1, *range(first, len(ids))]
        targets += tokens
        option += [j] * len(tokens)
    fields = (ids, positions, branch, read, targets)
    row = Prompts(*(np.asarray(values, np.int32) for values in fields))
    return row, np.asarray(option, np.int32)


def render_chat(tokenizer: Any, text: str) -> str:
    """Wrap a user's message in the tokenizer's own chat template, up to the model's turn."""
    action = "Repair its chat_template, or remove it: prompts are then plain text."
    with reading("the tokenizer's chat template", action):
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            **TEMPLATE_ARGUMENTS,
        )


def check_length(encoded: Encoded, context: int | None, more: int = 0) -> None:
    """Raise InputError where a prompt and `more` new tokens exceed the context."""
    longest = int(np.asarray(encoded.prompts.positions).max()) + 1
    if context is not None and longest + more > context:
        new = f" and {more} new ones" if more else ""
        raise InputError(
            f"question {encoded.question.id} has {longest} tokens{new}, but the model's context is "
            f"{context}: leave it out, use fewer shots, or a model with a longer context."
        )


def hash_of(text: str) -> str:
    """Return the digest by which a prompt's text is recorded."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
