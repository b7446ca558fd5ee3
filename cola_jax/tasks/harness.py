"""Tasks of lm-evaluation-harness: its prompts, choices and shots, not copies of them."""

import functools
from collections.abc import Iterator
from typing import Any

from cola_jax.errors import InputError, first_line, shown
from cola_jax.question import Question
from cola_jax.scoring.likelihood import DELIMITER

SEED = 1234  # of its shots, as lm-evaluation-harness draws them


@functools.cache
def manager() -> Any:
    """Lists the tasks of lm-evaluation-harness, which takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def is_open(name: str) -> bool:
    """Whether a task decodes its answers; ValueError for one that neither chooses nor decodes."""
    entry = manager().task_index.get(name)
    config = (entry and entry.cfg) or {}
    kind = config.get("output_type")
    if kind is None:
        kind = load_task(name).task.OUTPUT_TYPE if "class" in config else "generate_until"
    if kind not in ("multiple_choice", "generate_until"):
        raise InputError(
            f"{name} of lm-evaluation-harness is of the kind {kind}: its score is a likelihood, "
            "not right or wrong, so there is nothing to search for. Use `cola lm-eval` with a "
            "path, or a file of your own."
        )
    return kind == "generate_until"


@functools.cache
def load_task(name: str, hub: str | None = None) -> "HarnessTask":
    """Loads a task, its data set from `hub` where that is given; ValueError where that fails."""
    spec: Any = name
    if hub is not None:  # the settings of a task can be changed as a member of a group
        spec = {"group": "local", "task": [{"task": name, "dataset_path": hub}]}
    try:
        (task,) = manager().load(spec)["tasks"].values()
    except Exception as error:  # of its own, of `datasets` and of the HTTP library
        raise InputError(
            f"{name} of lm-evaluation-harness could not be loaded: {first_line(error)}. Without a "
            "network, give a local copy of its data set (--hub)."
        ) from None
    return HarnessTask(name, task)


class HarnessTask:
    """A task of lm-evaluation-harness and the rows of its evaluation split."""

    def __init__(self, name: str, task: Any):
        """Takes a loaded task; ValueError where it needs images or sound, or runs code."""
        self.name, self.task = name, task
        for flag, what in (("MULTIMODAL", "needs images or sound"), ("UNSAFE_CODE", "runs code")):
            if getattr(task, flag, False):
                raise self.refusal(f"{what}, so it")
        self.rows = task.eval_docs

    def refusal(self, why: str) -> InputError:
        """Returns the error that says why the task cannot be searched."""
        return InputError(
            f"{self.name} of lm-evaluation-harness {why} cannot be searched: use `cola lm-eval` "
            "with a path, or a file of your own."
        )

    def shots(self, wanted: int | None) -> int:
        """Returns how many shots are shown; ValueError where the task would ignore the number."""
        own = self.task.config.num_fewshot
        if wanted is None:
            return own or 0
        if wanted < 0:
            raise InputError(f"the number of shots must be at least 0, got {wanted}.")
        if wanted and own == 0:
            raise InputError(
                f"{self.name} of lm-evaluation-harness fixes 0 shots, so {wanted} would not be "
                "shown: leave the number of shots out."
            )
        return wanted

    def prompts(self, wanted: int | None) -> Iterator[tuple[str, Any, str]]:
        """Yields the id, the row and the prompt of each question, in order.

        Its shots are drawn anew for each, as lm-evaluation-harness draws them. Raises ValueError as
        `shots`, and where there are too few rows to show.
        """
        count = self.shots(wanted)
        self.task.set_fewshot_seed(seed=SEED)
        for number, row in enumerate(self.rows):
            try:
                prompt = self.task.fewshot_context(
                    row, count, gen_prefix=self.task.doc_to_prefix(row)
                )
            except Exception as error:
                raise InputError(
                    f"{self.name}, row {number}: lm-evaluation-harness makes no prompt with "
                    f"{count} shots of it: {first_line(error)}."
                ) from error
            yield f"{self.name}/{number}", row, prompt

    def row(self, question: Question) -> Any:
        """Returns the row of a question."""
        return self.rows[int(question.id.rpartition("/")[2])]

    def choices(self, wanted: int | None) -> Iterator[Question]:
        """Yields multiple-choice questions, each with its whole prompt as its text.

        Raises ValueError as `prompts`, for a task whose choices have a prompt each, and for a
        question with several correct choices.
        """
        if self.task.multiple_input:
            raise self.refusal("puts its choices before what is scored, so it")
        for id, row, prompt in self.prompts(wanted):
            text = prompt.rstrip()  # the harness scores white space with the choice
            delimiter = prompt[len(text) :] + self.task.config.target_delimiter
            choices, gold = self.task.doc_to_choice(row), self.task.doc_to_target(row)
            if isinstance(gold, str):
                gold = choices.index(gold) if gold in choices else None
            if not isinstance(gold, int) or not 0 <= gold < len(choices):
                raise InputError(
                    f"{self.name}, row {id.rpartition('/')[2]} has the answer "
                    f"{shown(self.task.doc_to_target(row))}, which is not one of its "
                    f"{len(choices)} choices: it cannot be searched."
                )
            known = ((DELIMITER, delimiter),)
            yield Question(id, text, tuple(choices), gold, metadata=known)
