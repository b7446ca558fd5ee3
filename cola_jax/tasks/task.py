"""`TaskConfig`: which questions are asked, how, and what makes an answer right."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from cola_jax.scoring.answer import Rule, check_rule
from cola_jax.tasks.names import ARITHMETIC as ARITHMETIC
from cola_jax.tasks.names import canonical

if TYPE_CHECKING:
    from cola_jax.question import Question
    from cola_jax.scoring.encode import Encoded
    from cola_jax.scoring.scorer import Scorer
    from cola_jax.tasks.variants import Variant

ScorerName = Literal["options", "options-norm", "letter", "letter-strict", "exact", "generation"]
HARNESS = "harness"  # the kind of a task of lm-evaluation-harness
CHOICE = ("arc", "mmlu", HARNESS)  # kinds of multiple choice
OWN = ("prompt", "question")  # kinds of a user's own file
Part = Literal["train", "held-out"]
DEFAULT_LIMIT = 100  # questions of arithmetic


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Encoded questions, their scorer, and what is recorded of their prompts."""

    encoded: list["Encoded"]
    scorer: "Scorer"
    record: dict[str, Any]
    variants: "Sequence[Variant]" = ()  # the same questions, asked in other ways
    held_out: "Sequence[Encoded]" = ()  # other questions, asked in the same way


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The questions, their prompts and their scorer."""

    task: Annotated[str, arg(aliases=["-t"])]
    """A task of the Hugging Face Hub (arc_easy, arc_challenge, mmlu, gsm8k, math, math_500,
    dart_math), arithmetic (generated), a JSONL file with the fields of one of them or prompt and
    answer, or another multiple-choice task of lm-evaluation-harness (extra lm-eval), such as
    hellaswag. `cola search` and `cola evaluate` take several, such as arc_easy,gsm8k, each with a
    directory in that of the run."""
    split: str | None = None
    """Split of a task from the Hub; its test split by default."""
    hub: str | None = None
    """Hub id, or local directory of the same layout, to take the task's data set from instead."""
    limit: Annotated[int | float | None, arg(aliases=["-l"], metavar="N|SHARE")] = None
    """Number of questions, from the first, or a share of them, such as 0.1; all by default, 100 of
    arithmetic."""
    level: int | None = None
    """Difficulty of MATH, DART-Math or arithmetic, 1 to 5."""
    fail_rate_level: int | None = None
    """Difficulty of DART-Math by how often a model failed, 1 to 5, a fifth of the questions in
    each."""
    subject: str | None = None
    """Subject of MMLU, MATH or DART-Math as their rows name it, such as abstract_algebra or
    Algebra."""
    task_seed: int = 0
    """Random seed of the arithmetic task's questions."""
    scorer: ScorerName | None = None
    """How an answer is judged. options, options-norm: by the likelihood of each option's text, raw
    or per character; letter, letter-strict: by the most likely offered letter, or the most likely
    token of all; exact: by whether greedy decoding gives the gold answer, in one forward pass;
    generation: by decoding and grading. Options by default; for open questions exact, or generation
    where the format shows its work and for your own prompts."""
    format: str | None = None
    """Prompt format: direct (the answer alone, in a box), harness (lm-evaluation-harness's), or
    plain; by default the first that the task has."""
    rule: Rule | None = None
    """How the answer is found in a completion, instead of the format's way: boxed, hashes, number,
    minerva or line (see tasks/README.md)."""
    shots: Annotated[int | None, arg(name="num-fewshot")] = None
    """Number of questions shown with their answers before each; the format's by default, none of
    multiple choice."""
    shots_file: str | None = None
    """JSONL file of the questions shown, instead of the task's training split."""
    chat: bool = False
    """Put the prompt through the model's chat template."""
    max_new_tokens: int | None = None
    """Most tokens that `generation` decodes; the format's limit by default."""
    variants: tuple[str, ...] = ()
    """Other ways to ask each question, in which what a search finds is asked again: plain, chat,
    instruction, shots, order (of the options, for letters), or a text file with {question} in it
    where the question belongs."""
    held_out: int = 0
    """Number of questions kept apart, beyond the limit, on which what the others taught is
    measured; a hash of its text decides whether a question is."""
    held_out_from: str | None = None
    """JSONL file of the held-out questions, instead of some of the task's own; all of it, or the
    first so many."""
    held_out_seed: int = 0
    """Random seed of which questions are held out."""
    part: Part = "train"
    """Questions that are run: those that are not held out, or those that are."""

    def __post_init__(self):
        if not isinstance(self.task, str):  # tyro's mark of a value that has to be given
            return
        task, subject = canonical(self.task)
        if subject is not None and self.subject not in (None, subject):
            raise ValueError(f"{self.task} has one subject, and {self.subject!r} is another.")
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "subject", subject or self.subject)

    def load(self) -> "tuple[list[Question], list[Question]]":
        """Loads the questions for training and those held out; ValueError as `load_questions`."""
        from cola_jax.tasks.held_out import check_apart, split
        from cola_jax.tasks.load import kind_of, load_questions

        self.check_held_out()
        common: dict[str, Any] = {
            name: getattr(self, name) for name in ("split", "level", "fail_rate_level", "subject")
        }
        beside = 0 if self.held_out_from else self.held_out
        questions = load_questions(
            self.task,
            limit=self.limit,
            beside=beside,
            hub=self.hub,
            seed=self.task_seed,
            num_fewshot=self.shots,
            **common,
        )
        if not self.held_out_from:
            return split(questions, self.held_out, self.held_out_seed)
        if kind_of(self.held_out_from) != kind_of(self.task):
            raise ValueError(
                f"{self.held_out_from} asks {kind_of(self.held_out_from)} questions, {self.task} "
                f"{kind_of(self.task)} questions: hold out questions of the same kind."
            )
        held = load_questions(self.held_out_from, limit=self.held_out or None)
        check_apart(questions, held)
        return questions, held

    def check_held_out(self) -> None:
        """Raises ValueError for settings of held-out questions where none are held out."""
        if self.held_out < 0:
            raise ValueError(f"{self.held_out} questions cannot be held out: give at least 1.")
        if not self.held_out and self.held_out_from is None:
            for name, default in (("held_out_seed", 0), ("part", "train")):
                if getattr(self, name) != default:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, but no questions are held out: give "
                        "held_out or held_out_from."
                    )

    def prepare(
        self,
        tokenizer: Any,
        *,
        context: int,
        stop_tokens: Callable[[], Sequence[int]],
        decoy: "Callable[[Question], str | None] | None" = None,
    ) -> Prepared:
        """Loads and encodes the questions.

        `stop_tokens` is called for open questions alone: not every model names one. `decoy` chooses
        the wrong answer that an open question is also searched for. Raises ValueError for whatever
        is wrong with the task, a row, a prompt or these settings.
        """
        from cola_jax.tasks.load import kind_of
        from cola_jax.tasks.variants import make_variants

        kind = kind_of(self.task)
        train, held = self.load()
        questions, others = (train, held) if self.part == "train" else (held, [])
        common: dict[str, Any] = {"context": context}
        if decoy is not None:
            if kind in CHOICE:
                raise ValueError(f"{self.task} is multiple choice: its wrong options are given.")
            questions = [question.with_decoy(decoy(question)) for question in questions]
        if kind not in CHOICE:
            common["stop_tokens"] = stop_tokens()

        def make_scorer(config: TaskConfig) -> tuple["Scorer", dict[str, Any]]:
            every = [*train, *held]  # none of them may be a shot
            return config.make_scorer(kind, tokenizer, every, common | {"chat": config.chat})

        scorer, record = make_scorer(self)
        encoded = [scorer.encode(question) for question in questions]
        if "prompt" in record:
            record["prompt"]["hash"] = prompt_hash(record["prompt"], encoded)
        variants = make_variants(self, questions, encoded, make_scorer)
        if decoy is not None:
            record["decoys"] = "answers on other paths"
        if variants:
            record["variants"] = {v.name: task_digest(v.encoded, v.scorer) for v in variants}
        held_out = [scorer.encode(question) for question in others]
        return Prepared(encoded, scorer, record, variants, held_out)

    def make_scorer(
        self,
        kind: str,
        tokenizer: Any,
        questions: Sequence["Question"],
        common: dict[str, Any],
    ) -> tuple["Scorer", dict[str, Any]]:
        """Makes the scorer of a kind of questions, and what is recorded of it."""
        if kind == HARNESS:
            return self.harness_scorer(tokenizer, common)
        if kind in CHOICE:
            return self.choice_scorer(tokenizer, questions, common)
        return self.open_scorer(kind, tokenizer, questions, common)

    def harness_scorer(
        self, tokenizer: Any, common: dict[str, Any]
    ) -> tuple["Scorer", dict[str, Any]]:
        """Makes the scorer of a task of lm-evaluation-harness, whose prompts are ready."""
        from cola_jax.scoring import Options

        scorer = self.scorer_class("options", open=False)
        self.refuse_decoding()
        if not issubclass(scorer, Options) or self.chat or self.format or self.shots_file:
            raise ValueError(
                f"the prompts of {self.task} are lm-evaluation-harness's own: leave out --chat, "
                "--format and --shots-file, and use the scorer options or options-norm."
            )
        prompt = {"format": "lm-evaluation-harness", "shots": [], "num_fewshot": self.shots}
        return scorer(tokenizer, **common), {"scorer": scorer.name, "chat": None, "prompt": prompt}

    def choice_scorer(
        self, tokenizer: Any, questions: Sequence["Question"], common: dict[str, Any]
    ) -> tuple["Scorer", dict[str, Any]]:
        """Makes the scorer of multiple choice, and what is recorded of it."""
        from cola_jax.scoring import Options

        scorer = self.scorer_class("options", open=False)
        self.refuse_decoding()
        style = self.format or "plain"
        if style not in scorer.formats:
            raise ValueError(
                f"the scorer {scorer.name!r} has the formats {', '.join(scorer.formats)}, not "
                f"{style!r}: use another scorer or format."
            )
        record: dict[str, Any] = {"scorer": scorer.name, **self.chat_record()}
        shots = self.load_shots(0, questions)
        if style == "plain" and shots and not issubclass(scorer, Options):
            raise ValueError(
                f"the plain prompt of the scorer {scorer.name!r} shows no shots: use the format "
                "`harness`, the scorer `options`, or 0 shots."
            )
        if style == "plain" and shots:
            record["prompt"] = {"format": style, "shots": [shot.id for shot in shots]}
            common = common | {"shots": shots}
        if style != "plain":
            record["prompt"] = {"format": style, "shots": [shot.id for shot in shots]}
            common = common | {"harness": True, "shots": shots}
        return scorer(tokenizer, **common), record

    def open_scorer(
        self, kind: str, tokenizer: Any, questions: Sequence["Question"], common: dict[str, Any]
    ) -> tuple["Scorer", dict[str, Any]]:
        """Makes the scorer of open questions, and what is recorded of it."""
        from cola_jax.tasks.formats import format_of

        format = format_of(kind, self.format)
        # the ways to give an answer are many where the format does not fix how it ends
        many = format.shows_work or kind in OWN
        scorer = self.scorer_class("generation" if many else "exact", open=True)
        if self.rule is not None:
            check_rule(self.rule)
            format = dataclasses.replace(format, extract=self.rule)
        shots = self.load_shots(format.shots, questions)
        if scorer.decodes:
            common = common | {"max_new_tokens": self.max_new_tokens}
        else:
            self.refuse_decoding()
        make: Any = scorer
        made = make(tokenizer, format, shots=shots, **common)
        stated = dataclasses.asdict(format) | {"shots": len(shots), "stop": list(format.stop)}
        prompt = {
            "format": stated,
            "shots": [shot.id for shot in shots],
            "stop_tokens": [int(token) for token in common["stop_tokens"]],
        }
        return made, {
            "scorer": scorer.name,
            **self.chat_record(),
            "prompt": prompt,
            **made.record(),
        }

    def scorer_class(self, default: str, *, open: bool) -> type["Scorer"]:
        """Returns the scorer asked for; ValueError for one of the other sort of questions."""
        from cola_jax.scoring import SCORERS, scorer_class

        scorer = scorer_class(self.scorer or default)
        if scorer.open != open:
            fitting = ", ".join(name for name, one in SCORERS.items() if one.open == open)
            asks = "asks open questions" if open else "is multiple choice"
            raise ValueError(
                f"{self.task} {asks}, which the scorer {scorer.name!r} is not for: use {fitting}."
            )
        return scorer

    def refuse_decoding(self) -> None:
        """Raises ValueError for settings that only a scorer that decodes uses."""
        for name in ("max_new_tokens", "rule"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is a setting of the scorer `generation`: leave it out.")

    def chat_record(self) -> dict[str, Any]:
        """Returns what is recorded about the chat template."""
        from cola_jax.scoring.encode import TEMPLATE_ARGUMENTS

        return {"chat": dict(TEMPLATE_ARGUMENTS) if self.chat else None}

    def load_shots(self, default: int, questions: Sequence["Question"]) -> list["Question"]:
        """Loads the questions shown before each."""
        from cola_jax.tasks.shots import SOURCE, load_shots

        return load_shots(
            self.task,
            default if self.shots is None else self.shots,
            shots_file=self.shots_file,
            asked=questions,
            level=self.level,
            hub=None if self.task in SOURCE else self.hub,
            seed=self.task_seed,
        )


def prompt_hash(record: dict[str, Any], encoded: Sequence["Encoded"]) -> str:
    """Returns the SHA-256 over what decides the prompts and over the prompts themselves."""
    # shots are part of the prompts, so their words are covered too
    text = json.dumps([record, [one.prompt_hash for one in encoded]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def task_digest(encoded: Sequence["Encoded"], scorer: "Scorer") -> str:
    """Returns the SHA-256 of all that the model sees and is asked, in order."""
    import jax
    import numpy as np

    sha = hashlib.sha256(repr(sorted(scorer.record().items())).encode())
    for one in encoded:
        question = one.question
        sha.update(repr((question.id, question.options, question.answer)).encode())
        for array in (*jax.tree.leaves(one.prompts), one.option):
            sha.update(repr(np.asarray(array).tolist()).encode())
    return sha.hexdigest()
