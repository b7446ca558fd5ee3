"""`QuestionTable`: the questions of a user's own file, or of rows in memory.

Nobody has checked such a table, so what could be read in two ways is refused: answers that may
count from 0 or from 1, equal options, options inside a question's text, one question with two
answers. The whole table decides, whatever part of it is used.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cola_jax.errors import InputError, reading, shown
from cola_jax.question import Question, content
from cola_jax.storage import AnyPath, is_url
from cola_jax.tasks.choices import (
    Meaning,
    Numbered,
    check_distinct,
    choose_meaning,
    meanings_of,
    options_by_label,
    parse_options,
    whole_number,
)
from cola_jax.tasks.columns import (
    Columns,
    FieldNames,
    FieldPairs,
    check_complete,
    families,
    field_pairs,
    find_columns,
    folded,
    give_fields,
    is_math_table,
    is_science_table,
    listed,
)
from cola_jax.tasks.readers import CHOICE, OWN, read_question, read_values
from cola_jax.tasks.tables import PlacedRow, Source, folder_of, read_rows

LETTER = re.compile(r"\(?([A-Ja-j])[).:]?\)?")  # an answer that is a letter
DIGIT_ALONE = re.compile(r"[0-9]")
DIGIT = re.compile(r"\(?([1-9])[).:]?\)?")
OPTIONS = ("option", "options", "choice", "choices", "endings")  # folded names of columns
# the beginning of an option in a text, such as (A), A) or A.
INSIDE = re.compile(r"(?:^|(?<=[\s(\[,;]))([A-Ja-j1-9])[).:\]](?=\s*\S)", re.MULTILINE)
GIVE_OPTIONS = (
    "give the options in a column of their own: options, a list, or option_a, option_b, ..."
)


class QuestionTable(NamedTuple):
    """Rows, the kind of question in each, and what their columns are."""

    name: str
    rows: Sequence[PlacedRow]
    folder: AnyPath
    kind: str
    columns: Columns
    meaning: Meaning | None  # of answers that are numbers, None without any

    def questions(self, repeats: list[str]) -> Iterator[Question]:
        """Yield the questions, each once; collects the places of rows that repeat one.

        Raises InputError that names the row.
        """
        ids: dict[str, tuple[str, Question]] = {}
        texts: dict[tuple[str, ...], tuple[str, Question]] = {}
        for where, default_id, row in self.rows:
            with reading(where):
                question = read_question(
                    self.kind, row, self.columns, default_id, self.folder, self.meaning or "0"
                )
                if not question.open:
                    check_distinct(question.letters, question.options)
                earlier, same = texts.setdefault(content(question), (where, question))
                if question.gold.strip() != same.gold.strip():
                    raise InputError(
                        f"it has the answer {shown(question.gold)}, and {earlier} asks the same "
                        f"with the answer {shown(same.gold)}: correct or remove one of them."
                    )
                if same is not question:
                    repeats.append(where)
                    continue
                if question.id in ids:
                    raise InputError(
                        f"the id {question.id!r} is already used in {ids[question.id][0]}."
                    )
            ids[question.id] = where, question
            yield question

    def describe(self) -> str:
        """Describe in one line what each column is taken for."""
        text = f"{self.name}: {self.columns.describe()}"
        if self.meaning in ("0", "1"):
            text += f"; answers count from {self.meaning}"
        if self.columns.unused:
            text += f"; not used: {', '.join(map(shown, self.columns.unused))}"
        return f"{text}."


def open_table(
    source: Source, fields: FieldNames = None, answers_from: int | None = None
) -> QuestionTable:
    """Read a file or rows in memory, and find out what they are; see `load_questions`.

    Raises InputError for a table that asks nothing, and one that can be read in two ways.
    """
    pairs = field_pairs(fields)
    if isinstance(source, str) and not is_url(source):
        return open_file(source, version_of(source), pairs, answers_from)
    return make_table(source, pairs, answers_from)


def version_of(source: str) -> tuple[tuple[int, ...], ...]:
    """Return what changes when a local file, or any in a folder, is written."""
    files = sorted(Path(source).iterdir()) if os.path.isdir(source) else [Path(source)]
    every = map(Path.stat, files)
    return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in every)


@functools.lru_cache(maxsize=3)  # a command asks for the kind of a task, and then for its questions
def open_file(
    file: str, version: tuple[tuple[int, ...], ...], pairs: FieldPairs, answers_from: int | None
) -> QuestionTable:
    """Read a local file, again when its version has changed."""
    return make_table(file, pairs, answers_from)


def make_table(source: Source, pairs: FieldPairs, answers_from: int | None) -> QuestionTable:
    """Read a table and find out what it is."""
    name = source if isinstance(source, str) else "the questions"
    rows = [(where, id, flattened(row)) for where, id, row in read_rows(source)]
    if not rows:
        raise InputError(f"{name}: there are no questions.")
    rows_alone = [row for _, _, row in rows]
    names = names_of(rows_alone)
    with reading(name):
        columns = find_columns(names, pairs, rows_alone)
        kind = kind_of(columns, names, rows[0])
        check_complete(columns, names, needed(kind, columns))
        meaning = None
        if kind in CHOICE:
            meaning = meaning_of(rows, columns, answers_from)
        elif answers_from is not None:
            raise InputError(f"it has no options, so leave out --answers-from {answers_from}.")
        if kind in OWN:
            check_open(rows, columns)
    return QuestionTable(name, rows, folder_of(source), kind, columns, meaning)


def names_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of columns that have a value in any row, in order."""
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(name for name, value in row.items() if value is not None)
    return list(names)


