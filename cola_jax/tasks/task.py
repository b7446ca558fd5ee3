"""`Asking`: which questions a session asks, how it puts them, and what makes an answer right."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from cola_jax.question import Question
from cola_jax.scoring.answer import Rule, check_rule
from cola_jax.scoring.encode import TEMPLATE_ARGUMENTS, Encoded, encode
from cola_jax.scoring.open import encode_open
from cola_jax.tasks.formats import Format, format_of
from cola_jax.tasks.load import kind_of, load_questions
from cola_jax.tasks.shots import SOURCE, load_shots

Scorer = Literal["options", "options-norm", "letter", "letter-strict", "exact", "generate"]
CHOICE = ("arc", "mmlu")  # kinds of multiple choice


@dataclasses.dataclass(frozen=True)
class Asking:
    """The questions, their prompts and their scorer."""

    task: str
    """arc-easy, arc-challenge, mmlu, gsm8k, math, math-500, dart-math (from the Hugging Face Hub),
    arithmetic (generated), or a JSONL file with the fields of one of them or prompt and answer."""
    split: str | None = None
    """Of a task from the Hub; the one that it is tested on by default."""
    hub: str | None = None
    """Where the task's data set is instead: another Hub id, or a directory of the same layout."""
    limit: int | None = None
    """Take only the first so many questions; 100 of arithmetic by default."""
    level: int | None = None
    """1 to 5: the difficulty of MATH, DART-Math or arithmetic."""
    fail_rate_level: int | None = None
    """1 to 5: how often a model failed on DART-Math's questions, a fifth of them in each."""
    subject: str | None = None
    """Of MMLU, MATH or DART-Math, as their rows name it, such as abstract_algebra or Algebra."""
    task_seed: int = 0
    """Of the arithmetic task's questions."""
    scorer: Scorer | None = None
    """options, options-norm: likelihood of each option's text, raw or per character; letter,
    letter-strict: the likeliest offered letter, or the likeliest token of all; exact: whether
    greedy decoding gives the gold answer, from one forward pass; generate: decode and grade. By
    default options, of open questions exact, or generate where the format shows its work."""
    format: str | None = None
    """The prompt: direct (the answer alone, in a box), harness (lm-evaluation-harness's), or plain;
    by default the first that the task has."""
    rule: Rule | None = None
    """How the answer is found in what was decoded, instead of the format's way: boxed, hashes,
    number, minerva or line (see tasks/README.md)."""
    shots: int | None = None
    """Questions shown with their answers before each; as many as the format has by default."""
    shots_file: str | None = None
    """A JSONL file of the questions shown, instead of the task's training split."""
    chat: bool = False
    """Put the prompt through the model's chat template."""
    max_new_tokens: int | None = None
    """The most tokens that `generate` decodes; as many as the format allows by default."""

    def ask(
        self, tokenizer: Any, *, context: int, stop_tokens: Callable[[], Sequence[int]]
    ) -> tuple[list[Encoded], dict[str, Any]]:
        """Loads and encodes the questions; returns them and what is recorded of their prompts.

        `stop_tokens` is called for open questions alone: not every model names one. Raises
        ValueError for whatever is wrong with the task, a row, a prompt or these settings.
        """
        kind = kind_of(self.task)
        questions = load_questions(
            self.task,
            split=self.split,
            limit=self.limit,
            level=self.level,
            fail_rate_level=self.fail_rate_level,
            subject=self.subject,
            hub=self.hub,
            seed=self.task_seed,
        )
        if kind in CHOICE:
            return self.ask_choice(questions, tokenizer, context)
        return self.ask_open(kind, questions, tokenizer, context, stop_tokens())

    def ask_choice(
        self, questions: Sequence[Question], tokenizer: Any, context: int
    ) -> tuple[list[Encoded], dict[str, Any]]:
        """Encodes multiple choice."""
        scorer = self.scorer or "options"
        if scorer in ("exact", "generate"):
            raise ValueError(
                f"{self.task} is multiple choice, and the scorer {scorer!r} is for open questions: "
                "use options, options-norm, letter or letter-strict."
            )
        self.refuse_decoding()
        style = self.format or "plain"
        shots = self.load_shots(0, questions)
        encoded = encode(
            questions,
            tokenizer,
            scorer,
            chat=self.chat,
            context=context,
            format=style,  # pyright: ignore[reportArgumentType] - checked there
            shots=shots,
        )
        record: dict[str, Any] = {"chat": TEMPLATE_ARGUMENTS if self.chat else None}
        if style != "plain":
            record["prompt"] = {"format": style, "shots": [shot.id for shot in shots]}
        return encoded, {"scorer": scorer, **record}

    def ask_open(
        self,
        kind: str,
        questions: Sequence[Question],
        tokenizer: Any,
        context: int,
        stop_tokens: Sequence[int],
    ) -> tuple[list[Encoded], dict[str, Any]]:
        """Encodes open questions."""
        format = format_of(kind, self.format)
        scorer = self.scorer or ("generate" if format.shows_work else "exact")
        if scorer not in ("exact", "generate"):
            raise ValueError(
                f"{self.task} asks open questions, and the scorer {scorer!r} is for multiple "
                "choice: use exact or generate."
            )
        if scorer == "exact":
            self.refuse_decoding()
        if self.rule is not None:
            check_rule(self.rule)
            format = dataclasses.replace(format, extract=self.rule)
        shots = self.load_shots(format.shots, questions)
        encoded = encode_open(
            questions,
            tokenizer,
            scorer,
            format,
            shots=shots,
            chat=self.chat,
            context=context,
            stop_tokens=stop_tokens,
            max_new_tokens=self.max_new_tokens,
        )
        record = prompt_record(
            format,
            [e.prompt_hash for e in encoded],
            shots=shots,
            chat=self.chat,
            stop_ids=stop_tokens,
        )
        return encoded, {
            "scorer": scorer,
            "chat": TEMPLATE_ARGUMENTS if self.chat else None,
            "prompt": record,
            "max_new_tokens": encoded[0].reply.max_new_tokens if scorer == "generate" else None,
        }

    def refuse_decoding(self) -> None:
        """Raises ValueError for what only the scorer `generate` uses."""
        for name in ("max_new_tokens", "rule"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is of the scorer `generate`: leave it out.")

    def load_shots(self, default: int, questions: Sequence[Question]) -> list[Question]:
        """Loads the questions shown before each."""
        return load_shots(
            self.task,
            default if self.shots is None else self.shots,
            shots_file=self.shots_file,
            asked=questions,
            level=self.level,
            hub=None if self.task in SOURCE else self.hub,
            seed=self.task_seed,
        )


def prompt_record(
    format: Format,
    texts: Sequence[str],
    *,
    shots: Sequence[Question] = (),
    chat: bool = False,
    stop_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Returns everything that determines the prompts, JSON-compatible, with a SHA-256 of it.

    `texts` are the prompts as the model gets them, in order, and are part of the hash alone;
    `stop_ids` are the tokens that end an answer.
    """
    record: dict[str, Any] = {
        "format": dataclasses.asdict(format) | {"shots": len(shots), "stop": list(format.stop)},
        "shots": [shot.id for shot in shots],
        "chat": chat,
        "template_arguments": dict(TEMPLATE_ARGUMENTS) if chat else None,
        "stop_ids": [int(token) for token in stop_ids],
    }
    # the texts contain the shots, so the hash covers their wording too
    content = json.dumps([record, list(texts)], sort_keys=True, ensure_ascii=True)
    return record | {"hash": hashlib.sha256(content.encode()).hexdigest()}


def task_digest(questions: Sequence[Encoded]) -> str:
    """Returns the SHA-256 of what the model is given and asked, in order."""
    sha = hashlib.sha256()
    for encoded in questions:
        question = encoded.question
        sha.update(repr((question.id, question.options, question.answer)).encode())
        if encoded.reply is not None:
            reply = encoded.reply
            sha.update(repr((reply.rule, reply.stop.tokens, reply.stop.strings)).encode())
        for array in (*jax.tree.leaves(encoded.prompts), encoded.option):
            sha.update(repr(np.asarray(array).tolist()).encode())
    return sha.hexdigest()
