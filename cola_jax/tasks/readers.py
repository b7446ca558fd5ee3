"""Readers: the question in a row of each kind.

A reader turns the fields of one row into a `Question`. It takes the id to use where the row has
none, and raises InputError for a row that does not match the schema.
"""

import ast
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cola_jax.errors import InputError, printed, shown
from cola_jax.question import LETTERS, Question, open_question
from cola_jax.scoring.answer import last_box
from cola_jax.tasks.sources import Fields, Source, read_rows

ANSWERS = ("answer", "label", "target", "gold")  # names of the field of the gold answer
OPTION = re.compile(r"option[ _]?([a-z]|[0-9]{1,2})", re.IGNORECASE)  # a field of one option
CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations, such as <<4*5=20>>
LONGEST_ID = 250  # characters
MAX_METADATA = 10_000  # characters of DART-Math's query_metadata; bounds the cost of parsing it
SCHEMA = (
    "question (or prompt) and answer (or label, target, gold), for multiple choice options (or "
    "choices, or option_a, option_b, ...); or the fields of ARC, MMLU, GSM8K, MATH or DART-Math"
)


def read_arc(row: Fields, default_id: str | None) -> Question:
    """Read ARC: id, question, choices {text, label}, answerKey.

    Options are lettered by position, since some rows label them 1-4 instead of A-D.
    """
    require(row, "id", "question", "choices", "answerKey")
    choices = row["choices"]
    if not isinstance(choices, Mapping) or not {"text", "label"} <= set(choices):
        raise InputError("the field 'choices' must hold the lists 'text' and 'label'.")
    options = get_strings("choices.text", choices["text"])
    labels = get_strings("choices.label", choices["label"])
    text, key = get_string(row, "question"), get_string(row, "answerKey")
    if len(options) != len(labels) or len(set(labels)) != len(labels):
        raise InputError(f"there are {len(options)} options, but their labels are {shown(labels)}.")
    check_count(options)
    if key not in labels:
        raise InputError(f"the answer {shown(key)} is not among the labels {shown(labels)}.")
    return Question(get_id(row, "id", ""), text, tuple(options), labels.index(key))


def read_choice(row: Fields, default_id: str | None) -> Question:
    """Read multiple choice: question (or prompt), options, answer, subject; MMLU's rows as well.

    Options are `options` or `choices`, a list or a dict by letter, or the fields `option_a`,
    `option_b`, ... An option may be empty: the letter scorers accept it, the others refuse it.
    """
    text = get_string(row, "question", "prompt")
    labels, values = get_options(row)
    check_count(values)
    texts = [str(value) if is_number(value) else value for value in values]
    options = get_strings("options", texts, allow_blank=True)
    return Question(
        get_id(row, "id", default_id or text_id(text, *options)),
        text,
        tuple(options),
        answer_index(*get_answer(row), labels, values),
        metadata=metadata_of(subject=row.get("subject")),
    )


def get_options(row: Fields) -> tuple[list[str], list[Any]]:
    """Return the labels and the values of a row's options."""
    value = row.get("choices") if row.get("options") is None else row["options"]
    if value is None:
        value = {match[1]: row[name] for name in row if (match := OPTION.fullmatch(name))}
    if isinstance(value, Mapping):
        kept = {str(label).strip().upper(): x for label, x in value.items() if x is not None}
        return list(kept), list(kept.values())
    if not isinstance(value, list):
        raise InputError(f"the field 'options' must be a list of strings, got {shown(value)}.")
    return list(LETTERS[: len(value)]), value


def get_answer(row: Fields) -> tuple[str, Any]:
    """Return the name and the value of the field of a row's gold answer."""
    for name in ANSWERS:
        if row.get(name) is not None:
            return name, row[name]
    raise InputError("the field 'answer' is missing.")


def answer_index(name: str, answer: Any, labels: Sequence[str], values: Sequence[Any]) -> int:
    """Read an index from 0, a label, or the text of an option; InputError for what may be two."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    text, count = str(answer).strip(), len(values)
    by_index = is_number(answer) and not labels[0].isdecimal()
    if (
        by_index
        and answer in range(count)
        and (answer not in values or values[int(answer)] == answer)
    ):
        return int(answer)
    ways = [
        [i for i, label in enumerate(labels) if label == text.upper()],
        [i for i, value in enumerate(values) if str(value).strip() == text],
        [i for i in range(count) if str(i) == text and not labels[0].isdecimal()],
    ]
    if isinstance(answer, bool | list) or (by_index and answer == count):  # an index from 1
        ways = []
    places = {indices[0] for indices in ways if indices}
    if len(places) == 1:
        return places.pop()
    if places:
        raise InputError(
            f"the field {name!r} is {shown(answer)}, which names one option by its place and is "
            "the text of another: give an index, a number from 0."
        )
    raise InputError(
        f"the field {name!r} must be an index 0..{count - 1}, a letter A-{LETTERS[count - 1]} or "
        f"the text of an option, got {shown(answer)}."
    )


def check_count(options: Sequence[Any]) -> None:
    """Raise InputError for fewer than two options, or for more than there are letters."""
    if not 2 <= len(options) <= len(LETTERS):
        raise InputError(
            f"there are {len(options)} options, but a question has 2 to {len(LETTERS)}."
        )


def read_gsm8k(row: Fields, default_id: str | None) -> Question:
    """Read GSM8K: question, and answer: a worked solution, ####, and the number."""
    text, answer = get_string(row, "question"), get_string(row, "answer")
    solution, mark, gold = answer.rpartition("####")
    if not mark:
        raise InputError("the field 'answer' must give its number after ####, but has no ####.")
    solution = CALCULATOR.sub("", solution).strip()
    id = get_id(row, "id", default_id or text_id(text))
    return open_question(id, text, re.sub(r"[,$]", "", gold), solution)


