"""Readers: the question in a row of each kind, by a pydantic model of its fields."""

import ast
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import pydantic
from pydantic import AliasChoices, BeforeValidator, Field

from cola_jax.errors import InputError, shown
from cola_jax.question import LETTERS, Question, open_question
from cola_jax.scoring.answer import last_box
from cola_jax.tasks.registry import OWN

ANSWERS = ("answer", "label", "target", "gold")  # names of the field of the gold answer
OPTION = re.compile(r"option[ _]?([a-z]|[0-9]{1,2})", re.IGNORECASE)  # a field of one option
CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations, such as <<4*5=20>>
LEVEL = re.compile(r"(?:level\s*)?([1-5?])", re.IGNORECASE)
SCHEMA = (
    "question (or prompt) and answer (or label, target, gold), for multiple choice options (or "
    "choices, or option_a, option_b, ...); or the fields of ARC, MMLU, GSM8K, MATH or DART-Math"
)


def read_id(value: Any) -> str:
    """Read an id, a text or a number that messages show as it is."""
    if isinstance(value, float) and value.is_integer():  # pandas has no integers beside nulls
        value = int(value)
    text = str(value)
    if not isinstance(value, str | int) or not text.strip() or not text.isprintable():
        raise ValueError(f"must be a string of one line or a number, got {shown(value)}")
    return text


def read_level(value: Any) -> str | None:
    """Read "Level 3", "3" or 3; None for "Level ?" or no level."""
    match = LEVEL.fullmatch(str(value).strip())
    if value is not None and match is None:
        raise ValueError(f"must be 1 to 5, or Level ?, got {shown(value)}")
    return None if match is None or match[1] == "?" else match[1]


def read_query_metadata(value: Any) -> Any:
    """Read a dict or its repr, which is parsed as a literal and never evaluated."""
    if not isinstance(value, str):
        return value or {}
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"must be a dict or the text of one, got {shown(value)}") from None


def named(*names: str) -> Any:
    """Declare a required field by the names that it may have in a row, the first present."""
    return Field(validation_alias=AliasChoices(*names))


