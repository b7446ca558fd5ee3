"""Shots: questions shown with their answers before the one that is asked."""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.tasks.arithmetic import TABLE, arithmetic
from cola_jax.tasks.harness import SEED
from cola_jax.tasks.hub import TASKS
from cola_jax.tasks.kinds import kind_of
from cola_jax.tasks.load import open_task, select
from cola_jax.tasks.names import ARITHMETIC

# DART-Math's queries are MATH's training problems without their solutions, and MATH-500 has only
# a test split: both take their shots from MATH's training split.
SOURCE = {"dart-math": "math", "math-500": "math"}
DRAWN = ("arc-easy", "arc-challenge")  # lm-evaluation-harness draws others for each question


@dataclasses.dataclass(frozen=True)
class Shots:
    """The questions shown before each question: never that question itself.

    They depend on the question and, where they are drawn, on its place in its split: not on how
    many questions are asked.
    """

    source: str
    count: int
    pool: Mapping[str | None, Sequence[Question]]  # by subject, if that matters
    by_subject: bool = False
    drawn: Mapping[str, Sequence[Question]] | None = None  # by the id of the question asked

    def __len__(self) -> int:
        return self.count

    def __call__(self, question: Question) -> list[Question]:
        """Returns the questions shown before one; ValueError where there are too few."""
        subject = question.get("subject") if self.by_subject else None
        others: Iterable[Question] = self.pool.get(subject, ())
        if self.drawn is not None:
            chosen = self.drawn.get(question.id, ())
            ids = {shot.id for shot in chosen}
            others = [*chosen, *(shot for shot in others if shot.id not in ids)]
        # as in lm-evaluation-harness, another row may be shown that reads like the question
        same = same_content if self.drawn is None and not self.by_subject else same_id
        others = (shot for shot in others if not same(shot, question))
        shots = list(itertools.islice(others, self.count))
        if len(shots) < self.count:
            about = f" of the subject {subject}" if subject else ""
            raise InputError(
                f"{self.source} has {len(shots)} questions{about} to show before question "
                f"{question.id}, but {self.count} shots are wanted: lower the number of shots, or "
                "give a longer file of shots."
            )
        return shots

    def record(self, first: Question) -> dict[str, Any]:
        """Returns what is recorded of the shots: those of the first question, and the seed."""
        shots: dict[str, Any] = {"shots": [shot.id for shot in self(first)]}
        return shots if self.drawn is None else shots | {"fewshot_seed": SEED}


def load_shots(
    task: str,
    count: int,
    *,
    shots_file: str | None = None,
    asked: Sequence[Sequence[Question]] = (),
    level: int | None = None,
    subject: str | None = None,
    hub: str | None = None,
    seed: int = 0,
) -> Shots:
    """Loads the questions that are shown before others, `count` before each.

    They are the first of `shots_file`, or else of the task's own training split (for MMLU of its
    `dev` split, of the same subject) or of the generator of the arithmetic task. For ARC, whose
    shots lm-evaluation-harness draws for each question, they are drawn as it does.

    Args:
      shots_file: JSONL file to take them from.
      asked: the questions of each source, in order, for which they are drawn or checked.
      level: of arithmetic.
      subject: of MMLU, where one alone is asked; its own subset is enough then.
      hub: the data set of the training split.
      seed: of arithmetic.

    Raises:
      ValueError: for a JSONL task without a file of shots, a file with other fields than the
        task's, a seed that draws nothing, or too few shots.
    """
    if count < 0:
        raise InputError(f"the number of shots must be at least 0, got {count}.")
    if seed and (task != ARITHMETIC or shots_file is not None or count == 0):
        raise InputError(
            f"the shots seed {seed} draws shots of the arithmetic task alone: leave out "
            "--shots-seed, or ask for shots of arithmetic without a file."
        )
    if count == 0:
        if shots_file is not None:
            raise InputError(
                f"the shots in {shots_file} would not be shown, since the number of shots is 0: "
                "give the number of shots."
            )
        return Shots(task, 0, {})
    if shots_file is not None:
        found = of_file(task, shots_file)
    elif task == ARITHMETIC:
        found = of_generator(level, seed, count + 1)
    else:
        found = of_split(task, subject, hub)
    by_subject, drawn = kind_of(task) == "mmlu", None
    pool: dict[str | None, list[Question]]
    if by_subject:
        pool = group(found)
    elif task in DRAWN and shots_file is None:
        pool = {None: list(found)}
        drawn = draw(pool[None], count, asked)
    else:  # one more, for a question that is among them
        pool = {None: list(itertools.islice(distinct(found), count + 1))}
    shots = Shots(shots_file or task, count, pool, by_subject, drawn)
    for question in itertools.chain(*asked):
        shots(question)
    return shots


def draw(
    pool: Sequence[Question], count: int, asked: Sequence[Sequence[Question]]
) -> dict[str, list[Question]]:
    """Draws shots for each question as lm-evaluation-harness's default sampler does."""
    drawn: dict[str, list[Question]] = {}
    for questions in asked:
        generator = random.Random(SEED)
        for question in questions:
            drawn[question.id] = generator.sample(pool, min(count, len(pool)))
    return drawn


def group(questions: Iterable[Question]) -> dict[str | None, list[Question]]:
    """Groups questions by their subject."""
    groups: dict[str | None, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.get("subject"), []).append(question)
    return groups


def distinct(questions: Iterable[Question]) -> Iterator[Question]:
    """Yields the questions whose content differs from that of all before."""
    seen = set()
    for question in questions:
        if content(question) not in seen:
            seen.add(content(question))
            yield question


def same_id(one: Question, other: Question) -> bool:
    """Whether two questions are the same row."""
    return one.id == other.id


def same_content(one: Question, other: Question) -> bool:
    """Whether two questions are the same row, or read the same."""
    return same_id(one, other) or content(one) == content(other)


def content(question: Question) -> tuple[str, ...]:
    """Returns what makes two questions the same: the text, and the options of a choice."""
    return (question.text.strip(), *(() if question.open else question.options))


def of_file(task: str, file: str) -> Iterator[Question]:
    """Yields the questions of a file of shots, in order."""
    kind = kind_of(file)
    if file in (*TASKS, ARITHMETIC) or not compatible(kind, kind_of(task)):
        raise InputError(
            f"the shots in {file} are {kind} questions, but {task} asks {kind_of(task)} questions: "
            "give a JSONL file with the task's own fields."
        )
    return select(kind, *open_task(file, None, None), {})


def of_generator(level: int | None, seed: int, limit: int) -> Iterator[Question]:
    """Yields at most `limit` sums, which have an order of their own."""
    levels = [TABLE[level]] if level in TABLE else TABLE.values()
    size = sum(each.size for each in levels)
    return iter(arithmetic(level, min(limit, size), seed, purpose="shots"))


def of_split(task: str, subject: str | None, hub: str | None) -> Iterator[Question]:
    """Yields the questions of the split from which a task's shots are taken, in order."""
    if task not in TASKS:
        raise InputError(
            f"{task} is a file of questions to ask, and has none to show: give a JSONL file of "
            "shots, or ask for 0 shots."
        )
    source = SOURCE.get(task, task)
    rows = open_task(source, TASKS[source].shots, hub, subject)
    return select(kind_of(source), *rows, {})


def compatible(shown: str, asked: str) -> bool:
    """Whether questions of one kind can be shown before those of another."""
    groups = ({"math", "dart"}, {"prompt", "question"}, {"arithmetic", "prompt", "question"})
    return shown == asked or any({shown, asked} <= group for group in groups)
