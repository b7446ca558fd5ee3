"""Readers of ARC, MMLU, GSM8K, MATH, DART-Math and plain rows, and of JSONL files of them.

A reader turns the fields of one row into a `Question`. It takes the id to use where the row has
none, and raises ValueError for a row that does not match the schema.
"""

import ast
import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from cola_jax.errors import InputError, shown
from cola_jax.files import parse_object
from cola_jax.question import LETTERS, Question, open_question
from cola_jax.scoring.answer import last_box

Fields = Mapping[str, Any]

MATH_SUBJECTS = (  # the configs of EleutherAI/hendrycks_math
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations, such as <<4*5=20>>
LONGEST_ID = 250  # characters
LONGEST_LINE = 10_000_000  # characters of a row
MAX_METADATA = 10_000  # characters of DART-Math's query_metadata; bounds the cost of parsing it


def read_arc(row: Fields, default_id: str | None) -> Question:
    """Reads ARC: id, question, choices {text, label}, answerKey.

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


def read_mmlu(row: Fields, default_id: str | None) -> Question:
    """Reads MMLU: question, subject, choices (a list), answer (an index or a letter).

    An option may be empty: the letter scorers accept it, the option scorers refuse it.
    """
    text = get_string(row, "question")
    require(row, "choices", "answer")
    options = get_strings("choices", row["choices"], allow_blank=True)
    check_count(options)
    return Question(
        get_id(row, "id", default_id or text_id(text, *options)),
        text,
        tuple(options),
        answer_index(row["answer"], len(options)),
        metadata=metadata_of(subject=row.get("subject")),
    )


def answer_index(answer: Any, count: int) -> int:
    """Reads an index from 0, or a letter."""
    letters = LETTERS[:count]
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        return letters.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < count:
        raise InputError(
            f"the field 'answer' must be an index 0..{count - 1} or a letter A-{letters[-1]}, got "
            f"{shown(answer)}."
        )
    return answer


def check_count(options: list[str]) -> None:
    """Raises ValueError for fewer than two options, or for more than there are letters."""
    if not 2 <= len(options) <= len(LETTERS):
        raise InputError(
            f"there are {len(options)} options, but a question has 2 to {len(LETTERS)}."
        )


def read_gsm8k(row: Fields, default_id: str | None) -> Question:
    """Reads GSM8K: question, and answer: a worked solution, ####, and the number."""
    text, answer = get_string(row, "question"), get_string(row, "answer")
    solution, mark, gold = answer.rpartition("####")
    if not mark:
        raise InputError("the field 'answer' must give its number after ####, but has no ####.")
    solution = CALCULATOR.sub("", solution).strip()
    id = get_id(row, "id", default_id or text_id(text))
    return open_question(id, text, re.sub(r"[,$]", "", gold), solution)


def read_math(row: Fields, default_id: str | None) -> Question:
    """Reads MATH: problem, solution, level, type; and MATH-500, which adds answer and subject.

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
    """Reads "Level 3", "3" or 3; None for "Level ?" or no level."""
    if level is None:
        return None
    match = re.fullmatch(r"(?:level\s*)?([1-5?])", str(level).strip(), re.IGNORECASE)
    if not match:
        raise InputError(f"the field 'level' must be 1 to 5, or Level ?, got {shown(level)}.")
    return None if match[1] == "?" else match[1]


def read_dart(row: Fields, default_id: str | None) -> Question:
    """Reads DART-Math: query_id, query, gt_ans, query_metadata, pass_rate.

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


def query_metadata(value: Any) -> Fields:
    """Reads a dict or its repr, which is parsed as a literal and never evaluated."""
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
    """Returns 1 - pass_rate."""
    if isinstance(pass_rate, bool) or not isinstance(pass_rate, int | float):
        raise InputError(f"the field 'pass_rate' must be a number, got {shown(pass_rate)}.")
    if not 0 <= pass_rate <= 1:
        raise InputError(f"the field 'pass_rate' must be between 0 and 1, got {shown(pass_rate)}.")
    return 1 - pass_rate


def rank_fail_rates(questions: Iterable[Question]) -> list[Question]:
    """Replaces each fail rate by one of five levels of equal size, 1 the easiest.

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
    """Reads a user's own row: prompt or question, answer (a string or number), id, solution."""
    text = get_string(row, "prompt", "question")
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        if not math.isfinite(answer):
            raise InputError(f"the field 'answer' must be a finite number, got {shown(answer)}.")
        answer = str(answer)
    gold = get_string({"answer": answer}, "answer")
    solution = row.get("solution")
    solution = solution if isinstance(solution, str) and solution.strip() else None
    return open_question(get_id(row, "id", default_id or text_id(text)), text, gold, solution)


def require(row: Fields, *names: str) -> None:
    """Raises ValueError if a field is missing or null."""
    for name in names:
        if row.get(name) is None:
            raise InputError(f"the field {name!r} is missing.")


def get_string(row: Fields, *names: str) -> str:
    """Returns the string in the first of the fields that the row has."""
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        raise InputError(f"the field {' or '.join(map(repr, names))} is missing.")
    if not isinstance(row[name], str) or not row[name].strip():
        raise InputError(f"the field {name!r} must be a nonempty string, got {shown(row[name])}.")
    return row[name]


def get_strings(name: str, values: Any, *, allow_blank: bool = False) -> list[str]:
    """Returns a list of strings unchanged."""
    if not isinstance(values, list) or not all(
        isinstance(x, str) and (allow_blank or x.strip()) for x in values
    ):
        kind = "strings" if allow_blank else "nonempty strings"
        raise InputError(f"the field {name!r} must be a list of {kind}, got {shown(values)}.")
    return values


def get_id(row: Fields, name: str, default: str) -> str:
    """Returns the row's own id, or the default if it has none; messages show it as it is."""
    value = row.get(name)
    if value is None:
        return default
    if not isinstance(value, str | int) or not str(value).strip():
        raise InputError(f"the field {name!r} must be a string or a number, got {shown(value)}.")
    if len(str(value)) > LONGEST_ID or not str(value).isprintable():
        raise InputError(
            f"the field {name!r} must have at most {LONGEST_ID} characters, and no line breaks, "
            f"got {shown(value)}."
        )
    return str(value)


def text_id(*texts: str) -> str:
    """Derives an id from the texts alone, so that it does not depend on file or line."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def metadata_of(**values: Any) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a question, without what is blank or not a string."""
    return tuple(x for x in values.items() if isinstance(x[1], str) and x[1].strip())


def read_lines(file: str) -> Iterator[tuple[int, dict]]:
    """Yields the rows of a JSONL file and their line numbers; blank lines are skipped."""
    with epath.Path(file).open("r", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), ""), 1):
                if len(line) > LONGEST_LINE:
                    raise InputError(
                        f"{file}:{number}: the line has more than {LONGEST_LINE:,} characters, and "
                        "is not a row."
                    )
                if line.strip():
                    yield number, parse_object(line, f"{file}:{number}")
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8 text ({error}).") from None
