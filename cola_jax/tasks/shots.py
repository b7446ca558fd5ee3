"""Shots: questions shown with their answers before the one that is asked."""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cola_jax.errors import InputError
from cola_jax.question import Question, content
from cola_jax.tasks.arithmetic import arithmetic
from cola_jax.tasks.harness import SEED
from cola_jax.tasks.load import read_questions
from cola_jax.tasks.registry import ARITHMETIC, OWN, TASKS, Task, find_task
from cola_jax.tasks.sources import hub_rows, read_rows

ALIKE = ({"math", "dart"}, {ARITHMETIC, *OWN})  # kinds whose questions may be shown before another


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
        """Return the questions shown before one; InputError where there are too few."""
        subject = question.get("subject") if self.by_subject else None
        drawn = () if self.drawn is None else self.drawn.get(question.id, ())
        rest = (shot for shot in self.pool.get(subject, ()) if shot not in drawn)
        # as in lm-evaluation-harness, another row may be shown that reads like the question
        alike = self.drawn is not None or self.by_subject
        others = (
            shot
            for shot in itertools.chain(drawn, rest)
            if shot.id != question.id and (alike or content(shot) != content(question))
        )
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
        """Return the record of the shots: those of the first question, and the seed."""
        shots: dict[str, Any] = {"shots": [shot.id for shot in self(first)]}
        return shots if self.drawn is None else shots | {"fewshot_seed": SEED}


def load_shots(
    name: str,
    count: int,
    *,
    shots_file: str | None = None,
    questions: Sequence[Sequence[Question]] = (),
    level: int | None = None,
    subject: str | None = None,
    hub: str | None = None,
    seed: int = 0,
) -> Shots:
    """Load the questions that are shown before others, `count` before each.

    They are the first of `shots_file`, or else of the task's own training split (for MMLU of its
    `dev` split, of the same subject) or of the generator of the arithmetic task. For ARC, whose
    shots lm-evaluation-harness draws for each question, they are drawn as it does.

    Args:
      shots_file: file to take them from.
      questions: those of each source, in order, for which shots are drawn or checked.
      level: of arithmetic.
      subject: of MMLU, where one alone is asked; its own subset is enough then.
      hub: the data set of the training split.
      seed: of arithmetic.

    Raises:
      InputError: for a file of questions without a file of shots, a file with other fields than
        the task's, or too few shots.
    """
    if count < 0:
        raise InputError(f"the number of shots must be at least 0, got {count}.")
    if count == 0:
        if shots_file is not None:
            raise InputError(
                f"the shots in {shots_file} would not be shown, since the number of shots is 0: "
                "give the number of shots."
            )
        return Shots(name, 0, {})
    task, drawn = find_task(name), None
    if shots_file is not None:
        every = of_file(task, shots_file)
    elif task.name == ARITHMETIC:
        every = arithmetic(level, count + 1, seed, purpose="shots")
    else:
        every = of_split(task, hub=hub, subject=subject)
    pool: dict[str | None, list[Question]] = {}
    if task.kind == "mmlu":
        for question in every:
            pool.setdefault(question.get("subject"), []).append(question)
    elif task.drawn and shots_file is None:
        pool[None] = list(every)
        drawn = draw(pool[None], count, questions)
    else:  # one more, for a question that is among them
        pool[None] = list(itertools.islice(distinct(every), count + 1))
    shots = Shots(shots_file or name, count, pool, task.kind == "mmlu", drawn)
    for question in itertools.chain(*questions):
        shots(question)  # raises where there are too few
    return shots


def draw(
    pool: Sequence[Question], count: int, sources: Sequence[Sequence[Question]]
) -> dict[str, list[Question]]:
    """Draw shots for each question as lm-evaluation-harness's default sampler does."""
    drawn: dict[str, list[Question]] = {}
    for questions in sources:
        generator = random.Random(SEED)
        for question in questions:
            drawn[question.id] = generator.sample(pool, min(count, len(pool)))
    return drawn


def distinct(questions: Iterable[Question]) -> Iterator[Question]:
    """Yield the questions whose content differs from that of all before."""
    seen = set()
    for question in questions:
        if content(question) not in seen:
            seen.add(content(question))
            yield question


def of_file(task: Task, file: str) -> Iterator[Question]:
    """Yield the questions of a file of shots, in order."""
    shown = find_task(file)
    kinds = {shown.kind, task.kind}
    if shown.name in TASKS or not (len(kinds) == 1 or any(kinds <= group for group in ALIKE)):
        raise InputError(
            f"the shots in {file} are {shown.kind} questions, but {task.name} asks {task.kind} "
            "questions: give a file with the task's own fields."
        )
    return read_questions(shown.kind, read_rows(file))


def of_split(task: Task, **place: str | None) -> Iterator[Question]:
    """Yield the questions of the split from which a task's shots are taken, in order."""
    if not task.hub:
        raise InputError(
            f"{task.name} is a file of questions to ask, and has none to show: give a file of "
            "shots, or ask for 0 shots."
        )
    source = TASKS[task.shots_of or task.name]
    return read_questions(source.kind, hub_rows(source, split=source.shots, **place))
