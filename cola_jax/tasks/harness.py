"""Multiple-choice tasks of lm-evaluation-harness: its prompts, choices and shots, not copies."""

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

from cola_jax.messages import first_line
from cola_jax.question import Question
from cola_jax.scoring.likelihood import DELIMITER

SEED = 1234  # of its shots, as lm-evaluation-harness draws them


@functools.cache
def manager() -> Any:
    """Lists the tasks of lm-evaluation-harness, which takes seconds; None without the library."""
    if importlib.util.find_spec("lm_eval") is None:
        return None
    from lm_eval.tasks import TaskManager

    return TaskManager()


def names() -> list[str]:
    """Returns the names of its tasks; none without the library."""
    return [] if manager() is None else list(manager().all_subtasks)


def load_task(name: str) -> Any:
    """Loads a task; ValueError where its data or its kind cannot be searched."""
    try:
        (task,) = manager().load(name)["tasks"].values()
    except Exception as error:  # of its own, of `datasets` and of the HTTP library
        raise ValueError(
            f"{name} of lm-evaluation-harness could not be loaded: {first_line(error)}."
        ) from None
    kind = task.OUTPUT_TYPE
    if kind != "multiple_choice":
        raise ValueError(
            f"{name} of lm-evaluation-harness is of the kind {kind}, which has no choices to "
            "search for: use `cola lm-eval` with a path, or a file of your own."
        )
    if task.multiple_input:
        raise ValueError(
            f"{name} of lm-evaluation-harness puts its choices before what is scored, each with a "
            "prompt of its own, which cannot be searched: use `cola lm-eval` with a path."
        )
    return task


def harness_questions(name: str, num_fewshot: int | None) -> Iterator[Question]:
    """Yields the questions of a task's evaluation split, each with its whole prompt as its text.

    Raises ValueError as `load_task`, and for a question with several correct choices.
    """
    task = load_task(name)
    count = (task.config.num_fewshot or 0) if num_fewshot is None else num_fewshot
    if count < 0:
        raise ValueError(f"the number of shots must be at least 0, got {count}.")
    task.set_fewshot_seed(seed=SEED)
    for number, doc in enumerate(task.eval_docs):
        prompt = task.fewshot_context(doc, count)
        text = prompt.rstrip()  # the harness scores white space with the choice
        delimiter = prompt[len(text) :] + task.config.target_delimiter
        choices, gold = task.doc_to_choice(doc), task.doc_to_target(doc)
        if isinstance(gold, str):
            gold = choices.index(gold) if gold in choices else None
        if not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise ValueError(
                f"{name}, row {number} has the answer {task.doc_to_target(doc)!r}, which is not "
                f"one of its {len(choices)} choices: it cannot be searched."
            )
        known = ((DELIMITER, delimiter),)
        yield Question(f"{name}/{number}", text, tuple(choices), gold, metadata=known)
