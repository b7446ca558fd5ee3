"""Registry: the tasks by name, where the questions of each are, and the options that it takes."""

import dataclasses
import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from cola_jax.errors import InputError, did_you_mean, plain_name
from cola_jax.scoring import scorer_names
from cola_jax.tasks import harness
from cola_jax.tasks.formats import FORMATS
from cola_jax.tasks.sources import Source

log = logging.getLogger(__name__)
ARITHMETIC = "arithmetic"
OWN = ("prompt", "question")  # kinds of open questions of a user's own
LIBRARY = "lm_eval:"  # before the name of a task that is to be lm-evaluation-harness's own
HARNESS = "harness"  # the kind of a multiple-choice task of lm-evaluation-harness
HARNESS_OPEN = "harness-open"  # the kind of one that decodes its answers
CHOICE = ("arc", "mmlu", "choice", HARNESS)  # kinds of multiple choice
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")  # of files, which no task of the library has
TYPO = 0.8  # similarity of a name to one of ours from which it is taken for a mistyped one
# the scorer and the format of multiple choice by default, and those of kinds with others
USUAL = ("options", "plain")
DEFAULTS = {"mmlu": ("letter", "harness")}
MATH_SUBJECTS = (  # the configs of EleutherAI/hendrycks_math
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
MMLU_SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
college_chemistry college_computer_science college_mathematics college_medicine
college_physics computer_security conceptual_physics econometrics electrical_engineering
elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality
international_law jurisprudence logical_fallacies machine_learning management marketing
medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy
prehistory professional_accounting professional_law professional_medicine
professional_psychology public_relations security_studies sociology us_foreign_policy
virology world_religions
""".split()  # noqa: SIM905


class Options(TypedDict, total=False):
    """What `load_questions` takes beside a limit; each task takes some of it."""

    split: str | None  # of a data set on the Hub
    hub: str | None  # a data set of the same layout: its id, or a local directory
    subject: str | None
    level: int | None  # of difficulty, 1 to 5
    fail_rate_level: int | None  # likewise, by how often a model failed
    seed: int | None
    num_fewshot: int | None  # shots in prompts that are ready
    rule: str | None  # a filter of completions


OPTIONS = {  # that tasks of each kind take, beside those of the Hub
    "mmlu": ("subject",),
    "choice": ("subject",),
    "math": ("subject", "level"),
    "dart": ("subject", "level", "fail_rate_level"),
    ARITHMETIC: ("level", "seed"),
    HARNESS: ("hub", "num_fewshot"),
    HARNESS_OPEN: ("hub", "num_fewshot", "rule"),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """The questions of a task: their kind, and their data set on the Hub, if they are there."""

    name: str
    kind: str
    hub: str = ""
    configs: tuple[str | None, ...] = (None,)
    split: str = "test"
    pool: bool = False  # of responses, with the statistics of its questions in a second data set
    interleave: str | None = None  # the field to interleave by, if the split is sorted by it
    shots: str = "train"  # the split of the shots
    shots_of: str | None = None  # the task from whose split they are, where it has none
    drawn: bool = False  # whether lm-evaluation-harness draws other shots for each question
    subject: str | None = None  # the one that its name selects

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `load_questions` that it takes."""
        return (*(("split", "hub") if self.hub else ()), *OPTIONS.get(self.kind, ()))

    @property
    def choice(self) -> bool:
        """Say whether options are offered."""
        return self.kind in CHOICE

    @property
    def of_library(self) -> bool:
        """Say whether it is lm-evaluation-harness's own."""
        return self.kind in (HARNESS, HARNESS_OPEN)


# MATH-500 has only a test split, and DART-Math's queries are MATH's training problems without
# their solutions: both take their shots from MATH
TASKS = {
    task.name: task
    for task in (
        Task("arc-easy", "arc", "allenai/ai2_arc", ("ARC-Easy",), drawn=True),
        Task("arc-challenge", "arc", "allenai/ai2_arc", ("ARC-Challenge",), drawn=True),
        Task("mmlu", "mmlu", "cais/mmlu", ("all",), interleave="subject", shots="dev"),
        Task("gsm8k", "gsm8k", "openai/gsm8k", ("main",)),
        Task("math", "math", "EleutherAI/hendrycks_math", MATH_SUBJECTS),
        Task("math-500", "math", "HuggingFaceH4/MATH-500", shots_of="math"),
        Task("dart-math", "dart", "hkust-nlp/dart-math-pool-math", split="train", pool=True,
             shots_of="math"),
        Task(ARITHMETIC, ARITHMETIC),
    )
}  # fmt: skip
SYNONYMS = {  # of lm-evaluation-harness and of the Hub
    "hendrycks-math": "math",
    "hendrycks-math500": "math-500",
    "math500": "math-500",
    "dart-math-pool-math": "dart-math",
}


def canonical(name: str) -> tuple[str, str | None]:
    """Return our name of a task, and its subject where the name has one; others are unchanged.

    Case, hyphens and underscores do not matter: ARC_Easy is arc-easy, and mmlu_abstract_algebra the
    subject abstract_algebra of mmlu. A name after `lm_eval:` is not ours.
    """
    known = name.strip().lower().replace("_", "-")
    if known.startswith(plain_name(LIBRARY)):
        return LIBRARY + name.strip()[len(LIBRARY) :].strip(), None
    known = SYNONYMS.get(known, known)
    if known in TASKS:
        return known, None
    subject = known.removeprefix("mmlu-").replace("-", "_")
    if known.startswith("mmlu-") and subject in MMLU_SUBJECTS:
        return "mmlu", subject
    return name, None


def find_task(source: Source) -> Task:
    """Return the task of a name, of a file of questions, or of rows in memory.

    Raises InputError for a name that no task has, with the most similar.
    """
    name, subject = canonical(source) if isinstance(source, str) else ("the questions", None)
    if name in TASKS:
        return dataclasses.replace(TASKS[name], subject=subject)
    from etils import epath

    from cola_jax.tasks.readers import kind_of_rows  # imports pydantic

    if not isinstance(source, str):
        return Task(name, kind_of_rows(source))
    if not name.startswith(LIBRARY) and epath.Path(name).is_file():
        return Task(name, kind_of_rows(name))
    name = library_name(name)
    return Task(name, HARNESS_OPEN if harness.is_open(name) else HARNESS)


def check_task(name: str) -> None:
    """Raise InputError for a task that does not exist; storage is not asked."""
    if "://" not in name:
        find_task(name)


def check_options(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that have a value, with the subject of the task's name.

    Raises TypeError for an unknown option, InputError for one that the task would ignore.
    """
    values = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in Options.__annotations__:
            raise TypeError(f"load_questions() got an unexpected keyword argument {name!r}")
        if name in values and name not in task.options:
            others = [other for other, entry in TASKS.items() if name in entry.options]
            hint = f" (tasks that have one: {', '.join(others)})" if others else ""
            raise InputError(
                f"{task.name} has no {name}, but {name} is {values[name]!r}: leave it out{hint}."
            )
    return values if task.subject is None else values | {"subject": task.subject}


def library_name(task: str) -> str:
    """Return lm-evaluation-harness's own name of a task; case and hyphens do not matter.

    Raises InputError for a group of its tasks, and where no task of that name exists at all, with
    the most similar name. A hint at a name of ours comes at once: the library takes seconds.
    """
    name = task.removeprefix(LIBRARY)
    suffix = Path(name).suffix
    if suffix in SUFFIXES:
        names, known = [], [str(file) for file in Path(name).parent.glob(f"*{suffix}")]
    else:
        if near := difflib.get_close_matches(plain_name(name), TASKS, 1, TYPO):
            log.warning("%s: did you mean %s? Looking in lm-evaluation-harness.", task, near[0])
        names = harness.task_names()
        known = [f"mmlu_{subject}" for subject in MMLU_SUBJECTS] + names
    forms = {plain_name(each): each for each in names} | {each: each for each in names}
    if (match := forms.get(name) or forms.get(plain_name(name))) is not None:
        return match
    if names and name in harness.manager().task_index:
        raise InputError(
            f"{name} is a group of tasks of lm-evaluation-harness: give the names of its tasks, "
            "with commas between them."
        )
    more = "" if harness.is_installed() else " (for which: pip install 'cola-jax[lm-eval]')"
    raise InputError(
        f"task {task!r} is neither one of {', '.join(TASKS)}, nor an existing file of questions, "
        f"nor a task of lm-evaluation-harness{more}"
        f"{did_you_mean(name, TASKS) or did_you_mean(name, known)}."
    )


def catalogue() -> list[dict[str, str]]:
    """Return for each task its data set, split, scorers, formats and shots; the default first."""
    return [row_of(task) for task in (*TASKS.values(), Task("FILE.jsonl", "prompt"))]


def row_of(task: Task) -> dict[str, str]:
    """Describe a task for the list of tasks."""
    scorers, formats = scorer_names(open=not task.choice), FORMATS.get(task.kind, ())
    scorer, style = DEFAULTS.get(task.kind, USUAL)
    styles = [format.name for format in formats] or sorted(("plain", "harness"), key=style.__ne__)
    if task.kind == "prompt":
        scorer = "generation"
    return {
        "task": task.name.replace("-", "_"),
        "data set": task.hub or ("generated" if task.name == ARITHMETIC else "yours"),
        "split": task.split if task.hub else "",
        "scorers": ", ".join(sorted(scorers, key=scorer.__ne__)),  # the default first
        "formats": ", ".join(styles),
        "shots": ", ".join(str(format.shots) for format in formats) or "0",
    }
