"""Readers: the rows of files and of memory, and the question in each row of a kind.

A pydantic model for each kind of row checks its fields.
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any

import pydantic
from pydantic import AliasChoices, AliasPath, BeforeValidator, Field

from cola_jax.errors import InputError, reading, shown
from cola_jax.files import parse_object, read_bytes, read_text
from cola_jax.question import LETTERS, PICTURE, Question, open_question, sha256_of
from cola_jax.scoring.answer import last_box
from cola_jax.storage import path_of
from cola_jax.tasks.pictures import read_picture

# a file (JSONL, CSV or Parquet), or rows in memory: dicts, a DataFrame or a `datasets.Dataset`
Source = Any
PlacedRow = tuple[str, str | None, Mapping[str, Any]]  # place for messages, default id, fields
OWN = ("prompt", "question")  # kinds of open questions of a user's own, by the field of the text
ANSWERS = ("answer", "label", "target", "gold")  # names of the field of the gold answer
OPTION = re.compile(r"option[ _]?([a-z]|[0-9]{1,2})", re.IGNORECASE)  # a field of one option
CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations, such as <<4*5=20>>
LEVEL = re.compile(r"(?:level\s*)?([1-5?])", re.IGNORECASE)
SCHEMA = (
    "question (or prompt) and answer (or label, target, gold), for multiple choice options (or "
    "choices, or option_a, option_b, ...); or the fields of ARC, MMLU, GSM8K, MATH or DART-Math"
)


def read_rows(source: Source) -> Iterator[PlacedRow]:
    """Yield the rows of a file or of memory."""
    if isinstance(source, str):
        suffix = PurePath(source).suffix.lower()
        read = {".csv": read_csv, ".parquet": read_parquet}.get(suffix, read_lines)
        for number, row in read(source):
            where = f"{source}:{number}"
            yield where, None, read_picture(row, where, path_of(source).parent)
        return
    if hasattr(source, "to_dict") and hasattr(source, "notna"):  # a DataFrame
        source = source.astype(object).where(source.notna(), None).to_dict("records")
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(f"questions are a file, a list of dicts or a table, not {shown(source)}.")
    for number, row in enumerate(source):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number}: a dict belongs here, not {shown(row)}.")
        yield f"row {number}", None, read_picture(plain_value(row), f"row {number}", os.curdir)


def plain_value(value: Any) -> Any:
    """Convert numpy values to Python's, also in a dict."""
    if isinstance(value, Mapping):
        return {str(name): plain_value(inner) for name, inner in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def read_csv(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file and their line numbers; an empty cell has no value."""
    with reading(file):
        lines = csv.DictReader(io.StringIO(read_text(file), newline=""))
        try:
            for row in lines:
                if None in row:
                    raise InputError(f"line {lines.line_num} has more cells than the first line.")
                yield lines.line_num, {name: value or None for name, value in row.items()}
        except csv.Error as error:
            raise InputError(f"line {lines.line_num}: {error}.") from error


def read_parquet(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file and their numbers, from 1."""
    import pyarrow.parquet

    with reading(file):
        rows = pyarrow.parquet.read_table(io.BytesIO(read_bytes(file))).to_pylist()
    yield from enumerate(rows, 1)


def read_lines(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a JSONL file and their line numbers; blank lines are skipped."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield number, parse_object(line, f"{file}:{number}")


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
    match = LEVEL.fullmatch("?" if value is None else str(value).strip())
    if match is None:
        raise ValueError(f"must be 1 to 5, or Level ?, got {shown(value)}")
    return None if match[1] == "?" else match[1]


def named(*names: str) -> Any:
    """Declare a required field by the names that it may have in a row, the first present."""
    return Field(validation_alias=AliasChoices(*names))


Text = Annotated[str, Field(pattern=r"\S")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Id = Annotated[str, BeforeValidator(read_id)]


class Fields(pydantic.BaseModel):
    """The fields of a row that are read; others are kept apart."""

    model_config = pydantic.ConfigDict(extra="allow", coerce_numbers_to_str=True)

    id: Id | None = None
    image: bytes | None = None

    def show(self, text: str) -> str:
        """Return a text that shows the picture, at its beginning unless it says where."""
        return text if self.image is None or PICTURE in text else f"{PICTURE}\n{text}"

    def text_id(self, *texts: str) -> str:
        """Return the row's id, by default one derived from its texts and picture."""
        return text_id(*texts, *(() if self.image is None else (sha256_of(self.image),)))

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
        id = self.id or default_id or self.text_id(self.text, *texts)
        text, metadata = self.show(self.text), metadata_of(subject=self.subject)
        return Question(id, text, texts, answer, metadata=metadata, picture=self.image)


class ScienceQa(Choice):
    """ScienceQA: question, choices, answer, a hint that comes first, and for some an image."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def put_hint(cls, row: dict[str, Any]) -> dict[str, Any]:
        """Write the hint before the question."""
        texts = filter(None, (row.get("hint"), row.get("question")))
        return row | {"question": "\n".join(map(str, texts))}


def read_arc(choices: Mapping[str, Any], key: Any) -> tuple[list[Any], int]:
    """Return ARC's options and the index of the right one; some rows have the labels 1-4."""
    texts, labels = list(choices["text"]), list(choices["label"])
    if len(texts) != len(labels) or labels.count(key) != 1:
        raise ValueError(
            f"answerKey {shown(key)} must be one of the labels {shown(labels)} of the "
            f"{len(texts)} options"
        )
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
        id = self.id or default_id or self.text_id(self.text)
        text, details = self.show(self.text), (self.solution, self.metadata(), self.image)
        return open_question(id, text, self.answer, *details)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the level and the subject."""
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
    query_id, query, gt_ans, domain, query_metadata, and a row for each response to a query.
    """

    id: Id | None = Field(None, validation_alias=AliasChoices("query_id", "unique_id", "id"))
    text: Text = named("query", "problem")
    answer: Text = named("gt_ans", "answer")
    level: Annotated[str | None, BeforeValidator(read_level)] = Field(
        None, validation_alias=AliasChoices("level", AliasPath("query_metadata", "level"))
    )
    subject: Any = Field(None, validation_alias=AliasChoices("subject", "domain", "type"))

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
        return metadata_of(math_level=self.level, subject=self.subject)


KINDS: dict[str, type[Fields]] = {
    **dict.fromkeys(("arc", "mmlu", "choice"), Choice),
    "scienceqa": ScienceQa,
    "gsm8k": Gsm8k,
    "math": Math,
    **dict.fromkeys(OWN, Open),
}


def read_questions(
    kind: str, rows: Iterable[PlacedRow], unused: dict[str, None] | None = None
) -> Iterator[Question]:
    """Read rows; of the rows of a pool of responses, each query once.

    Collects the names of ignored fields in `unused`. Raises InputError that names the row.
    """
    seen: dict[str, tuple[str, Question]] = {}
    for where, default_id, row in rows:
        with reading(where):
            question, ignored = read_row(kind, row, default_id)
            if question.id in seen:
                earlier, other = seen[question.id]
                same = (question.text, question.gold) == (other.text, other.gold)
                if same and "query_id" in row:
                    continue
                if question == other:
                    raise InputError(f"the row repeats the question of {earlier}: remove it.")
                raise InputError(f"the id {question.id!r} is already used in {earlier}.")
        if unused is not None:
            unused |= dict.fromkeys(ignored)
        seen[question.id] = where, question
        yield question


def read_row(
    kind: str, fields: Mapping[str, Any], default_id: str | None
) -> tuple[Question, list[str]]:
    """Return the question in a row of a kind, and the ignored fields.

    Raises ValueError for a row that does not match the schema, or is of another kind.
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


def kind_of(source: Source) -> str:
    """Determine the kind of a file, or of rows in memory, from the fields of the first row."""
    for where, _, row in read_rows(source):
        if kind := kind_of_row(row):
            return kind
        raise InputError(f"{where}: no kind of row has the fields {sorted(row)}: give {SCHEMA}.")
    name = f"{source} yields" if isinstance(source, str) else "the rows yield"
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
    if names & {"problem", "query", "query_id"}:
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