def flattened(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row with the stem and the choices of its question, where they are nested."""
    question = row.get("question")
    if not (isinstance(question, Mapping) and "stem" in question):
        return row
    inner = {name: value for name, value in question.items() if name != "stem"}
    return {**row, **inner, "question": question["stem"]}


def kind_of(columns: Columns, names: Sequence[str], first: PlacedRow) -> str:
    """Determine the kind of question in a table from its columns and its first row."""
    where, _, row = first
    with reading(where):
        values = read_values(row, columns)
        options = values.get("options")
        if isinstance(options, str):
            options = parse_options(options)
    if is_science_table(names):
        return "scienceqa"
    if columns.column("answer") == "answerkey" or (
        isinstance(options, Mapping) and "text" in options
    ):
        return "arc"
    if columns.column("options") == "choices" and isinstance(options, list):
        return "choice" if columns.column("question") == "input" else "mmlu"
    if "options" in columns.of or isinstance(values.get("answer"), bool):
        return "choice"
    if is_math_table(names) and not columns.explicit:
        return "math"
    if "####" in str(values.get("answer")) and not columns.prompt:
        return "gsm8k"
    return "prompt" if columns.prompt else "question"


def needed(kind: str, columns: Columns) -> Iterator[str]:
    """Yield the fields that a kind of question cannot be without."""
    yield "question"
    if kind == "arc":
        yield "options"
    if kind == "math" and "solution" in columns.of:
        return
    if columns.column("question") != "messages":
        yield "answer"


def meaning_of(
    rows: Iterable[PlacedRow], columns: Columns, answers_from: int | None
) -> Meaning | None:
    """Determine what answers mean that are numbers, from all rows; None where none are.

    HellaSwag's and PIQA's count from 0.
    """
    if answers_from is not None:
        if answers_from not in (0, 1):
            raise InputError(f"answers count from 0 or from 1, not from {shown(answers_from)}.")
        return "1" if answers_from else "0"
    if columns.column("question") in ("ctx", "goal"):
        return "0"
    numbered = list(numbered_rows(rows, columns))
    return choose_meaning(numbered) if numbered else None


def numbered_rows(rows: Iterable[PlacedRow], columns: Columns) -> Iterator[Numbered]:
    """Yield the rows whose answers are numbers; rows that are broken are refused when used."""
    for where, _, row in rows:
        try:
            values = read_values(row, columns)
            answer = values.get("answer")
            if whole_number(answer) is None:
                continue
            meanings = meanings_of(answer, options_by_label(values["options"]))
        except (ValueError, LookupError, TypeError):
            continue
        yield Numbered(where, answer, meanings)


def check_open(rows: Sequence[PlacedRow], columns: Columns) -> None:
    """Raise InputError for open questions that look like multiple choice.

    Their options may be in the text, or in columns that are not used.
    """
    asked = [(where, *asked_of(row, columns)) for where, _, row in rows]
    for where, text, answer in asked:
        if (match := LETTER.fullmatch(answer)) and match[1] in labels_in(text, "A", "a"):
            raise InputError(
                f"{where}: the answer {shown(answer)} is one of the options in the question's "
                f"text: {GIVE_OPTIONS}."
            )
    numbers = [DIGIT.fullmatch(answer) for _, _, answer in asked]
    if all(
        match and match[1] in labels_in(text, "1")
        for (_, text, _), match in zip(asked, numbers, strict=True)
    ):
        raise InputError(
            f"the answers are numbers of options in the questions' texts: {GIVE_OPTIONS}."
        )
    for family in families(columns.unused):
        options = "options=" + "+".join(family)
        raise InputError(
            f"{listed(family)} may be options: {give_fields(options)}, or remove them."
        )
    for name in columns.unused:
        if difflib.get_close_matches(folded(name), OPTIONS, 1, 0.8):
            raise InputError(
                f"the column {shown(name)} may be the options: "
                f"{give_fields(f'options={name}')}, or remove it."
            )
    answers = [answer for _, _, answer in asked]
    if all(map(LETTER.fullmatch, answers)):
        check_letters(columns, answers[0])
    if "answer" not in columns.explicit:
        check_counts(rows, columns, answers)


def check_letters(columns: Columns, answer: str) -> None:
    """Raise InputError for answers that are all letters, and may be those of options."""
    if columns.unused:
        raise InputError(
            f"all answers are letters, such as {shown(answer)}, and none of "
            f"{listed(columns.unused)} is known to be an option: "
            f"{give_fields('options=COLUMN+COLUMN')}, or remove these columns."
        )
    if "answer" not in columns.explicit:
        raise InputError(
            f"all answers are letters, such as {shown(answer)}, and there are no options: "
            f"{GIVE_OPTIONS}; or {themselves(columns)}."
        )


def themselves(columns: Columns) -> str:
    """Say how a user says that a column has the answers, and no numbers or letters of options."""
    name = columns.of["answer"][0] if "answer" in columns.of else "COLUMN"
    return f"{give_fields(f'answer={name}')} if they are the answers themselves"


def check_counts(rows: Sequence[PlacedRow], columns: Columns, answers: Sequence[str]) -> None:
    """Raise InputError for answers that are all small numbers, and may be those of options."""
    if columns.column("answer") == "label" and all(map(DIGIT_ALONE.fullmatch, answers)):
        raise InputError(
            f"the column {shown(columns.of['answer'][0])} has numbers of classes, and there are no "
            f"options: {GIVE_OPTIONS}; or {themselves(columns)}."
        )
    numbers = [whole_number(answer) for answer in answers]
    texts = [
        column
        for column in columns.unused
        if all(isinstance(row.get(column), str) and row[column].strip() for _, _, row in rows)
    ]
    lists = [
        column
        for column in columns.unused
        if all(isinstance(row.get(column), list | Mapping) for _, _, row in rows)
    ]
    for candidates, size in ((texts, len(texts)), *(([x], len(rows[0][2][x])) for x in lists)):
        if size > 1 and all(number is not None and 0 <= number <= size for number in numbers):
            raise InputError(
                f"the answers are small numbers, such as {answers[0]}, and may be those of options "
                f"in {listed(candidates)}: "
                f"{give_fields('options=' + '+'.join(candidates))}; or {themselves(columns)}."
            )


def asked_of(row: Mapping[str, Any], columns: Columns) -> tuple[str, str]:
    """Return the text and the answer of a row; rows that are broken are refused when used."""
    try:
        values = read_values(row, columns)
    except ValueError:
        return "", ""
    return str(values.get("question")), str(values.get("answer")).strip()


def labels_in(text: str, *firsts: str) -> set[str]:
    """Return the labels of the options in a text, from one of the first labels on without a gap."""
    found = set(INSIDE.findall(text))
    labels: set[str] = set()
    for first in firsts:
        series = []
        while chr(ord(first) + len(series)) in found:
            series.append(chr(ord(first) + len(series)))
        if len(series) > 1:
            labels |= set(series)
    return labels
