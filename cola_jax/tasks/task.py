"""`TaskConfig`: which questions are asked, how, and what makes an answer right."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from cola_jax.errors import InputError
from cola_jax.scoring.registry import ScorerName
from cola_jax.tasks.names import canonical

if TYPE_CHECKING:
    from cola_jax.question import Question
    from cola_jax.scoring.encode import Encoded
    from cola_jax.scoring.scorer import Scorer
    from cola_jax.tasks.variants import Variant

Part = Literal["train", "held-out"]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Encoded questions, their scorer, and what is recorded of their prompts."""

    encoded: list["Encoded"]
    scorer: "Scorer"
    record: dict[str, Any]
    variants: "Sequence[Variant]" = ()  # the same questions, asked in other ways
    held_out: "Sequence[Encoded]" = ()  # other questions, asked in the same way

    def settings(self, count: int | None = None) -> dict[str, Any]:
        """Returns the record with digests of the first `count` questions, all when None."""
        encoded = self.encoded[:count]
        out: dict[str, Any] = self.record | {"task": task_digest(encoded, self.scorer)}
        if "prompt" in out:
            out["prompt"] = out["prompt"] | {"hash": prompt_hash(out["prompt"], encoded)}
        if self.variants:
            each = {one.name: task_digest(one.encoded[:count], one.scorer) for one in self.variants}
            out["variants"] = each
        return out


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The questions, their prompts and their scorer."""

    task: Annotated[str, arg(aliases=["-t"])]
    """A task of the Hugging Face Hub (arc_easy, arc_challenge, mmlu, gsm8k, math, math_500,
    dart_math), arithmetic (generated), a JSONL file with the fields of one of them or prompt and
    answer, or any other task of lm-evaluation-harness (extra lm-eval) that chooses or decodes, such
    as hellaswag or triviaqa; of a name that is ours as well, lm_eval:gsm8k is that library's own.
    `cola search` and `cola evaluate` take several, such as arc_easy,gsm8k, each with a directory in
    that of the run."""
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
    generation: by decoding and grading. Options by default, and letter for MMLU; for open questions
    exact, or generation where the format shows its work and for your own prompts."""
    format: str | None = None
    """Prompt format: direct (the answer alone, in a box), harness (lm-evaluation-harness's), or
    plain; by default the first that the task has, and harness for letters of MMLU."""
    rule: str | None = None
    """How the answer is found in a completion, instead of the format's way: boxed, hashes, number,
    minerva or line (see tasks/README.md); of a task of lm-evaluation-harness, one of its filters,
    such as flexible-extract."""
    shots: Annotated[int | None, arg(name="num-fewshot")] = None
    """Number of questions shown with their answers before each; by default the format's, none of
    multiple choice, and what a task of lm-evaluation-harness says."""
    shots_file: str | None = None
    """JSONL file of the questions shown, instead of the task's training split."""
    shots_seed: int = 0
    """Random seed of the questions shown by the arithmetic task."""
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
            raise InputError(f"{self.task} has one subject, and {self.subject!r} is another.")
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "subject", subject or self.subject)

    def load(self) -> "tuple[list[Question], list[Question]]":
        """Loads the questions for training and those held out; ValueError as `load_questions`."""
        return self.divide(self.load_sources())

    def load_sources(self) -> "list[list[Question]]":
        """Loads the questions of the task, and those of a file of held-out ones, in order."""
        from cola_jax.tasks.kinds import kind_of
        from cola_jax.tasks.load import load_questions

        self.check_held_out()
        questions = load_questions(
            self.task,
            split=self.split,
            limit=self.limit,
            beside=0 if self.held_out_from else self.held_out,
            level=self.level,
            fail_rate_level=self.fail_rate_level,
            subject=self.subject,
            hub=self.hub,
            seed=self.task_seed,
            num_fewshot=self.shots,
            rule=self.rule,
        )
        if not self.held_out_from:
            return [questions]
        if kind_of(self.held_out_from) != kind_of(self.task):
            raise InputError(
                f"{self.held_out_from} asks {kind_of(self.held_out_from)} questions, {self.task} "
                f"{kind_of(self.task)} questions: hold out questions of the same kind."
            )
        return [questions, load_questions(self.held_out_from, limit=self.held_out or None)]

    def divide(self, sources: "list[list[Question]]") -> "tuple[list[Question], list[Question]]":
        """Divides what `load_sources` returns into questions for training and those held out."""
        from cola_jax.tasks.held_out import check_apart, split

        if len(sources) == 1:
            return split(sources[0], self.held_out, self.held_out_seed)
        questions, held = sources
        check_apart(questions, held)
        return questions, held

    def check_held_out(self) -> None:
        """Raises ValueError for settings of held-out questions where none are held out."""
        if self.held_out < 0:
            raise InputError(f"{self.held_out} questions cannot be held out: give at least 1.")
        if not self.held_out and self.held_out_from is None:
            for name, default in (("held_out_seed", 0), ("part", "train")):
                if getattr(self, name) != default:
                    raise InputError(
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
        from cola_jax.tasks.kinds import CHOICE, kind_of
        from cola_jax.tasks.scorers import make_scorer
        from cola_jax.tasks.variants import make_variants

        kind, sources = kind_of(self.task), self.load_sources()
        train, held = self.divide(sources)
        questions, others = (train, held) if self.part == "train" else (held, [])
        common: dict[str, Any] = {"context": context}
        if decoy is not None:
            if kind in CHOICE:
                raise InputError(f"{self.task} is multiple choice: its wrong options are given.")
            questions = [question.with_decoy(decoy(question)) for question in questions]
        if kind not in CHOICE:
            common["stop_tokens"] = stop_tokens()

        def make(config: TaskConfig) -> tuple["Scorer", dict[str, Any]]:
            return make_scorer(config, kind, tokenizer, sources, common)

        scorer, record = make(self)
        encoded = [scorer.encode(question) for question in questions]
        variants = make_variants(self, questions, encoded, make)
        if decoy is not None:
            record["decoys"] = "answers on other paths"
        held_out = [scorer.encode(question) for question in others]
        return Prepared(encoded, scorer, record, variants, held_out)


def refuse_variants(command: str, names: Sequence[str]) -> None:
    """Raises ValueError for variants of a command that asks each question in one way."""
    if names:
        raise InputError(
            f"`cola {command}` asks each question in one way, and variants are {', '.join(names)}: "
            "leave out --variants, or use `cola search`, which asks again what it finds."
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
