"""`QuestionTable`: the questions of a user's own file, or of rows in memory.

Nobody has checked such a table, so what could be read in two ways is refused: answers that may
count from 0 or from 1, equal options, options inside a question's text, one question with two
answers. The whole table decides, whatever part of it is used.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cola_jax.errors import InputError, reading, shown
from cola_jax.files import store_of
from cola_jax.question import Question, content
from cola_jax.storage import AnyPath
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
    check_needed,
    columns_in,
    field_pairs,
    find_columns,
    folded,
    is_math_table,
    is_science_table,
)
from cola_jax.tasks.hidden_options import check_options_hidden
from cola_jax.tasks.readers import CHOICE, OWN, read_question, read_values
from cola_jax.tasks.tables import PlacedRow, TableSource, is_table, picture_folder, read_rows

# data sets whose answers count from 0: their columns of the question, the options and the answer
COUNTED_FROM_0 = (("ctx", ("endings",), "label"), ("goal", ("sol1", "sol2"), "label"))


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
                placed = where, question
                earlier, same = texts.setdefault(content(question), placed)
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
            ids[question.id] = placed
            yield question

    def golds(self) -> Iterator[tuple[str, str]]:
        """Yield the answers of open questions, each after the place of its row."""
        for where, _, row in self.rows:
            answer = read_values(row, self.columns).get("answer")
            if answer is not None:
                yield where, str(answer)

    def describe(self) -> str:
        """Describe in one line what each column is taken for."""
        text = f"{self.name}: {self.columns.describe()}"
        if self.meaning in ("0", "1"):
            text += f"; answers count from {self.meaning}"
        if self.columns.unused:
            text += f"; not used: {', '.join(map(shown, self.columns.unused))}"
        return f"{text}."


def open_table(
    source: TableSource, fields: FieldNames = None, answers_from: int | None = None
) -> QuestionTable:
    """Read a file or rows in memory, and find out what they are; see `load_questions`.

    Raises InputError for a table that asks nothing, and one that can be read in two ways.
    """
    pairs = field_pairs(fields)
    if isinstance(source, str):
        return open_file(source, store_of(source).version(source), pairs, answers_from)
    return make_question_table(
        "the questions", flat_rows(source), picture_folder(source), pairs, answers_from
    )


def fields_beside(file: str, fields: FieldNames) -> FieldNames:
    """Return the fields of a task that hold for another file, such as one of its shots.

    The columns of the file may have other names: it has a field's columns, or the field is found by
    its names.
    """
    if not fields or not is_table(file):
        return None
    names = [name.strip() for name in names_of(row for _, _, row in cached_rows(file))]
    kept = {
        field: columns
        for field, columns in field_pairs(fields)
        if set(columns_in(columns, names)) <= set(names)
    }
    return kept or None


@functools.lru_cache(maxsize=3)  # a command asks for the kind of a task, and then for its questions
def open_file(
    file: str, version: str, pairs: FieldPairs, answers_from: int | None
) -> QuestionTable:
    """Find out what a file is, again when its version has changed."""
    return make_question_table(
        file, version_rows(file, version), picture_folder(file), pairs, answers_from
    )


def cached_rows(file: str) -> Sequence[PlacedRow]:
    """Return the rows of a file."""
    return version_rows(file, store_of(file).version(file))


@functools.lru_cache(maxsize=3)
def version_rows(file: str, version: str) -> Sequence[PlacedRow]:
    """Read a file, again when its version has changed."""
    return flat_rows(file)


def flat_rows(source: TableSource) -> Sequence[PlacedRow]:
    """Read the rows of a source."""
    return [(where, id, flattened(row)) for where, id, row in read_rows(source)]


def make_question_table(
    name: str,
    rows: Sequence[PlacedRow],
    folder: AnyPath,
    pairs: FieldPairs,
    answers_from: int | None,
) -> QuestionTable:
    """Find out what a table is."""
    if not rows:
        raise InputError(f"{name}: there are no questions.")
    rows_alone = [row for _, _, row in rows]
    names = names_of(rows_alone)
    with reading(name):
        columns = find_columns(names, pairs, rows_alone)
        kind = kind_of(columns, names, rows[0])
        check_needed(columns, names, needed(kind, columns))
        meaning = None
        if kind in CHOICE:
            meaning = meaning_of(rows, columns, answers_from)
        elif answers_from is not None:
            raise InputError(f"it has no options, so leave out --answers-from {answers_from}.")
        if kind in OWN:
            check_options_hidden(rows, columns)
    return QuestionTable(name, rows, folder, kind, columns, meaning)


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
    is_key = columns.column("answer") == "answerkey" and "options" in columns.of
    if is_key or (isinstance(options, Mapping) and "text" in options):
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
    if kind == "math" and "solution" in columns.of:
        return
    if columns.column("question") != "messages":
        yield "answer"


def meaning_of(
    rows: Iterable[PlacedRow], columns: Columns, answers_from: int | None
) -> Meaning | None:
    """Determine what answers mean that are numbers, from all rows; None where none are.

    HellaSwag's and PIQA's count from 0, where they can.
    """
    if answers_from is not None:
        if answers_from not in (0, 1):
            raise InputError(f"answers count from 0 or from 1, not from {shown(answers_from)}.")
        return "1" if answers_from else "0"
    numbered = list(numbered_rows(rows, columns))
    options = tuple(map(folded, columns.of.get("options", ())))
    known = columns.column("question"), options, columns.column("answer")
    if known in COUNTED_FROM_0 and all("0" in row.meanings for row in numbered if row.meanings):
        return "0"
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
