"""Readers: the question in each row of a table.

A pydantic model for each kind of question checks its fields.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field
from pydantic_core import from_json

from cola_jax.errors import InputError, reading, shown
from cola_jax.question import LETTERS, PICTURE, Question, open_question, sha256_of
from cola_jax.scoring.answer import last_box
from cola_jax.storage import AnyPath
from cola_jax.tasks.choices import NO_YES, Meaning, answer_index, options_by_label
from cola_jax.tasks.columns import Columns
from cola_jax.tasks.pictures import read_picture
from cola_jax.tasks.tables import PlacedRow

OWN = ("prompt", "question")  # kinds of open questions of a user's own, by the field of the text
CHOICE = ("arc", "mmlu", "choice", "scienceqa")  # kinds of multiple choice
CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations, such as <<4*5=20>>
LEVEL = re.compile(r"(?:level\s*)?([1-5?])", re.IGNORECASE)


def read_id(value: Any) -> str:
    """Read an id, a text or a number that messages show as it is."""
    if isinstance(value, float) and value.is_integer():  # pandas has no integers beside nulls
        value = int(value)
    text = str(value)
    if not isinstance(value, str | int) or not text.strip() or not text.isprintable():
        raise ValueError(f"must be a string of one line or a number, got {shown(value)}")
    return text


def read_level(value: Any) -> str | None:
    """Read "Level 3", "3" or 3; None for "Level ?" or no level. DART-Math has it in a dict."""
    if isinstance(value, Mapping):
        value = value.get("level")
    match = LEVEL.fullmatch("?" if value is None else str(value).strip())
    if match is None:
        raise ValueError(f"must be 1 to 5, or Level ?, got {shown(value)}")
    return None if match[1] == "?" else match[1]


Text = Annotated[str, Field(pattern=r"\S")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Id = Annotated[str, BeforeValidator(read_id)]


class QuestionFields(pydantic.BaseModel):
    """The fields of a question; `question` is its text, `context` a text before it."""

    model_config = pydantic.ConfigDict(coerce_numbers_to_str=True)

    id: Id | None = None
    question: Text
    context: str | None = None
    image: bytes | None = None
    subject: Any = None

    @property
    def words(self) -> str:
        """The text after its context, unless it has that already."""
        context = (self.context or "").strip()
        return self.question if context in self.question else f"{self.context}\n{self.question}"

    @property
    def text(self) -> str:
        """The words after their picture, unless they say where they show it."""
        words = self.words
        return words if self.image is None or PICTURE in words else f"{PICTURE}\n{words}"

    def id_of(self, default_id: str | None, *texts: str) -> str:
        """Return the row's id, by default one derived from its texts and picture."""
        picture = () if self.image is None else (sha256_of(self.image),)
        return self.id or default_id or text_id(self.words, *texts, *picture)

    def make(self, default_id: str | None) -> Question:
        """Make the question; `default_id` is its id where the row has none."""
        raise NotImplementedError


class Choice(QuestionFields):
    """Multiple choice. An option may be empty: the letter scorers accept it, others refuse it."""

    options: Annotated[dict[str, str | int | Number], Field(min_length=2, max_length=len(LETTERS))]
    answer: Any
    meaning: Meaning = "0"  # of answers that are numbers

    @pydantic.model_validator(mode="before")
    @classmethod
    def label_options(cls, row: dict[str, Any]) -> dict[str, Any]:
        """Give options in any of their forms as a dict by label."""
        if "options" not in row and isinstance(row.get("answer"), bool):
            return row | {"options": dict(zip(LETTERS, NO_YES, strict=False))}
        return row | {"options": options_by_label(row["options"])} if "options" in row else row

    def make(self, default_id: str | None) -> Question:
        texts = tuple(str(value) for value in self.options.values())
        answer = answer_index(self.answer, self.options, self.meaning)
        id = self.id_of(default_id, *texts)
        metadata = metadata_of(subject=self.subject)
        return Question(id, self.text, texts, answer, metadata=metadata, picture=self.image)