def read_math(row: Fields, default_id: str | None) -> Question:
    """Read MATH: problem, solution, level, type; and MATH-500, which adds answer and subject.

    The gold is the `answer`, or else the content of the last box of the solution.
    """
    text = get_string(row, "problem")
    solution = get_string(row, "solution") if row.get("solution") is not None else None
    if row.get("answer") is not None:
        gold = get_string(row, "answer")
    elif solution is None:
        raise InputError("the field 'answer' is missing, and so is a 'solution' with a boxed one.")
    else:
        gold = last_box(solution)
    if gold is None:
        raise InputError("there is no answer: the field 'solution' has no complete \\boxed{...}.")
    id = get_id(row, "unique_id", get_id(row, "id", default_id or text_id(text)))
    metadata = metadata_of(
        math_level=math_level(row.get("level")), subject=row.get("subject") or row.get("type")
    )
    return open_question(id, text, gold, solution, metadata)


def math_level(level: Any) -> str | None:
    """Read "Level 3", "3" or 3; None for "Level ?" or no level."""
    if level is None:
        return None
    match = re.fullmatch(r"(?:level\s*)?([1-5?])", str(level).strip(), re.IGNORECASE)
    if not match:
        raise InputError(f"the field 'level' must be 1 to 5, or Level ?, got {shown(level)}.")
    return None if match[1] == "?" else match[1]


def read_dart(row: Fields, default_id: str | None) -> Question:
    """Read DART-Math: query_id, query, gt_ans, query_metadata, pass_rate.

    The pool has hundreds of responses to each query, hence as many rows of one query_id. The level
    that MATH assigns and the share of wrong responses are kept apart: they measure two things.
    """
    text = get_string(row, "query")
    gold = row.get("gt_ans", row.get("answer"))
    if gold is None:
        raise InputError("the field 'gt_ans' is missing: the row has no answer.")
    if not isinstance(gold, str | int | float) or isinstance(gold, bool):
        raise InputError(f"the field 'gt_ans' must be a string or a number, got {shown(gold)}.")
    query = query_metadata(row.get("query_metadata"))
    rate = row.get("pass_rate")
    metadata = metadata_of(
        math_level=math_level(query.get("level", row.get("level"))),
        fail_rate=None if rate is None else f"{fail_rate(rate):.9f}",
        subject=row.get("domain") or query.get("domain") or query.get("type"),
    )
    id = get_id(row, "query_id", default_id or text_id(text))
    return open_question(id, text, str(gold), metadata=metadata)


def query_metadata(value: Any) -> Mapping[str, Any]:
    """Read a dict or its repr, which is parsed as a literal and never evaluated."""
    if isinstance(value, str):
        try:
            if len(value) > MAX_METADATA:
                raise InputError("too long")
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise InputError(
                f"the field 'query_metadata' must be a dict or the text of one, got {shown(value)}."
            ) from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"the field 'query_metadata' must be a dict, got {shown(value)}.")
    return value


def fail_rate(pass_rate: Any) -> float:
    """Return 1 - pass_rate."""
    if isinstance(pass_rate, bool) or not isinstance(pass_rate, int | float):
        raise InputError(f"the field 'pass_rate' must be a number, got {shown(pass_rate)}.")
    if not 0 <= pass_rate <= 1:
        raise InputError(f"the field 'pass_rate' must be between 0 and 1, got {shown(pass_rate)}.")
    return 1 - pass_rate


