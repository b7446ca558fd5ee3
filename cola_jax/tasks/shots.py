"""Shots: questions shown with their answers before the one that is asked."""

from collections.abc import Iterable, Sequence

from cola_jax.question import Question
from cola_jax.tasks.arithmetic import TABLE, arithmetic
from cola_jax.tasks.load import ARITHMETIC, TASKS, kind_of, open_task, select

# DART-Math's queries are MATH's training problems without their solutions, and MATH-500 has a
# test split alone: both show problems of MATH's training split.
SOURCE = {"dart-math": "math", "math-500": "math"}


def load_shots(
    task: str,
    count: int,
    *,
    shots_file: str | None = None,
    asked: Sequence[Question] = (),
    level: int | None = None,
    hub: str | None = None,
    seed: int = 0,
) -> list[Question]:
    """Loads the first `count` questions fit to be shown, never one that is itself asked.

    They come from `shots_file`, else from the task's own training split (MMLU's `dev`: the first
    `count` of each subject asked), else from the arithmetic task's generator. `hub` is where that
    split is. Raises ValueError for a JSONL task without a file of shots, a file of other fields
    than the task's, and where there are too few.
    """
    if count < 0:
        raise ValueError(f"the number of shots must be at least 0, it is {count}.")
    if count == 0:
        if shots_file is not None:
            raise ValueError(
                f"the shots in {shots_file} would not be shown, since 0 shots are asked for: give "
                "the number of shots."
            )
        return []
    ids, texts = {q.id for q in asked}, {said(q) for q in asked}
    kind = kind_of(task)
    others = (
        question
        for question in candidates(task, shots_file, level, hub, seed, count + len(asked))
        if question.id not in ids and said(question) not in texts
    )
    if kind == "mmlu":
        return by_subject(others, count, [q.fact("subject") for q in asked])
    shots = [question for question, _ in zip(others, range(count), strict=False)]
    if len(shots) < count:
        where = shots_file or task
        raise ValueError(
            f"{where} has {len(shots)} questions to show that are not asked, but {count} shots are "
            "wanted: lower the number of shots, or give a longer file of shots."
        )
    return shots


def said(question: Question) -> tuple[str, ...]:
    """Returns what makes two questions the same; of a choice, the options too."""
    return (question.text.strip(), *(() if question.open else question.options))


def candidates(
    task: str, shots_file: str | None, level: int | None, hub: str | None, seed: int, most: int
) -> Iterable[Question]:
    """Yields questions that may be shown, in order."""
    if shots_file is not None:
        kind, source, rows = open_task(shots_file, None, None)
        if shots_file in (*TASKS, ARITHMETIC) or not same(kind, kind_of(task)):
            raise ValueError(
                f"the shots in {shots_file} are {kind} questions, but {task} asks "
                f"{kind_of(task)} questions: give a JSONL file of the task's own fields."
            )
        return select(kind, source, rows, {})
    if task == ARITHMETIC:
        return generated(level, seed, most)
    if task not in TASKS:
        raise ValueError(
            f"{task} is a file of questions to ask, and has none to show: give a JSONL file of "
            "shots, or ask for 0 shots."
        )
    from_task = SOURCE.get(task, task)
    kind, source, rows = open_task(from_task, TASKS[from_task].shots, hub)
    return select(kind, source, rows, {})


def generated(level: int | None, seed: int, most: int) -> list[Question]:
    """Makes sums in an order of their own, as many as may be needed and as there are."""
    sizes = [TABLE[level].size] if level in TABLE else [each.size for each in TABLE.values()]
    most = min(most, min(sizes) * len(sizes))
    return arithmetic(level, most, seed, purpose="shots")


def same(shown: str, asked: str) -> bool:
    """Whether questions of one kind can be shown before those of another."""
    groups = ({"math", "dart"}, {"prompt", "question"}, {"arithmetic", "prompt", "question"})
    return shown == asked or any({shown, asked} <= group for group in groups)


def by_subject(
    questions: Iterable[Question], count: int, subjects: Sequence[str | None]
) -> list[Question]:
    """Takes the first `count` of each subject; ValueError where one has fewer."""
    taken: dict[str | None, list[Question]] = {subject: [] for subject in subjects}
    for question in questions:
        mine = taken.get(question.fact("subject"))
        if mine is not None and len(mine) < count:
            mine.append(question)
    short = sorted(str(subject) for subject, mine in taken.items() if len(mine) < count)
    if short:
        raise ValueError(
            f"there are fewer than {count} shots of the subject {', '.join(short)}: lower the "
            "number of shots."
        )
    return [question for mine in taken.values() for question in mine]
