"""From questions to token rows: the prompts of each scorer, plain or through a chat template."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cola_jax.prompts import Prompts
from cola_jax.question import Question

# options: the option whose text has the highest log-likelihood (lm-evaluation-harness's acc);
# options-norm: divided by the option's length in characters (acc_norm); letter: the likeliest of
# the offered letters; letter-strict: the likeliest token of all, which must be the right letter.
ChoiceScorer = Literal["options", "options-norm", "letter", "letter-strict"]

# How letters are asked for: our own words, or the prompt of lm-evaluation-harness's MMLU.
LetterFormat = Literal["plain", "harness"]

# Llama's template prints today's date unless told one, and Qwen3's starts to think.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024", "enable_thinking": False}


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A question as a token row, with what turns readings into a verdict."""

    question: Question
    scorer: str
    prompts: Prompts  # one row: fields [T] and [Q]
    option: np.ndarray  # [Q], the option that each position read belongs to
    prompt_hash: str  # of the prompt's text
    reply: Any = None  # of an open question: how its answer is decoded, see `open.Reply`
    ends: tuple[int, ...] = ()  # tokens of which any ends an answer, where one must
    end: np.ndarray | None = None  # [Q], whether a read asks about the end of its option

    @property
    def num_tokens(self) -> int:
        """The tokens run through the model: the prompt and all packed continuations."""
        return len(self.prompts.ids)


def encode(
    questions: Sequence[Question],
    tokenizer: Any,
    scorer: ChoiceScorer,
    *,
    chat: bool = False,
    context: int | None = None,
    format: LetterFormat = "plain",
    shots: Sequence[Question] = (),
) -> list[Encoded]:
    """Encodes questions for a scorer.

    `options` packs the text of every option behind one prompt, `letter` asks for the letter
    behind a prompt that lists the options. Tokens are split between prompt and continuation as
    lm-evaluation-harness does. `format` and `shots` are of the letters' prompt: `harness` shows
    the shots of a question's own subject before it. Raises ValueError where the tokenizer has no
    chat template, a letter is more than one token, or a prompt is longer than `context`; and for
    an open question, which has no options to choose from.
    """
    check_chat(tokenizer, chat)
    if format not in ("plain", "harness"):
        raise ValueError(f"the format must be plain or harness, it is {format!r}.")
    plain = format == "plain" and not shots
    if not plain and (format == "plain" or scorer in ("options", "options-norm")):
        raise ValueError(
            f"the scorer {scorer!r} has one prompt without shots in the format {format!r}: use a "
            "scorer of letters with the format `harness`."
        )
    return [
        encode_question(question, tokenizer, scorer, chat, context, format, shots)
        for question in questions
    ]


def check_chat(tokenizer: Any, chat: bool) -> None:
    """Raises ValueError where a chat is asked of a tokenizer that has no template for one."""
    if chat and not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template: use the plain prompt (drop --chat).")


def encode_question(
    question: Question,
    tokenizer: Any,
    scorer: ChoiceScorer,
    chat: bool,
    context: int | None,
    format: LetterFormat = "plain",
    shots: Sequence[Question] = (),
) -> Encoded:
    """Encodes one question; see `encode`."""
    if question.open:
        raise ValueError(
            f"question {question.id} is open, it has no options to choose from: use the scorer "
            "`exact` or `generate`."
        )
    names_letter = scorer in ("letter", "letter-strict")
    if names_letter and format == "harness":
        text = harness_prompt(question, shots)
    else:
        text = letter_prompt(question, chat) if names_letter else options_prompt(question, chat)
    answers = list(question.letters if names_letter else question.options)
    if chat:
        text = render_chat(tokenizer, text)
    else:
        answers = [f" {answer}" for answer in answers]
    prompt, continuations = tokenize(tokenizer, text, answers, special=not chat)
    check_end(tokenizer, chat, prompt)
    check_continuations(question, answers, continuations, names_letter)
    prompts, option = pack(prompt, continuations)
    longest = int(prompts.positions.max()) + 1
    if context is not None and longest > context:
        raise ValueError(
            f"question {question.id} has {longest} tokens, but the model's context is "
            f"{context}: leave it out, or use a model with a longer context."
        )
    return Encoded(question, scorer, prompts, option, hash_of(text))


def check_end(tokenizer: Any, chat: bool, prompt: Sequence[int]) -> None:
    """Raises ValueError where the tokenizer ends a prompt that something is to follow."""
    if not chat and prompt and prompt[-1] == tokenizer.eos_token_id:
        raise ValueError(
            "the tokenizer ends every text with its EOS token, behind which no answer can be "
            "scored: turn add_eos_token off in the checkpoint's tokenizer_config.json."
        )


