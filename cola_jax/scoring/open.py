"""From open questions to token rows: for decoding an answer, and for the gold answer forced."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cola_jax.execute.stop import Stop
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.scoring.answer import Rule, find_answer
from cola_jax.scoring.encode import Encoded, check_chat, check_end, hash_of, pack, render_chat
from cola_jax.tasks.formats import Format

# exact: whether greedy decoding gives the gold answer, from one forward pass; generate: decode the
# answer and grade it.
OpenScorer = Literal["exact", "generate"]
ENDS_READ = 8  # end tokens whose log-probabilities are read; any end is recognised


@dataclasses.dataclass(frozen=True)
class Reply:
    """How an answer is decoded, and found in the text."""

    rule: Rule
    stop: Stop
    max_new_tokens: int


def encode_open(
    questions: Sequence[Question],
    tokenizer: Any,
    scorer: OpenScorer,
    format: Format,
    *,
    shots: Sequence[Question] = (),
    chat: bool = False,
    context: int | None = None,
    stop_tokens: Sequence[int] = (),
    max_new_tokens: int | None = None,
) -> list[Encoded]:
    """Encodes open questions for a scorer.

    `exact` packs the gold answer, its end included, and the decoy behind the prompt: greedy
    decoding gives these tokens if and only if each of them is the likeliest one. `generate` has
    the prompt alone. Raises ValueError where the tokenizer has no chat template, for `exact` in a
    format that shows its work or with an answer that can't be decoded behind its prompt, and where
    a prompt and its answer exceed `context`.
    """
    check_chat(tokenizer, chat)
    limit = format.max_new_tokens if max_new_tokens is None else max_new_tokens
    if limit < 1:
        raise ValueError(f"max_new_tokens must be at least 1, it is {limit}.")
    # behind a closed box nothing counts; other answers are complete when their text ends
    rule = box_closed if format.extract == "boxed" else None
    stop = Stop(tuple(stop_tokens), format.stop, rule=rule, tokenizer=tokenizer)
    reply = Reply(format.extract, stop, limit)
    out = []
    for question in questions:
        if not question.open:
            raise ValueError(
                f"question {question.id} is multiple choice: use a scorer of options or letters."
            )
        text = format.ask(question, shots)
        if chat:
            text = render_chat(tokenizer, text)
        encode = force if scorer == "exact" else ask
        encoded = encode(question, tokenizer, text, format, chat, reply)
        check_length(encoded, context, 0 if scorer == "exact" else limit)
        out.append(encoded)
    return out


def box_closed(text: str) -> bool:
    """Whether a text has a complete box, as if it were cut here."""
    return "}" in text and find_answer(text, "boxed", cut=True).complete


def ask(
    question: Question, tokenizer: Any, text: str, format: Format, chat: bool, reply: Reply
) -> Encoded:
    """Encodes a prompt to decode behind."""
    ids = tokenizer(text, add_special_tokens=not chat).input_ids
    check_end(tokenizer, chat, ids)
    row, option = pack(ids, [])
    return Encoded(
        question,
        "generate",
        row.replace(read=None, targets=None),
        option,
        hash_of(text),
        reply=reply,
    )


def force(
    question: Question, tokenizer: Any, text: str, format: Format, chat: bool, reply: Reply
) -> Encoded:
    """Encodes a prompt with each answer behind it, read at every token and at its end."""
    answers = [format.completion(question, option, chat=chat) for option in question.options]
    bare = [a[: len(a) - len(format.stop[0])] if format.stop and not chat else a for a in answers]
    check_reachable(question, bare, reply.stop)
    prompt = tokenizer(text, add_special_tokens=not chat).input_ids
    check_end(tokenizer, chat, prompt)
    alone, whole = (
        [behind(tokenizer, question, text, prompt, each, chat) for each in texts]
        for texts in (bare, answers)
    )
    for tokens in alone:
        if not tokens:
            raise ValueError(
                f"question {question.id}: an answer adds no token to its prompt, so it cannot be "
                "scored."
            )
    # a box is complete when it is closed; any other answer when something ends it
    if format.extract == "boxed":
        ends = closing_tokens(tokenizer, alone[0][-1])
        continuations = [(tokens, int(tokens[-1] == ends[0])) for tokens in alone]
    else:
        ends = end_tokens(reply.stop)
        continuations = ended(alone, whole, ends)
    row, option = pack(prompt, [tokens for tokens, _ in continuations])
    row, option, end = with_ends(row, option, [n for _, n in continuations], ends)
    return Encoded(question, "exact", row, option, hash_of(text), reply=reply, ends=ends, end=end)


def closing_tokens(tokenizer: Any, last: int) -> tuple[int, ...]:
    """Lists the tokens that close a box as its last one does, whatever else they say behind it."""
    text = tokenizer.decode([last])
    if not text.endswith("}"):
        return (last,)
    return (last, *(i for i in starting_with(tokenizer, (text,)) if i != last))


def ended(
    alone: Sequence[list[int]], whole: Sequence[list[int]], ends: tuple[int, ...]
) -> list[tuple[list[int], int]]:
    """Returns the tokens of each answer and of its end, and whether the last is an end."""
    out = []
    for text_alone, text_whole in zip(alone, whole, strict=True):
        first = text_whole[len(text_alone) : len(text_alone) + 1] or list(ends[:1])
        merged = text_whole[: len(text_alone)] != text_alone
        if merged and ends:  # the tokenizer joins the answer and its end: take them as one
            out.append((text_whole, 0))
        else:
            out.append((text_alone + (first if ends else []), 1 if ends else 0))
    return out


def check_reachable(question: Question, answers: Sequence[str], stop: Stop) -> None:
    """Raises ValueError where decoding would end within an answer."""
    for answer in answers:
        if stop.found(answer) is not None:
            raise ValueError(
                f"question {question.id}: the answer {answer!r} has a stop string in it, so no "
                "decoding gives it: leave it out, or use another format."
            )


def behind(
    tokenizer: Any, question: Question, text: str, prompt: list[int], answer: str, chat: bool
) -> list[int]:
    """Returns the tokens that an answer adds behind a prompt.

    Raises ValueError where the tokenizer makes one token of the prompt's end and the answer's
    beginning: the model, given the prompt, can't say that.
    """
    whole = tokenizer(text + answer, add_special_tokens=not chat).input_ids
    if whole[: len(prompt)] != prompt:
        raise ValueError(
            f"question {question.id}: the tokenizer joins the end of its prompt and the answer "
            f"{answer!r}: let the prompt end without a blank, or use the scorer `generate`."
        )
    return whole[len(prompt) :]


def with_ends(
    row: Prompts, option: np.ndarray, ended: Sequence[int], ends: tuple[int, ...]
) -> tuple[Prompts, np.ndarray, np.ndarray]:
    """Asks at the last place of each answer that has an end about several end tokens.

    Returns the row, the answer of each read, and whether the read is about an end.
    """
    read, targets = np.asarray(row.read), np.asarray(row.targets)
    columns = []
    for j, has_end in enumerate(ended):
        mine = np.flatnonzero(option == j)
        body = mine[: len(mine) - has_end]
        columns += [(read[i], targets[i], j, False) for i in body]
        if has_end:
            first = int(targets[mine[-1]])
            asked = list(dict.fromkeys([first, *ends]))[:ENDS_READ]
            columns += [(read[mine[-1]], token, j, True) for token in asked]
    read, targets, option, end = (np.array(x) for x in zip(*columns, strict=True))
    row = row.replace(read=read.astype(np.int32), targets=targets.astype(np.int32))
    return row, option.astype(np.int32), end.astype(bool)


def end_tokens(stop: Stop) -> tuple[int, ...]:
    """Lists the tokens that end an answer: stop tokens, and those whose text begins a stop string.

    The stop string may be one token or be the beginning of a longer one, as a line break often is.
    """
    starting = starting_with(stop.tokenizer, stop.strings) if stop.strings else ()
    return (*stop.tokens, *(token for token in starting if token not in stop.tokens))


@functools.lru_cache(maxsize=8)
def starting_with(tokenizer: Any, strings: tuple[str, ...]) -> tuple[int, ...]:
    """Lists the tokens whose text begins with one of the strings, the shortest texts first."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    found = [i for i, text in enumerate(texts) if text.startswith(strings)]
    return tuple(sorted(found, key=lambda i: (len(texts[i]), i)))


def check_length(encoded: Encoded, context: int | None, more: int) -> None:
    """Raises ValueError where a prompt and what follows it exceed the context."""
    longest = int(np.asarray(encoded.prompts.positions).max()) + 1
    if context is not None and longest + more > context:
        behind = f" and {more} new ones" if more else ""
        raise ValueError(
            f"question {encoded.question.id} has {longest} tokens{behind}, but the model's context "
            f"is {context}: leave it out, use fewer shots, or a model with a longer context."
        )
