"""Shots: questions shown with their answers before the one that is asked."""

from collections.abc import Iterable, Sequence

from cola_jax.question import Question
from cola_jax.tasks.arithmetic import TABLE, arithmetic
from cola_jax.tasks.load import TASKS, kind_of, open_task, select
from cola_jax.tasks.names import ARITHMETIC

# DART-Math's queries are MATH's training problems without their solutions, and MATH-500 has only
# a test split: both take their shots from MATH's training split.
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
    """Loads the first `count` questions that are not themselves asked.

    They come from `shots_file`, or else the task's own training split (for MMLU its `dev` split,
    `count` for each subject asked), or the generator of the arithmetic task. `hub` is the data set
    of that split. Raises ValueError for a JSONL task without a file of shots, a file with other
    fields than the task's, or too few shots.
    """
    if count < 0:
        raise ValueError(f"the number of shots must be at least 0, got {count}.")
    if count == 0:
        if shots_file is not None:
            raise ValueError(
                f"the shots in {shots_file} would not be shown, since the number of shots is 0: "
                "give the number of shots."
            )
        return []
    ids, contents = {q.id for q in asked}, {content(q) for q in asked}
    available = (
        question
        for question in candidates(task, shots_file, level, hub, seed, count + len(asked))
        if question.id not in ids and content(question) not in contents
    )
    if kind_of(task) == "mmlu":
        return by_subject(available, count, [q.get("subject") for q in asked])
    shots = [question for question, _ in zip(available, range(count), strict=False)]
    if len(shots) < count:
        raise ValueError(
            f"{shots_file or task} has {len(shots)} questions to show that are not asked, but "
            f"{count} shots are wanted: lower the number of shots, or give a longer file of shots."
        )
    return shots


def content(question: Question) -> tuple[str, ...]:
    """Returns what makes two questions the same: the text, and the options of a choice."""
    return (question.text.strip(), *(() if question.open else question.options))


def candidates(
    task: str, shots_file: str | None, level: int | None, hub: str | None, seed: int, limit: int
) -> Iterable[Question]:
    """Yields questions that may be shown, in order; of arithmetic, at most `limit`."""
    if shots_file is not None:
        kind, source, rows = open_task(shots_file, None, None)
        if shots_file in (*TASKS, ARITHMETIC) or not compatible(kind, kind_of(task)):
            raise ValueError(
                f"the shots in {shots_file} are {kind} questions, but {task} asks "
                f"{kind_of(task)} questions: give a JSONL file with the task's own fields."
            )
        return select(kind, source, rows, {})
    if task == ARITHMETIC:
        # the shots have an order of their own
        size = sum(each.size for each in ([TABLE[level]] if level in TABLE else TABLE.values()))
        return arithmetic(level, min(limit, size), seed, purpose="shots")
    if task not in TASKS:
        raise ValueError(
            f"{task} is a file of questions to ask, and has none to show: give a JSONL file of "
            "shots, or ask for 0 shots."
        )
    source_task = SOURCE.get(task, task)
    kind, source, rows = open_task(source_task, TASKS[source_task].shots, hub)
    return select(kind, source, rows, {})


def compatible(shown: str, asked: str) -> bool:
    """Whether questions of one kind can be shown before those of another."""
    groups = ({"math", "dart"}, {"prompt", "question"}, {"arithmetic", "prompt", "question"})
    return shown == asked or any({shown, asked} <= group for group in groups)


def by_subject(
    questions: Iterable[Question], count: int, subjects: Sequence[str | None]
) -> list[Question]:
    """Takes the first `count` questions of each subject; raises ValueError if one has fewer."""
    taken: dict[str | None, list[Question]] = {subject: [] for subject in subjects}
    for question in questions:
        shots = taken.get(question.get("subject"))
        if shots is not None and len(shots) < count:
            shots.append(question)
    short = sorted(str(subject) for subject, shots in taken.items() if len(shots) < count)
    if short:
        raise ValueError(
            f"there are fewer than {count} shots of the subject {', '.join(short)}: lower the "
            "number of shots."
        )
    return [question for shots in taken.values() for question in shots]