def hash_of(text: str) -> str:
    """Returns the digest by which a prompt's text is recorded."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_continuations(
    question: Question, answers: list[str], continuations: list[list[int]], names_letter: bool
) -> None:
    """Raises ValueError for a letter of several tokens, and for an answer of none."""
    if names_letter and any(len(tokens) != 1 for tokens in continuations):
        raise ValueError(
            f"question {question.id}: letters are {[len(c) for c in continuations]} tokens "
            "long here, but must be one each: use the scorer `options`."
        )
    for answer, tokens in zip(answers, continuations, strict=True):
        if not answer.strip():
            raise ValueError(
                f"question {question.id} has an empty option, whose text cannot be scored: use a "
                "scorer of letters, or leave the question out."
            )
        if not tokens:
            raise ValueError(
                f"question {question.id}: the option {answer!r} adds no token to its prompt, so "
                "it cannot be scored."
            )


def options_prompt(question: Question, chat: bool) -> str:
    """The prompt of lm-evaluation-harness's ARC tasks; a chat gets the question alone."""
    return question.text if chat else f"Question: {question.text}\nAnswer:"


def letter_prompt(question: Question, chat: bool) -> str:
    """Lists as many letters as there are options; a chat is told to answer with one of them."""
    listed = "\n".join(
        f"{x}. {option}" for x, option in zip(question.letters, question.options, strict=True)
    )
    if not chat:
        return f"Question: {question.text}\n{listed}\nAnswer:"
    letters = f"{', '.join(question.letters[:-1])} or {question.letters[-1]}"
    return f"{question.text}\n{listed}\n\nAnswer with one letter, {letters}, and nothing else."


def harness_prompt(question: Question, shots: Sequence[Question] = ()) -> str:
    """The prompt of lm-evaluation-harness's MMLU tasks; of the shots, those of its subject."""
    subject = question.get("subject")
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    said = [f"The following are multiple choice questions (with answers){about}."]
    for shot in shots:
        if shot.get("subject") == subject:
            said.append(f"{listing(shot)}\nAnswer: {shot.letters[shot.answer]}")
    return "\n\n".join([*said, f"{listing(question)}\nAnswer:"])


def listing(question: Question) -> str:
    """Returns a question and its options, each behind its letter."""
    options = zip(question.letters, question.options, strict=True)
    return "\n".join([question.text.strip(), *(f"{x}. {option}" for x, option in options)])


def render_chat(tokenizer: Any, text: str) -> str:
    """Wraps a user's message in the tokenizer's own chat template, up to the model's turn."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=False,
        add_generation_prompt=True,
        **TEMPLATE_ARGUMENTS,
    )


def tokenize(
    tokenizer: Any, text: str, answers: Sequence[str], *, special: bool
) -> tuple[list[int], list[list[int]]]:
    """Splits as lm-evaluation-harness does: prompt alone, and what each whole text adds behind it.

    A chat template writes its own special tokens, so `special` is off for it.
    """
    prompt = tokenizer(text, add_special_tokens=special).input_ids
    wholes = [tokenizer(text + answer, add_special_tokens=special).input_ids for answer in answers]
    return prompt, [whole[len(prompt) :] for whole in wholes]


def pack(
    prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> tuple[Prompts, np.ndarray]:
    """Packs continuations behind a prompt; each is read at the token before each of its own.

    Returns the row and, for each position read, the continuation it belongs to. The last
    token of a continuation predicts nothing that is asked, so it is left out.
    """
    ids, positions, branch = list(prompt), list(range(len(prompt))), [0] * len(prompt)
    read, targets, option = [], [], []
    for j, tokens in enumerate(continuations):
        first = len(ids)
        ids += tokens[:-1]
        positions += range(len(prompt), len(prompt) + len(tokens) - 1)
        branch += [j + 1] * (len(tokens) - 1)
        read += [len(prompt) - 1, *range(first, len(ids))]
        targets += tokens
        option += [j] * len(tokens)
    row = Prompts(
        ids=np.asarray(ids, np.int32),
        positions=np.asarray(positions, np.int32),
        branch=np.asarray(branch, np.int32),
        read=np.asarray(read, np.int32),
        targets=np.asarray(targets, np.int32),
    )
    return row, np.asarray(option, np.int32)
