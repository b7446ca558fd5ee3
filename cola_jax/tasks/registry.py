"""Registry: the tasks by name, where the questions of each are, and the loading of them."""

import functools
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cola_jax.errors import InputError, count, did_you_mean, first_line, plain_name, shorten, shown
from cola_jax.question import Question
from cola_jax.tasks import harness, readers
from cola_jax.tasks.arithmetic import DEFAULT_LIMIT, arithmetic
from cola_jax.tasks.choices import Meaning
from cola_jax.tasks.columns import FieldNames, field_pairs, find_columns
from cola_jax.tasks.question_table import QuestionTable, open_table
from cola_jax.tasks.readers import read_questions
from cola_jax.tasks.tables import SUFFIXES, PlacedRow, TableSource, is_table, undecoded

log = logging.getLogger(__name__)
ARITHMETIC = "arithmetic"
DEMO = "demo"  # also a local file's name, which is read then
LIBRARY = "lm_eval:"  # before the name of a task that is to be lm-evaluation-harness's own
HARNESS = "harness"  # the kind of a multiple-choice task of lm-evaluation-harness
HARNESS_OPEN = "harness-open"  # the kind of one that decodes its answers
CHOICE = (*readers.CHOICE, HARNESS)  # kinds of multiple choice
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
    **dict.fromkeys(("choice", "scienceqa"), ("subject",)),
    "math": ("subject", "level"),
    ARITHMETIC: ("level", "seed"),
    HARNESS: ("hub", "num_fewshot"),
    HARNESS_OPEN: ("hub", "num_fewshot", "rule"),
}
SELECTED = {"level": "math_level", "subject": "subject"}  # options, and the metadata they select


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
    file: str = ""  # of the questions that the package brings
    fields: FieldNames = None  # columns of a data set with other names, as `load_questions` takes
    meaning: Meaning = "0"  # of its answers that are numbers

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `load_questions` that have an effect."""
        of_table = ("fields", *(("answers_from",) if self.choice else ())) if self.own else ()
        return (*(("split", "hub") if self.hub else of_table), *OPTIONS.get(self.kind, ()))

    @property
    def own(self) -> bool:
        """Whether it is a file of the user's own, or rows in memory."""
        return not (self.hub or self.file or self.of_library or self.kind == ARITHMETIC)

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
        Task("scienceqa", "scienceqa", "derek-thomas/ScienceQA"),
        Task("gsm8k", "gsm8k", "openai/gsm8k", ("main",)),
        Task("math", "math", "EleutherAI/hendrycks_math", MATH_SUBJECTS),
        Task("math-500", "math", "HuggingFaceH4/MATH-500", shots_of="math"),
        Task("dart-math", "math", "hkust-nlp/dart-math-pool-math", split="train", shots_of="math"),
        Task(ARITHMETIC, ARITHMETIC),
        Task(DEMO, "arc", file=str(Path(__file__).with_name("demo.jsonl"))),  # two dozen
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


def find_task(
    source: TableSource, fields: FieldNames = None, answers_from: int | None = None
) -> Task:
    """Return the task of a name, of a file of questions, or of rows in memory.

    `fields` and `answers_from` are those of `load_questions`. Raises InputError for an unknown
    name, with the most similar.
    """
    name, subject = canonical(source) if isinstance(source, str) else ("the questions", None)
    if isinstance(source, str) and source == DEMO and Path(DEMO).is_file():
        warn_of_file(Path.cwd() / DEMO)
        return Task(name, open_table(name, fields, answers_from).kind)
    if name in TASKS:
        return TASKS[name]._replace(subject=subject)
    if not isinstance(source, str):
        return Task(name, open_table(source, fields, answers_from).kind)
    if not name.startswith(LIBRARY) and is_table(name):
        return Task(name, open_table(name, fields, answers_from).kind)
    name = library_name(name)
    return Task(name, HARNESS_OPEN if harness.is_open(name) else HARNESS)


@functools.cache
def warn_of_file(local: Path) -> None:
    """Log that a local file is read instead of the demo's questions, once in a process."""
    log.warning("%s: reading the file %s; rename it to ask the demo's questions.", DEMO, local)


def check_task(name: str, fields: FieldNames = None, answers_from: int | None = None) -> None:
    """Raise InputError for an unknown task; files in storage are not looked up."""
    if "://" not in name:
        find_task(name, fields, answers_from)


