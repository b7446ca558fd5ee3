"""Tasks of lm-evaluation-harness, with its prompts, choices, shots, filters and metrics."""

import copy
import functools
import importlib.metadata
import importlib.util
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cola_jax.errors import InputError, first_line, reading, shown
from cola_jax.question import DELIMITER, Question, decoy_of
from cola_jax.scoring.answer import GenerationSettings, read_gen_kwargs
from cola_jax.scoring.grader import Grade

SEED = 1234  # of its shots, as lm-evaluation-harness draws them
MAX_GEN_TOKS = 256  # default limit, as in lm-evaluation-harness's model `hf`
NO_MATCH = "[invalid]"  # result of its regular expressions where nothing matches
METRICS = ("exact_match", "em", "acc", "accuracy", "prompt_level_strict_acc")  # yes or no


@functools.cache
def manager() -> Any:
    """List the tasks of lm-evaluation-harness, which takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def is_installed() -> bool:
    return importlib.util.find_spec("lm_eval") is not None


def task_names() -> list[str]:
    """List the names of the library's tasks; none where it is not installed."""
    return manager().all_subtasks if is_installed() else []


def is_open(name: str) -> bool:
    """Whether a task decodes; InputError for a task that neither chooses nor decodes."""
    config = manager().task_index[name].cfg or {}
    kind = config.get("output_type")
    if kind is None:
        kind = load_raw(name).OUTPUT_TYPE if "class" in config else "generate_until"
    if kind not in ("multiple_choice", "generate_until"):
        raise InputError(
            f"{name} of lm-evaluation-harness is of the kind {kind}: its score is a likelihood, "
            "not right or wrong, so there is nothing to search for. Use `cola lm-eval` with a "
            "path, or a file of your own."
        )
    return kind == "generate_until"


@functools.cache
def load_task(name: str, hub: str | None = None, rule: str | None = None) -> "HarnessTask":
    """Load a task, with its own data set and its first filter unless others are named.

    `hub` is the id or local directory of a data set, `rule` the name of a filter. Raises InputError
    where loading fails, and for a task that cannot be searched.
    """
    task = load_raw(name, hub)
    return DecodingTask(name, task, rule, hub) if is_open(name) else ChoiceTask(name, task)


def load_raw(name: str, hub: str | None = None) -> Any:
    """Load the library's object of a task."""
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
    return task


class HarnessTask:
    """A task of lm-evaluation-harness and the rows of its evaluation split."""

    def __init__(self, name: str, task: Any):
        self.name = name
        self.task = task
        for flag, why in (("MULTIMODAL", "needs images or sound"), ("UNSAFE_CODE", "runs code")):
            if getattr(task, flag, False):
                raise self.refusal(f"{why}, so it")
        self.rows = task.eval_docs

    def refusal(self, why: str) -> InputError:
        """Make the error for a task that cannot be searched."""
        return InputError(
            f"{self.name} of lm-evaluation-harness {why} cannot be searched: use `cola lm-eval` "
            "with a path, or a file of your own."
        )

    def questions(self, shots: int | None) -> Iterator[Question]:
        """Yield the questions in order, each with its whole prompt as its text.

        `shots` is the number of questions shown before each; the task's own when None. Raises
        InputError for a number of shots that the task would ignore or has no rows for, and for a
        question that cannot be searched.
        """
        fixed = self.task.config.num_fewshot
        count = (fixed or 0) if shots is None else shots
        if count < 0:
            raise InputError(f"the number of shots must be at least 0, got {count}.")
        if count and fixed == 0:
            raise InputError(
                f"{self.name} of lm-evaluation-harness fixes 0 shots, so {count} would not be "
                "shown: leave the number of shots out."
            )
        self.task.set_fewshot_seed(seed=SEED)  # shots are drawn anew for each question
        for number, row in enumerate(self.rows):
            try:
                prefix = self.task.doc_to_prefix(row)
                prompt = self.task.fewshot_context(row, count, gen_prefix=prefix)
            except Exception as error:
                raise InputError(
                    f"{self.name}, row {number}: lm-evaluation-harness makes no prompt with "
                    f"{count} shots of it: {first_line(error)}."
                ) from error
            yield self.question(f"{self.name}/{number}", row, prompt)

    def question(self, id: str, row: Any, prompt: str) -> Question:
        """Make the question of a row."""
        raise NotImplementedError


class ChoiceTask(HarnessTask):
    """A task whose choices are scored after one prompt."""

    def question(self, id: str, row: Any, prompt: str) -> Question:
        if self.task.multiple_input:
            raise self.refusal("puts its choices before the scored text, so it")
        text = prompt.rstrip()  # the harness scores white space with the choice
        delimiter = prompt[len(text) :] + self.task.config.target_delimiter
        choices = self.task.doc_to_choice(row)
        target = self.task.doc_to_target(row)
        gold = target
        if isinstance(target, str) and target in choices:
            gold = choices.index(target)
        if not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise InputError(
                f"the question {id} has the answer {shown(target)}, which is not one of its "
                f"{len(choices)} choices: it cannot be searched."
            )
        return Question(id, text, tuple(choices), gold, metadata=((DELIMITER, delimiter),))