def rank_fail_rates(questions: Iterable[Question]) -> list[Question]:
    """Replace each fail rate by one of five levels of equal size, 1 the easiest.

    Levels are cut by rank, not by rate: most of MATH's questions are easy for the models that
    answered them. Ties are broken by id, so the order of the rows does not matter.
    """
    questions = list(questions)
    rated = [i for i, q in enumerate(questions) if q.get("fail_rate") is not None]
    rated.sort(key=lambda i: (questions[i].get("fail_rate"), questions[i].id))
    for rank, i in enumerate(rated):
        metadata = dict(questions[i].metadata)
        del metadata["fail_rate"]
        metadata["fail_rate_level"] = str(1 + 5 * rank // len(rated))
        questions[i] = dataclasses.replace(questions[i], metadata=tuple(metadata.items()))
    return questions


def read_plain(row: Fields, default_id: str | None) -> Question:
    """Read an open question: prompt or question, answer (a string or number), id, solution."""
    text = get_string(row, "prompt", "question")
    if (kind := kind_of_row(dict(row))) not in OWN:
        field = "options" if kind in ("mmlu", "choice", "arc") else "an answer after ####"
        raise InputError(
            f"the row has {field}, as {kind} questions do, but the first row has none: give all "
            "rows the same fields."
        )
    name, gold = get_answer(row)
    if isinstance(gold, float) and not math.isfinite(gold):
        raise InputError(f"the field {name!r} must be a finite number, got {shown(gold)}.")
    gold = get_string({name: str(gold) if is_number(gold) else gold}, name)
    solution = row.get("solution")
    solution = solution if isinstance(solution, str) and solution.strip() else None
    return open_question(get_id(row, "id", default_id or text_id(text)), text, gold, solution)


def is_number(value: Any) -> bool:
    """Whether a value is a number, which a boolean is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Rows with the same fields: their reader, and the options of `load_questions` they take."""

    read: Callable[[Fields, str | None], Question]
    options: tuple[str, ...] = ()


OWN = ("prompt", "question")  # kinds of open questions of a user's own
KINDS = {
    "arc": Kind(read_arc),
    "mmlu": Kind(read_choice, ("subject",)),
    "choice": Kind(read_choice, ("subject",)),
    "gsm8k": Kind(read_gsm8k),
    "math": Kind(read_math, ("subject", "level")),
    "dart": Kind(read_dart, ("subject", "level", "fail_rate_level")),
    "prompt": Kind(read_plain),
    "question": Kind(read_plain),
}


def kind_of_rows(source: Source) -> str:
    """Determine the kind of a file, or of rows in memory, from the fields of its first row."""
    for where, row in read_rows(source):
        if kind := kind_of_row(row):
            return kind
        raise InputError(f"{where}: no kind of row has the fields {sorted(row)}: give {SCHEMA}.")
    name = f"{printed(source)} yields" if isinstance(source, str) else "the rows yield"
    raise InputError(f"{name} no questions: nothing is there.")


def kind_of_row(row: Mapping[str, Any]) -> str | None:
    """Determine the kind of a row from the names of its fields; None for no kind."""
    names = {name for name, value in row.items() if value is not None}
    choices = row.get("choices")
    if "answerKey" in names or (isinstance(choices, Mapping) and "text" in choices):
        return "arc"
    if isinstance(choices, list):
        return "mmlu"
    if names & {"options", "choices"} or any(OPTION.fullmatch(name) for name in names):
        return "choice"
    if names & {"query_id", "query"}:
        return "dart"
    if "problem" in names:
        return "math"
    if "question" in names and "####" in str(row.get("answer")):
        return "gsm8k"
    return next((name for name in OWN if name in names), None)


def require(row: Mapping[str, Any], *names: str) -> None:
    """Raise InputError if a field is missing or null."""
    for name in names:
        if row.get(name) is None:
            raise InputError(f"the field {name!r} is missing.")


def get_string(row: Mapping[str, Any], *names: str) -> str:
    """Return the string in the first of the fields that the row has."""
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        raise InputError(f"the field {' or '.join(map(repr, names))} is missing.")
    if not isinstance(row[name], str) or not row[name].strip():
        raise InputError(f"the field {name!r} must be a nonempty string, got {shown(row[name])}.")
    return row[name]


def get_strings(name: str, values: Any, *, allow_blank: bool = False) -> list[str]:
    """Return a list of strings unchanged."""
    if not isinstance(values, list) or not all(
        isinstance(x, str) and (allow_blank or x.strip()) for x in values
    ):
        kind = "strings" if allow_blank else "nonempty strings"
        raise InputError(f"the field {name!r} must be a list of {kind}, got {shown(values)}.")
    return values


def get_id(row: Mapping[str, Any], name: str, default: str) -> str:
    """Return the row's own id, or the default if it has none; messages show it as it is."""
    value = row.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():  # pandas has no integers beside nulls
        value = int(value)
    if not isinstance(value, str | int) or not str(value).strip():
        raise InputError(f"the field {name!r} must be a string or a number, got {shown(value)}.")
    if len(str(value)) > LONGEST_ID or not str(value).isprintable():
        raise InputError(
            f"the field {name!r} must have at most {LONGEST_ID} characters, and no line breaks, "
            f"got {shown(value)}."
        )
    return str(value)


def text_id(*texts: str) -> str:
    """Derive an id from the texts alone, so that it does not depend on file or line."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def metadata_of(**values: Any) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a question, without what is blank or not a string."""
    return tuple(x for x in values.items() if isinstance(x[1], str) and x[1].strip())