def library_name(task: str) -> str:
    """Return lm-evaluation-harness's name of a task; case and hyphens do not matter.

    Raises InputError for a group of tasks, and for an unknown name, with the most similar.
    """
    name = task.removeprefix(LIBRARY)
    suffix = Path(name).suffix
    if suffix in SUFFIXES:
        names = []
        known = [str(file) for file in Path(name).parent.glob(f"*{suffix}")]
    else:
        names = harness.task_names()
        known = [*(f"mmlu_{subject}" for subject in MMLU_SUBJECTS), *names]
    if alike := [each for each in names if plain_name(each) == plain_name(name)]:
        return name if name in alike else alike[-1]
    if names and name in harness.manager().task_index:
        raise InputError(
            f"{name} is a group of tasks of lm-evaluation-harness: give the names of its tasks, "
            "with commas between them."
        )
    if Path(name).is_dir():
        raise InputError(
            f"{name} is a folder, and none that Dataset.save_to_disk has written: give a file."
        )
    more = "" if harness.is_installed() else " (for which: pip install 'cola-jax[lm-eval]')"
    raise InputError(
        f"task {task!r} is neither one of {', '.join(TASKS)}, nor an existing file of questions, "
        f"nor a task of lm-evaluation-harness{more}"
        f"{did_you_mean(name, TASKS) or did_you_mean(name, known)}."
    )


def load_questions(
    source: TableSource,
    *,
    limit: int | float | str | None = None,
    beside: int = 0,
    split: str | None = None,
    hub: str | None = None,
    subject: str | None = None,
    level: int | None = None,
    seed: int | None = None,
    num_fewshot: int | None = None,
    rule: str | None = None,
    fields: FieldNames = None,
    answers_from: int | None = None,
) -> list[Question]:
    """Load the questions of a task, of a file, or of rows in memory, in order.

    Args:
      source: one of `TASKS`; a file (JSON, JSONL, CSV, TSV, Parquet or Excel) or a folder that
        `datasets` has saved; a list of dicts, a DataFrame or a `datasets.Dataset`; or a task of
        lm-evaluation-harness. Equal questions of a file are one, and what can be read in two ways
        is refused.
      limit: number of questions, from the first, or a share of them (0.1 or "10%"), rounded up; by
        default all, or 100 of arithmetic.
      beside: number of questions beyond the limit.
      split: of the data set on the Hub.
      hub: id or local directory of a data set of the same layout.
      subject: of MMLU, MATH, DART-Math or a file of multiple choice.
      level: of MATH, DART-Math or arithmetic, 1 to 5.
      seed: of arithmetic.
      num_fewshot: shots in the prompts of a task of lm-evaluation-harness.
      rule: the filter of completions of such a task.
      fields: which columns of a file are which field of a question, where their names do not say
        it: "question=ctx,options=a+b,answer=label", or a dict.
      answers_from: the number of the first option, 0 or 1, where answers of a file are numbers.

    Raises:
      InputError: for an unknown task, an option that the task ignores, a row that does not match
        the schema or has no answer (naming file and line), a duplicate id, or no questions.
    """
    if isinstance(source, Iterator):
        source = list(source)  # read twice
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    task = find_task(source, fields, answers_from)
    limit = read_limit(limit)
    options = {"split": split, "hub": hub, "subject": subject, "level": level, "seed": seed}
    options |= {"num_fewshot": num_fewshot, "rule": rule}
    options |= {"fields": fields, "answers_from": answers_from}
    values = check_options(task, {name: x for name, x in options.items() if x is not None})
    table: QuestionTable | None = None
    repeats: list[str] = []  # places of rows
    questions: Iterable[Question]
    if task.kind == ARITHMETIC:
        if isinstance(limit, float):
            raise InputError(
                f"arithmetic generates any number of questions: give one, not the share {limit}."
            )
        limit = DEFAULT_LIMIT if limit is None else limit
        questions = arithmetic(level, limit + beside, seed or 0)
    elif task.of_library:
        questions = harness.load_task(task.name, hub, rule).questions(num_fewshot)
    elif task.hub:
        rows = hub_rows(task, values.get("split"), values.get("hub"))
        questions = select(hub_questions(task, rows, values.get("hub")), values)
    else:
        table = open_table(task.file or source, fields, answers_from)
        questions = select(table.questions(repeats), values)
    if isinstance(limit, float):
        questions = list(questions)
        limit = math.ceil(limit * len(questions))
    end = None if limit is None else max(0, limit) + beside
    questions = list(itertools.islice(questions, end))
    if not questions:
        chosen = "".join(f", {name} {value}" for name, value in values.items())
        raise InputError(f"{task.name} yields no questions (limit {limit}{chosen}).")
    if table is not None and task.own:
        log.log(logging.WARNING if table.columns.unused else logging.INFO, table.describe())
        if repeats:
            log.warning(
                "%s: %s repeat other questions and are left out (%s).",
                task.name,
                count(len(repeats), "row"),
                shorten(repeats),
            )
    return questions


