"""Registry: the tasks by name, where the questions of each are, and the options of each."""

import difflib
import logging
from pathlib import Path
from typing import NamedTuple

from cola_jax.errors import InputError, did_you_mean, plain_name
from cola_jax.tasks import harness

log = logging.getLogger(__name__)
ARITHMETIC = "arithmetic"
OWN = ("prompt", "question")  # kinds of open questions of a user's own
LIBRARY = "lm_eval:"  # before the name of a task that is to be lm-evaluation-harness's own
HARNESS = "harness"  # the kind of a multiple-choice task of lm-evaluation-harness
HARNESS_OPEN = "harness-open"  # the kind of one that decodes its answers
CHOICE = ("arc", "mmlu", "choice", HARNESS)  # kinds of multiple choice
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")  # of files, which no task of the library has
TYPO = 0.8  # similarity of a name to one of ours from which it is taken for a mistyped one
# the configs of EleutherAI/hendrycks_math
MATH_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
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


OPTIONS = {  # of `load_questions` for tasks of each kind, beside those of the Hub
    "mmlu": ("subject",),
    "choice": ("subject",),
    "math": ("subject", "level"),
    "dart": ("subject", "level", "fail_rate_level"),
    ARITHMETIC: ("level", "seed"),
    HARNESS: ("hub", "num_fewshot"),
    HARNESS_OPEN: ("hub", "num_fewshot", "rule"),
}


class Task(NamedTuple):
    """The questions of a task: their kind, and their data set on the Hub, if they are there."""

    name: str
    kind: str
    hub: str = ""
    configs: tuple[str | None, ...] = (None,)
    split: str = "test"
    shots: str = "train"  # the split of the shots
    shots_of: str | None = None  # the task from whose split they are, where it has none
    subject: str | None = None  # that the task's name selects

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `load_questions` that have an effect."""
        return (*(("split", "hub") if self.hub else ()), *OPTIONS.get(self.kind, ()))

    @property
    def choice(self) -> bool:
        """Whether options are offered."""
        return self.kind in CHOICE

    @property
    def of_library(self) -> bool:
        """Whether it is a task of lm-evaluation-harness."""
        return self.kind in (HARNESS, HARNESS_OPEN)


# MATH-500 has only a test split, and DART-Math's queries are MATH's training problems without
# their solutions: both take their shots from MATH
TASKS = {
    task.name: task
    for task in (
        Task("arc-easy", "arc", "allenai/ai2_arc", ("ARC-Easy",)),
        Task("arc-challenge", "arc", "allenai/ai2_arc", ("ARC-Challenge",)),
        Task("mmlu", "mmlu", "cais/mmlu", ("all",), shots="dev"),
        Task("gsm8k", "gsm8k", "openai/gsm8k", ("main",)),
        Task("math", "math", "EleutherAI/hendrycks_math", MATH_SUBJECTS),
        Task("math-500", "math", "HuggingFaceH4/MATH-500", shots_of="math"),
        Task("dart-math", "dart", "hkust-nlp/dart-math-pool-math", split="train", shots_of="math"),
        Task(ARITHMETIC, ARITHMETIC),
    )
}
SYNONYMS = {  # of lm-evaluation-harness and of the Hub
    "hendrycks-math": "math",
    "hendrycks-math500": "math-500",
    "math500": "math-500",
    "dart-math-pool-math": "dart-math",
}


def canonical(name: str) -> tuple[str, str | None]:
    """Return our name of a task and the subject in it; other names are unchanged.

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


def library_name(task: str) -> str:
    """Return lm-evaluation-harness's name of a task; case and hyphens do not matter.

    Raises InputError for a group of tasks, and for an unknown name, with the most similar. A hint
    at a name of ours is logged first: the library takes seconds.
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