class DecodingTask(HarnessTask):
    """A task that decodes, and the grader of its completions, with the library's code.

    A filter of the task finds the answer, and the first of METRICS that the task has judges it.
    """

    def __init__(self, name: str, task: Any, rule: str | None = None, hub: str | None = None):
        super().__init__(name, task)
        self.arguments = name, hub, rule  # of `load_task`
        filters = {each.name: each for each in task._filters}
        rule = next(iter(filters)) if rule is None else rule
        if rule not in filters:
            raise InputError(
                f"{name} of lm-evaluation-harness has the filters {', '.join(filters)}, not "
                f"{rule!r}: give one of them as the rule."
            )
        self.filter = filters[rule]
        if task.config.repeats > 1:
            raise self.refusal(f"samples {task.config.repeats} completions, so it")
        names = list(task.aggregation())
        self.metric = next((metric for metric in METRICS if metric in names), "")
        if not self.metric:
            raise self.refusal(
                f"is scored by {', '.join(names) or 'nothing'}, which does not say whether an "
                "answer is right, so it"
            )
        self.settings = self.read_settings()
        self.lock = threading.Lock()  # the library's code was not written for threads
        row = self.rows[0]
        with ThreadPoolExecutor(1) as thread:  # where all answers are graded
            try:
                _, grade = thread.submit(self.judge, row, self.target(row)).result()
            except Exception as error:  # of any task's own code
                raise self.refusal(f"fails to grade ({first_line(error)}), so it") from error
        if grade is Grade.UNGRADED:
            raise self.refusal(f"gives its own answer no {self.metric} of 0 or 1, so it")

    def __reduce__(self) -> tuple[Any, ...]:
        """Load the task where it is sent: the library's code and data are not."""
        return load_task, self.arguments

    def read_settings(self) -> GenerationSettings:
        """Read how a completion ends from the task's request for its first row."""
        metadata = (self.name, 0, 1)
        request = self.task.construct_requests(doc=self.rows[0], ctx="?", metadata=metadata)
        if isinstance(request, list) or request.request_type != "generate_until":
            raise self.refusal("makes several requests of a question, so it")
        with reading(f"{self.name} of lm-evaluation-harness"):
            return read_gen_kwargs(request.args[1], MAX_GEN_TOKS)

    def question(self, id: str, row: Any, prompt: str) -> Question:
        target = self.target(row)
        answer, grade = self.grade_row(row, target)
        gold = answer if answer is not None and grade is Grade.RIGHT else target
        return Question(id, prompt, (gold,), open=True).with_decoy(decoy_of(id, gold))

    def target(self, row: Any) -> str:
        """Return the text of a row's gold answer, the first where it has several."""
        target = self.task.doc_to_target(row)
        if self.task.config.doc_to_choice is not None and isinstance(target, int):
            target = self.task.doc_to_choice(row)[target]
        if isinstance(target, list | tuple):
            target = target[0] if target else ""
        return str(target).strip()

    def grade(
        self, question: Question, text: str, gold: str | None = None
    ) -> tuple[str | None, Grade]:
        """Return the answer of a completion, None without an answer, and its grade.

        The task's metric compares it with `gold`, by default the task's own. A task that grades
        with code of its own cannot take another gold: the texts are compared then.
        """
        return self.grade_row(self.rows[int(question.id.rpartition("/")[2])], text, gold)

    def grade_row(self, row: Any, text: str, gold: str | None = None) -> tuple[str | None, Grade]:
        """Grade a completion of a row; UNGRADED where the library fails."""
        try:
            return self.judge(row, text, gold)
        except Exception:  # of any task's own code
            return None, Grade.UNGRADED

    def judge(self, row: Any, text: str, gold: str | None = None) -> tuple[str | None, Grade]:
        """Grade a completion of a row; raises the exceptions of the library's code."""
        task = self.task
        with self.lock:
            filtered = self.filtered(row, text)
            answer = text_of(filtered)
            if gold is not None and self.has_own_code:
                return answer, Grade.RIGHT if answer == gold.strip() else Grade.WRONG
            if gold is not None:
                task = copy.copy(task)
                task.doc_to_target = lambda *_: gold
                task.multiple_target = 0
            return answer, grade_of(task.process_results(row, [filtered])[self.metric])

    @property
    def has_own_code(self) -> bool:
        """Whether the task grades by more than a metric and its gold answer."""
        from lm_eval.api.task import ConfigurableTask

        config = self.task.config
        same = type(self.task).process_results is ConfigurableTask.process_results
        return not same or callable(config.process_results) or config.doc_to_choice is not None

    def filtered(self, row: Any, text: str) -> Any:
        """Return the answer to which the filter reduces a completion."""
        from lm_eval.api.instance import Instance

        request = Instance("generate_until", row, ("", {}), 0, (self.name, 0, 1), [text])
        self.filter.apply([request])
        return request.filtered_resps[self.filter.name]

    def record(self) -> dict[str, Any]:
        """Return the settings that find and grade answers."""
        return {
            "rule": self.filter.name,
            "metric": self.metric,
            "grader": f"lm-eval {importlib.metadata.version('lm-eval')}",
        }


def grade_of(value: Any) -> Grade:
    """Read a metric of 0 or 1; any other value is no grade."""
    return {0: Grade.WRONG, 1: Grade.RIGHT}.get(value, Grade.UNGRADED)


def text_of(filtered: Any) -> str | None:
    """Return the text of a filtered answer, None where the filter found nothing."""
    if isinstance(filtered, list | tuple):
        filtered = filtered[0] if filtered else None
    text = "" if filtered is None else str(filtered).strip()
    return None if text in ("", NO_MATCH) else text