class Open(QuestionFields):
    """An open question, whose answer is a string or number."""

    answer: Text
    solution: str | None = None

    def make(self, default_id: str | None) -> Question:
        details = self.solution, self.metadata(), self.image
        return open_question(self.id_of(default_id), self.text, self.answer, *details)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the level and the subject."""
        return ()


class Gsm8k(Open):
    """GSM8K, whose answer is a worked solution, ####, and the number."""

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
    """MATH, MATH-500 and DART-Math, which has a row for each response to a query.

    The gold is the answer, or else the content of the last box of the solution.
    """

    level: Annotated[str | None, BeforeValidator(read_level)] = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def read_box(cls, row: dict[str, Any]) -> dict[str, Any]:
        """Take the answer from the solution where there is no other."""
        if "answer" in row or "solution" not in row:
            return row
        gold = last_box(str(row["solution"]))
        if gold is None:
            raise ValueError("there is no answer: the 'solution' has no complete \\boxed{...}")
        return row | {"answer": gold}

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return metadata_of(math_level=self.level, subject=self.subject)


KINDS: dict[str, type[QuestionFields]] = {
    **dict.fromkeys(CHOICE, Choice),
    "gsm8k": Gsm8k,
    "math": Math,
    **dict.fromkeys(OWN, Open),
}


def read_values(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Return the values of a row by field, with the texts of messages and of lists of one.

    Raises InputError for messages of other turns, and for an answer that is several.
    """
    values = columns.values(row)
    if (messages := messages_of(values.get("question"))) is not None:
        values["question"], answer = read_messages(messages)
        if answer is not None and "answer" in values:
            raise InputError("there is an answer in the messages and one beside: leave one out.")
        if answer is not None:
            values["answer"] = answer
    if isinstance(answers := values.get("answer"), list):
        if len(answers) != 1:
            raise InputError(f"the answer must be one, and is a list of {len(answers)}.")
        values["answer"] = answers[0]
    return values


def messages_of(value: Any) -> list[Any] | None:
    """Return the messages of a chat, in one cell as well; None for any other value."""
    if isinstance(value, str) and value.lstrip().startswith("[{") and "role" in value:
        value = from_json(value)
    return value if isinstance(value, list) else None


def read_messages(messages: list[Any]) -> tuple[str, str | None]:
    """Return the texts of the user and of the assistant, if there is one.

    Raises InputError for other turns: a system message, or a talk, is no question alone.
    """
    roles = [message.get("role") if isinstance(message, Mapping) else None for message in messages]
    if roles not in (["user"], ["user", "assistant"]):
        raise InputError(
            f"messages must be one of the user and the answer of the assistant, not of "
            f"{shown(roles)}: write the text of such a talk as a question, and its answer."
        )
    texts = []
    for message in messages:
        text = message.get("content")
        if isinstance(text, list) and len(text) == 1 and isinstance(text[0], Mapping):
            text = text[0].get("text")
        if not isinstance(text, str):
            raise InputError(f"the content of a message must be one text, not {shown(text)}.")
        texts.append(text)
    return texts[0], texts[1] if len(texts) == 2 else None


def read_question(
    kind: str,
    row: Mapping[str, Any],
    columns: Columns,
    default_id: str | None = None,
    folder: AnyPath | None = None,
    meaning: Meaning = "0",
) -> Question:
    """Return the question in a row of a kind, with its picture from a folder, if it names one.

    Raises ValueError for a row that does not match the schema.
    """
    values = read_picture(read_values(row, columns), folder)
    if kind in OWN and "####" in str(values.get("answer")):
        raise InputError("the row is a gsm8k question, and the first row is not: divide the file.")
    if kind in CHOICE:
        values = {**values, "meaning": meaning}
    return KINDS[kind].model_validate(values).make(default_id)


def read_questions(
    kind: str,
    rows: Iterable[PlacedRow],
    columns: Columns,
    folder: AnyPath | None = None,
    meaning: Meaning = "0",
) -> Iterator[Question]:
    """Read the rows of a data set; of the rows of a pool of responses, each query once.

    Raises InputError that names the row.
    """
    seen: dict[str, tuple[str, Question]] = {}
    for where, default_id, row in rows:
        with reading(where):
            question = read_question(kind, row, columns, default_id, folder, meaning)
            if question.id in seen:
                earlier, other = seen[question.id]
                same = (question.text, question.gold) == (other.text, other.gold)
                if same and "query_id" in row:
                    continue
                raise InputError(f"the id {question.id!r} is already used in {earlier}.")
        seen[question.id] = where, question
        yield question


def text_id(*texts: str) -> str:
    """Derive an id from the texts alone, so that it does not depend on file or line."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def metadata_of(**values: Any) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a question, without blanks and values that are not strings."""
    return tuple(x for x in values.items() if isinstance(x[1], str) and x[1].strip())
