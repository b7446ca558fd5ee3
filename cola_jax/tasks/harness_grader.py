"""Decoded answers of lm-evaluation-harness's tasks: its stop strings, filters and metrics."""

import copy
import functools
import importlib.metadata
import numbers
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cola_jax.errors import InputError, first_line
from cola_jax.question import Question, decoy_of
from cola_jax.scoring.gen_kwargs import GenerationSettings, read_gen_kwargs
from cola_jax.scoring.grader import Grade
from cola_jax.tasks.harness import HarnessTask, load_task

MAX_GEN_TOKS = 256  # of a task that names no limit, as in lm-evaluation-harness's model `hf`
NO_MATCH = "[invalid]"  # what its regular expressions find where nothing matches
METRICS = ("exact_match", "em", "acc", "accuracy", "prompt_level_strict_acc")  # yes or no


@functools.cache
def load_grader(name: str, hub: str | None = None, filter: str | None = None) -> "HarnessGrader":
    """Loads the grader of a task; ValueError as `load_task` and `HarnessGrader`."""
    return HarnessGrader(load_task(name, hub), filter)


class HarnessGrader:
    """Grades completions with the code of a task of lm-evaluation-harness.

    What a completion answers is what one of the task's filters makes of it; whether that is right
    says the first of METRICS that the task has.
    """

    def __init__(self, of: HarnessTask, filter: str | None = None):
        """Takes a task that decodes, and the name of one of its filters; the first when None.

        Raises ValueError for a filter that it does not have, and where it samples, has no metric
        that says yes or no, or cannot grade in a thread.
        """
        self.of, self.task = of, of.task
        filters = {one.name: one for one in self.task._filters}
        if filter is not None and filter not in filters:
            raise InputError(
                f"{of.name} of lm-evaluation-harness has the filters {', '.join(filters)}, not "
                f"{filter!r}: give one of them as the rule."
            )
        self.filter = next(iter(filters.values())) if filter is None else filters[filter]
        if self.task.config.repeats > 1:
            raise of.refusal(f"samples {self.task.config.repeats} completions, so it")
        self.metric = self.find_metric()
        self.settings = self.read_settings(0, of.rows[0], "?")
        self.lock = threading.Lock()  # the library's code was not written for threads
        self.graded: dict[tuple[str, str], tuple[str | None, Grade]] = {}
        self.check_grading()

    def find_metric(self) -> str:
        """Returns the metric that says whether an answer is right."""
        names = list(self.task.aggregation())
        metric = next((name for name in METRICS if name in names), None)
        if metric is None:
            raise self.of.refusal(
                f"is scored by {', '.join(names) or 'nothing'}, which does not say whether an "
                "answer is right, so it"
            )
        return metric

    def read_settings(self, number: int, row: Any, prompt: str) -> GenerationSettings:
        """Reads what ends a completion from the request that the task makes of a row."""
        request = self.task.construct_requests(
            doc=row, ctx=prompt, metadata=(self.of.name, number, 1)
        )
        if isinstance(request, list) or request.request_type != "generate_until":
            raise self.of.refusal("makes several requests of a question, so it")
        try:
            return read_gen_kwargs(request.args[1], MAX_GEN_TOKS)
        except ValueError as error:
            raise InputError(f"{self.of.name} of lm-evaluation-harness: {error}") from None

    def check_grading(self) -> None:
        """Grades the first gold answer in a thread, as all answers are."""
        row = self.of.rows[0]
        with ThreadPoolExecutor(1) as thread:
            try:
                value = thread.submit(
                    self.value, row, self.filtered(row, self.target(row))
                ).result()
            except Exception as error:
                raise self.of.refusal(f"fails to grade ({first_line(error)}), so it") from error
        if grade_of(value) is Grade.UNGRADED:
            raise self.of.refusal(f"has the {self.metric} {value!r}, not 0 or 1, so it")

    def questions(self, wanted: int | None) -> Iterator[Question]:
        """Yields the questions, each with its whole prompt as its text; ValueError as `prompts`."""
        for number, (id, row, prompt) in enumerate(self.of.prompts(wanted)):
            if self.read_settings(number, row, prompt) != self.settings:
                raise self.of.refusal("ends the completions of each question otherwise, so it")
            gold = self.gold(row)
            decoy = decoy_of(id, gold)
            options = (gold,) if decoy is None else (gold, decoy)
            yield Question(id, prompt, options, 0, open=True)

    def target(self, row: Any) -> str:
        """Returns the text of a row's gold answer, the first where it has several."""
        target = self.task.doc_to_target(row)
        if self.task.config.doc_to_choice is not None and isinstance(target, int):
            target = self.task.doc_to_choice(row)[target]
        if isinstance(target, list | tuple):
            target = target[0] if target else ""
        return str(target).strip()

    def gold(self, row: Any) -> str:
        """Returns what the filter makes of a row's gold answer, if that is right, or all of it."""
        target = self.target(row)
        answer, grade = self.grade_row(row, target)
        return answer if answer is not None and grade is Grade.RIGHT else target

    def grade(self, question: Question, text: str) -> tuple[str | None, Grade]:
        """Returns the answer that a completion gives, and its grade; each completion once."""
        key = question.id, text
        with self.lock:
            if key not in self.graded:
                self.graded[key] = self.grade_row(self.of.row(question), text)
            return self.graded[key]

    def grade_row(self, row: Any, text: str) -> tuple[str | None, Grade]:
        """Grades a completion of a row; what the library's code fails on stays ungraded."""
        try:
            filtered = self.filtered(row, text)
            return shown(filtered), grade_of(self.value(row, filtered))
        except Exception:  # of any task's own code
            return None, Grade.UNGRADED

    def gives(self, question: Question, text: str, answer: str) -> bool:
        """Whether a completion gives another answer than gold.

        The task's metric compares the two, with that answer in the place of gold; their texts are
        compared where the task has a code of its own for it, which knows gold alone.
        """
        row = self.of.row(question)
        with self.lock:
            try:
                filtered = self.filtered(row, text)
                if self.has_own_code:
                    return shown(filtered) == answer.strip()
                other = copy.copy(self.task)
                other.doc_to_target = lambda *_: answer
                other.multiple_target = 0
                value = other.process_results(row, [filtered])[self.metric]
            except Exception:  # of any task's own code
                return False
        return grade_of(value) is Grade.RIGHT

    @property
    def has_own_code(self) -> bool:
        """Whether the task grades by more than a metric and its gold answer."""
        from lm_eval.api.task import ConfigurableTask

        config = self.task.config
        same = type(self.task).process_results is ConfigurableTask.process_results
        return not same or callable(config.process_results) or config.doc_to_choice is not None

    def filtered(self, row: Any, text: str) -> Any:
        """Returns what the filter makes of a completion."""
        from lm_eval.api.instance import Instance

        request = Instance("generate_until", row, ("", {}), 0, (self.of.name, 0, 1), [text])
        self.filter.apply([request])
        return request.filtered_resps[self.filter.name]

    def value(self, row: Any, filtered: Any) -> Any:
        """Returns the value of the metric."""
        return self.task.process_results(row, [filtered])[self.metric]

    def record(self) -> dict[str, Any]:
        """Returns what is recorded of how answers are found and graded."""
        return {
            "rule": self.filter.name,
            "metric": self.metric,
            "grader": f"lm-eval {importlib.metadata.version('lm-eval')}",
        }


def grade_of(value: Any) -> Grade:
    """Reads a metric of 0 or 1; another value says neither right nor wrong."""
    if not isinstance(value, numbers.Real) or value not in (0, 1):
        return Grade.UNGRADED
    return Grade.RIGHT if value == 1 else Grade.WRONG


def shown(filtered: Any) -> str | None:
    """Returns the text of a filtered answer, None where the filter found nothing."""
    if isinstance(filtered, list | tuple):
        filtered = filtered[0] if filtered else None
    text = "" if filtered is None else str(filtered).strip()
    return None if text in ("", NO_MATCH) else text