Text = Annotated[str, Field(pattern=r"\S")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Id = Annotated[str, BeforeValidator(read_id)]
Level = Annotated[str | None, BeforeValidator(read_level)]


class Fields(pydantic.BaseModel):
    """The fields of a row that are read; others are kept apart."""

    model_config = pydantic.ConfigDict(extra="allow", coerce_numbers_to_str=True)

    id: Id | None = None

    def question(self, default_id: str | None) -> Question:
        """Make the question; `default_id` is its id where the row has none."""
        raise NotImplementedError


class Choice(Fields):
    """Multiple choice: question (or prompt), options, answer, subject; MMLU's and ARC's as well.

    Options are `options` or `choices`: a list, a dict by label, or ARC's {text, label}; or the
    fields `option_a`, `option_b`, ... An option may be empty: the letter scorers accept it, the
    others refuse it.
    """

    text: Text = named("question", "prompt")
    options: Annotated[dict[str, str | int | Number], Field(min_length=2, max_length=len(LETTERS))]
    answer: Any = named(*ANSWERS)
    subject: Any = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def label_options(cls, row: dict[str, Any]) -> dict[str, Any]:
        """Give options in any of their forms as a dict by label."""
        row = dict(row)
        options = row.pop("options", None) or row.pop("choices", None)
        if options is None:
            fields = {name: match[1] for name in row if (match := OPTION.fullmatch(name))}
            options = {label: row.pop(name) for name, label in fields.items()}
        elif isinstance(options, Mapping) and {"text", "label"} <= options.keys():
            options, row["answer"] = read_arc(options, row.pop("answerKey", None))
        if isinstance(options, Mapping):
            options = {label: value for label, value in options.items() if value is not None}
        if isinstance(options, list):
            more = map(str, range(len(LETTERS), len(options)))
            options = dict(zip([*LETTERS, *more], options, strict=False))
        return row | {"options": options}

    def question(self, default_id: str | None) -> Question:
        values = list(self.options.values())
        texts = tuple(str(value) for value in values)
        answer = answer_index(self.answer, list(self.options), values)
        id = self.id or default_id or text_id(self.text, *texts)
        return Question(id, self.text, texts, answer, metadata=metadata_of(subject=self.subject))


def read_arc(choices: Mapping[str, Any], key: Any) -> tuple[list[Any], int]:
    """Return ARC's options and the index of the right one; some rows have the labels 1-4."""
    texts, labels = list(choices["text"]), list(choices["label"])
    if len(texts) != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(f"there are {len(texts)} options, but their labels {shown(labels)}")
    if key not in labels:
        raise ValueError(f"answerKey {shown(key)} is not among {shown(labels)}")
    return texts, labels.index(key)


def answer_index(answer: Any, labels: Sequence[str], values: Sequence[Any]) -> int:
    """Read an index from 0, a label, or the text of an option; InputError where it is ambiguous."""
    labels, texts = ([str(x).strip() for x in each] for each in (labels, values))
    whole = isinstance(answer, float) and answer.is_integer()
    answer = int(answer) if whole else answer
    text, numbered, indices = str(answer).strip(), labels[0].isdecimal(), range(len(texts))
    by_index = isinstance(answer, int) and not numbered
    if by_index and answer in indices and (answer not in values or values[answer] == answer):
        return answer
    places = {names.index(text) for names in (labels, texts) if text in names}
    places |= {i for i, label in enumerate(labels) if label.lower() == text.lower()}
    places |= {i for i in indices if str(i) == text and not numbered}
    if len(places) != 1 or (by_index and answer == len(texts)):  # which may be an index from 1
        raise InputError(
            f"the answer must be the index (0..{len(texts) - 1}), the letter or the text of an "
            f"option, and not of two options, got {shown(answer)}."
        )
    return places.pop()


class Open(Fields):
    """An open question: prompt (or question), answer (a string or number), id, solution."""

    text: Text = named("prompt", "question")
    answer: Text = named(*ANSWERS)
    solution: str | None = None

    def question(self, default_id: str | None) -> Question:
        id = self.id or default_id or text_id(self.text)
        return open_question(id, self.text, self.answer, self.solution, self.metadata())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the levels and the subject."""
        return ()


class Gsm8k(Open):
    """GSM8K: question, and answer: a worked solution, ####, and the number."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def split_answer(cls, row: dict[str, Any]) -> dict[str, Any]:
        """Divide the answer into the solution and the number."""
        solution, mark, gold = str(row.get("answer")).rpartition("####")
        if not mark:
            raise ValueError("the field 'answer' must give its number after ####, but has no ####")
        solution = CALCULATOR.sub("", solution).strip()
        return row | {"solution": solution, "answer": re.sub(r"[,$]", "", gold)}


class Math(Open):
    """MATH: problem, solution, level, type; MATH-500 adds answer and subject.

    The gold is the answer, or else the content of the last box of the solution. DART-Math has
    query_id, query, gt_ans, query_metadata, pass_rate, and a row for each response to a query.
    """

    id: Id | None = Field(None, validation_alias=AliasChoices("query_id", "unique_id", "id"))
    text: Text = named("query", "problem")
    answer: Text = named("gt_ans", "answer")
    level: Level = None
    subject: Any = Field(None, validation_alias=AliasChoices("subject", "domain", "type"))
    query_metadata: Annotated[dict[str, Any], BeforeValidator(read_query_metadata)] = {}
    pass_rate: Annotated[float, Field(ge=0, le=1)] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def read_box(cls, row: dict[str, Any]) -> dict[str, Any]:
        """Take the answer from the solution where there is no other."""
        if "problem" not in row or "answer" in row:
            return row
        gold = last_box(str(row.get("solution")))
        if gold is None:
            raise ValueError("there is no answer: the 'solution' has no complete \\boxed{...}")
        return row | {"answer": gold}

    def metadata(self) -> tuple[tuple[str, str], ...]:
        query, rate = self.query_metadata, self.pass_rate
        return metadata_of(
            math_level=read_level(query.get("level", self.level)),
            fail_rate=None if rate is None else f"{1 - rate:.9f}",
            subject=self.subject or query.get("domain") or query.get("type"),
        )


def rank_fail_rates(questions: Iterable[Question]) -> list[Question]:
    """Replace fail rates by five levels of equal size, 1 the easiest.

    Levels are cut by rank: by rate, most of MATH's questions would be easy. Ties are broken by id.
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


KINDS: dict[str, type[Fields]] = {
    "arc": Choice,
    "mmlu": Choice,
    "choice": Choice,
    "gsm8k": Gsm8k,
    "math": Math,
    "dart": Math,
    "prompt": Open,
    "question": Open,
}


def read_row(
    kind: str, fields: Mapping[str, Any], default_id: str | None
) -> tuple[Question, list[str]]:
    """Return the question in a row of a kind, and the ignored fields.

    `default_id` is for a row without an id. Raises ValueError for a row that does not match the
    schema, or is of another kind.
    """
    row = {name: value for name, value in fields.items() if value is not None}
    other = kind_of_row(row) if kind in OWN else None
    if other not in (None, *OWN):
        raise InputError(
            f"the row is a {other} question, and the first row is not: give all rows the same "
            "fields."
        )
    parsed = KINDS[kind].model_validate(row)
    return parsed.question(default_id), list(parsed.model_extra or ())


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


def text_id(*texts: str) -> str:
    """Derive an id from the texts alone, so that it does not depend on file or line."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def metadata_of(**values: Any) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a question, without blanks and values that are not strings."""
    return tuple(x for x in values.items() if isinstance(x[1], str) and x[1].strip())