def check_options(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the subject of the task's name; InputError for one without effect."""
    for name, value in values.items():
        if name not in task.options:
            others = [other for other, entry in TASKS.items() if name in entry.options]
            hint = f" (tasks that have one: {', '.join(others)})" if others else ""
            raise InputError(
                f"{task.name} has no {name}, but {name} is {value!r}: leave it out{hint}."
            )
    return dict(values) if task.subject is None else {**values, "subject": task.subject}


def read_limit(limit: int | float | str | None) -> int | float | None:
    """Read a number of questions, or a share of them: 0.1 or 10%; InputError for anything else."""
    if limit is None:
        return None
    text = str(limit).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if text.endswith("%"):
        value /= 100
        if value == 1:
            return None
    elif value.is_integer() and not isinstance(limit, float):
        return int(value)
    if not 0 < value < 1:
        raise InputError(
            f"a limit of {shown(limit)} is neither a whole number nor a share below 1: give 8, "
            "0.1 or 10%."
        )
    return value


def select(questions: Iterable[Question], values: Mapping[str, Any]) -> Iterator[Question]:
    """Yield the questions that have the wanted metadata."""
    wanted = {SELECTED[key]: str(value) for key, value in values.items() if key in SELECTED}
    for question in questions:
        if all(question.get(name) == value for name, value in wanted.items()):
            yield question


def hub_questions(
    task: Task, rows: Iterable[PlacedRow], hub: str | None = None
) -> Iterator[Question]:
    """Yield the questions of rows of the Hub, or of a local directory of the same layout."""
    rows = iter(rows)
    if (first := next(rows, None)) is not None:
        folder = hub if hub is not None and os.path.isdir(hub) else None
        columns = find_columns(list(first[2]), field_pairs(task.fields))
        every = itertools.chain([first], rows)
        yield from read_questions(task.kind, every, columns, folder, task.meaning)


def hub_rows(task: Task, split: str | None, hub: str | None) -> Iterator[PlacedRow]:
    """Yield the rows of a task on the Hub.

    Subjects of MATH and MMLU are interleaved: otherwise a small limit would select one alone.
    """
    queues: Iterable[Iterable[PlacedRow]]
    queues = [subset_rows(hub or task.hub, each, split or task.split) for each in task.configs]
    if task.kind == "mmlu":  # whose split is sorted by subject
        of_subject: dict[str, list[PlacedRow]] = {}
        for row in itertools.chain(*queues):
            of_subject.setdefault(str(row[2].get("subject")), []).append(row)
        queues = of_subject.values()
    return filter(None, itertools.chain.from_iterable(itertools.zip_longest(*queues)))


def subset_rows(hub: str, config: str | None, split: str) -> Iterator[PlacedRow]:
    """Yield the rows of one subset, each with its place in the split as its default id.

    Of a pool of responses, such as DART-Math's, only the first row of each query.
    """
    rows = load_hub(hub, config, split)
    numbers: Iterable[int] = range(len(rows))
    if "query_id" in rows.column_names:  # by column: a million rows one by one take minutes
        numbers = rows.select_columns("query_id").to_pandas().drop_duplicates().index
        rows = rows.select(numbers)
    place = f"{config}/{split}" if config else split
    where = " ".join(filter(None, (hub, config, split)))
    for number, row in zip(numbers, rows, strict=True):
        yield f"{where}:{number + 1}", f"{place}/{number + 1}", row


def load_hub(hub: str, config: str | None, split: str) -> Any:
    """Load one split with the `datasets` library; raise InputError if that fails."""
    import datasets

    try:
        return undecoded(datasets.load_dataset(hub, config, split=split))
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        name = hub if config is None else f"{hub} {config}"
        raise InputError(
            f"{name} (split {split}) could not be loaded: {first_line(error)}. Without a network, "
            "give a JSONL file of the same fields as the task."
        ) from error
