"""Tasks of lm-evaluation-harness: its prompts, choices, shots, filters and metrics, not copies."""

import copy
import functools
import importlib.metadata
import importlib.util
import numbers
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cola_jax.errors import InputError, first_line, shown
from cola_jax.question import DELIMITER, Question, decoy_of
from cola_jax.scoring.answer import GenerationSettings, read_gen_kwargs
from cola_jax.scoring.grader import Grade

SEED = 1234  # of its shots, as lm-evaluation-harness draws them
MAX_GEN_TOKS = 256  # of a task that names no limit, as in lm-evaluation-harness's model `hf`
NO_MATCH = "[invalid]"  # what its regular expressions find where nothing matches
METRICS = ("exact_match", "em", "acc", "accuracy", "prompt_level_strict_acc")  # yes or no


@functools.cache
def manager() -> Any:
    """List the tasks of lm-evaluation-harness, which takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def task_names() -> list[str]:
    """List the names of the library's tasks; none where it is not installed."""
    return manager().all_subtasks if importlib.util.find_spec("lm_eval") else []


def is_open(name: str) -> bool:
    """Whether a task decodes its answers; InputError for one that neither chooses nor decodes."""
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
    """Load a task, its data set from `hub` where that is given; InputError where that fails."""
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
        """Take a loaded task; InputError where it needs images or sound, or runs code."""
        self.name, self.task = name, task
        for flag, what in (("MULTIMODAL", "needs images or sound"), ("UNSAFE_CODE", "runs code")):
            if getattr(task, flag, False):
                raise self.refusal(f"{what}, so it")
        self.rows = task.eval_docs

    def refusal(self, why: str) -> InputError:
        """Return the error that says why the task cannot be searched."""
        return InputError(
            f"{self.name} of lm-evaluation-harness {why} cannot be searched: use `cola lm-eval` "
            "with a path, or a file of your own."
        )

    def shots(self, wanted: int | None) -> int:
        """Return how many shots are shown; InputError where the task would ignore the number."""
        fixed = self.task.config.num_fewshot
        if wanted is None:
            return fixed or 0
        if wanted < 0:
            raise InputError(f"the number of shots must be at least 0, got {wanted}.")
        if wanted and fixed == 0:
            raise InputError(
                f"{self.name} of lm-evaluation-harness fixes 0 shots, so {wanted} would not be "
                "shown: leave the number of shots out."
            )
        return wanted

    def prompts(self, wanted: int | None) -> Iterator[tuple[str, Any, str]]:
        """Yield the id, the row and the prompt of each question, in order.

        Its shots are drawn anew for each, as lm-evaluation-harness draws them. Raises InputError as
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
        """Return the row of a question."""
        return self.rows[int(question.id.rpartition("/")[2])]

    def choices(self, wanted: int | None) -> Iterator[Question]:
        """Yield multiple-choice questions, each with its whole prompt as its text.

        Raises InputError as `prompts`, for a task whose choices have a prompt each, and for a
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


@functools.cache
def load_grader(name: str, hub: str | None = None, filter: str | None = None) -> "HarnessGrader":
    """Load the grader of a task; InputError as `load_task` and `HarnessGrader`."""
    return HarnessGrader(load_task(name, hub), filter)


class HarnessGrader:
    """Grade completions with the code of a task of lm-evaluation-harness.

    What a completion answers is what one of the task's filters makes of it; whether that is right
    says the first of METRICS that the task has.
    """

    def __init__(self, of: HarnessTask, filter: str | None = None):
        """Take a task that decodes, and the name of one of its filters; the first when None.

        Raises InputError for a filter that it does not have, and where it samples, has no metric
        that says yes or no, or cannot grade in a thread.
        """
        self.of, self.task = of, of.task
        filters = {each.name: each for each in self.task._filters}
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
        """Return the metric that says whether an answer is right."""
        names = list(self.task.aggregation())
        metric = next((name for name in METRICS if name in names), None)
        if metric is None:
            raise self.of.refusal(
                f"is scored by {', '.join(names) or 'nothing'}, which does not say whether an "
                "answer is right, so it"
            )
        return metric

    def read_settings(self, number: int, row: Any, prompt: str) -> GenerationSettings:
        """Read what ends a completion from the request that the task makes of a row."""
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
        """Grade the first gold answer in a thread, as all answers are."""
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
        """Yield the questions, each with its whole prompt as its text; InputError as `prompts`."""
        for number, (id, row, prompt) in enumerate(self.of.prompts(wanted)):
            if self.read_settings(number, row, prompt) != self.settings:
                raise self.of.refusal("ends the completions of each question otherwise, so it")
            gold = self.gold(row)
            decoy = decoy_of(id, gold)
            options = (gold,) if decoy is None else (gold, decoy)
            yield Question(id, prompt, options, 0, open=True)

    def target(self, row: Any) -> str:
        """Return the text of a row's gold answer, the first where it has several."""
        target = self.task.doc_to_target(row)
        if self.task.config.doc_to_choice is not None and isinstance(target, int):
            target = self.task.doc_to_choice(row)[target]
        if isinstance(target, list | tuple):
            target = target[0] if target else ""
        return str(target).strip()

    def gold(self, row: Any) -> str:
        """Return what the filter makes of a row's gold answer, if that is right, or all of it."""
        target = self.target(row)
        answer, grade = self.grade_row(row, target)
        return answer if answer is not None and grade is Grade.RIGHT else target

    def grade(self, question: Question, text: str) -> tuple[str | None, Grade]:
        """Return the answer that a completion gives, and its grade; each completion once."""
        key = question.id, text
        with self.lock:
            if key not in self.graded:
                self.graded[key] = self.grade_row(self.of.row(question), text)
            return self.graded[key]

    def grade_row(self, row: Any, text: str) -> tuple[str | None, Grade]:
        """Grade a completion of a row; what the library's code fails on stays ungraded."""
        try:
            filtered = self.filtered(row, text)
            return text_of(filtered), grade_of(self.value(row, filtered))
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
                    return text_of(filtered) == answer.strip()
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
        """Return what the filter makes of a completion."""
        from lm_eval.api.instance import Instance

        request = Instance("generate_until", row, ("", {}), 0, (self.of.name, 0, 1), [text])
        self.filter.apply([request])
        return request.filtered_resps[self.filter.name]

    def value(self, row: Any, filtered: Any) -> Any:
        """Return the value of the metric."""
        return self.task.process_results(row, [filtered])[self.metric]

    def record(self) -> dict[str, Any]:
        """Return what is recorded of how answers are found and graded."""
        return {
            "rule": self.filter.name,
            "metric": self.metric,
            "grader": f"lm-eval {importlib.metadata.version('lm-eval')}",
        }


def grade_of(value: Any) -> Grade:
    """Read a metric of 0 or 1; another value says neither right nor wrong."""
    if not isinstance(value, numbers.Real) or value not in (0, 1):
        return Grade.UNGRADED
    return Grade.RIGHT if value == 1 else Grade.WRONG


def text_of(filtered: Any) -> str | None:
    """Return the text of a filtered answer, None where the filter found nothing."""
    if isinstance(filtered, list | tuple):
        filtered = filtered[0] if filtered else None
    text = "" if filtered is None else str(filtered).strip()
    return None if text in ("", NO_MATCH) else text
