"""Options that an open question hides: in its text, or in columns that are not known.

Such a row is multiple choice, and its answer a letter or number that means nothing alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cola_jax.errors import InputError, shown
from cola_jax.tasks.choices import whole_number
from cola_jax.tasks.columns import NAMES, Columns, families, folded, give_fields, listed
from cola_jax.tasks.readers import read_values
from cola_jax.tasks.tables import PlacedRow

LETTER = re.compile(r"\(?([A-Ja-j])[).:]?\)?")  # an answer that is a letter
DIGIT = re.compile(r"[0-9]")
ANSWERS = tuple(map(folded, NAMES["answer"]))
OPTIONS = ("option", "options", "choice", "choices", "endings")  # folded names of columns
# the beginning of an option in a text, such as (A), A) or A.
INSIDE = re.compile(
    r"(?:^|(?<=[\s(\[,;]))([A-Ja-j1-9]|[ivx]{1,4}|[IVX]{1,4})[).:\]](?=\s*\S)", re.MULTILINE
)
ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")
SERIES = ("abcdefghij", ROMAN)
LONGEST = 200  # characters of an answer that names an option
# an answer that names an option, such as B, (B), **B**, option B, The answer is B, or B) iron
NAMED = re.compile(
    r"(?:.*\b(?:is|option|choice|answer)\b)?\W*([A-Ja-j]|[ivx]{1,4}|[IVX]{1,4})(?:\W*|[).:]\s.*)",
    re.IGNORECASE | re.DOTALL,
)
GIVE_OPTIONS = (
    "give the options in a column of their own: options, a list, or option_a, option_b and so on"
)


class OpenRow(NamedTuple):
    """The place, the text and the answer of a row."""

    where: str
    text: str
    answer: str


def check_options_hidden(rows: Sequence[PlacedRow], columns: Columns) -> None:
    """Raise InputError for open questions that look like multiple choice.

    A user who names the column of the answers, though its name is known, says that they are the
    answers themselves. A column of another name has to be named, which says less.
    """
    explicit = "answer" in columns.explicit
    if explicit and columns.column("answer") in ANSWERS:
        return
    asked = [asked_of(row, columns) for row in rows]
    answers = [each.answer for each in asked]
    are_letters = all(map(LETTER.fullmatch, answers))
    if not explicit:
        check_inside(asked, columns)
        check_columns(columns)
    elif are_letters or all(map(DIGIT.fullmatch, answers)):
        check_families(columns, "remove them")
    if set(map(folded, answers)) <= set(map(folded, columns.unused)):
        raise InputError(
            f"the answers, such as {shown(answers[0])}, are names of columns, which may be "
            f"options; not used are {listed(columns.unused)}: "
            f"{give_fields('options=COLUMN+COLUMN')}, or remove them."
        )
    if explicit:
        return
    if are_letters:
        check_letters(columns, answers[0])
    check_counts(rows, columns, answers)


def asked_of(placed: PlacedRow, columns: Columns) -> OpenRow:
    """Return the text and the answer of a row; rows that are broken are refused when used."""
    where, _, row = placed
    try:
        values = read_values(row, columns)
    except ValueError:
        return OpenRow(where, "", "")
    return OpenRow(where, str(values.get("question")), str(values.get("answer")).strip())


def check_inside(asked: Sequence[OpenRow], columns: Columns) -> None:
    """Raise InputError for options in the texts of questions, one of which is the answer.

    A number may as well be a count, so that all rows must have such an answer.
    """
    for where, text, answer in asked:
        match = NAMED.fullmatch(answer) if len(answer) < LONGEST else None
        if match and any(match[1].lower() in labels for labels in labels_in(text, SERIES)):
            raise InputError(
                f"{where}: the answer {shown(answer)} is one of the options in the question's "
                f"text: {GIVE_OPTIONS}; or {themselves(columns)}."
            )
    numbers = [(each.answer.strip("()."), labels_in(each.text, ["123456789"])) for each in asked]
    if all(labels and number in labels[0] for number, labels in numbers):
        raise InputError(
            f"the answers are numbers of options in the questions' texts: {GIVE_OPTIONS}; or "
            f"{themselves(columns)}."
        )


def labels_in(text: str, every: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the labels of options in a text: the first of each series, two or more of them."""
    found = {label.lower() for label in INSIDE.findall(text)}
    begun = []
    for series in every:
        missing = (place for place, label in enumerate(series) if label not in found)
        begun.append(list(series[: next(missing, len(series))]))
    return [labels for labels in begun if len(labels) > 1]


def check_columns(columns: Columns) -> None:
    """Raise InputError for columns that are not used and have the names of options."""
    check_families(columns, themselves(columns))
    for name in columns.unused:
        if any(is_typo(folded(name), known) for known in OPTIONS):
            raise InputError(
                f"the column {shown(name)} may be the options: "
                f"{give_fields(f'options={name}')}; or {themselves(columns)}."
            )


def check_families(columns: Columns, otherwise: str) -> None:
    """Raise InputError for numbered or lettered columns that are not used.

    `otherwise` is what the user does where they are no options, a clause in the imperative.
    """
    for family in families(columns.unused):
        raise InputError(
            f"{listed(family)} may be options: {give_fields('options=' + '+'.join(family))}; or "
            f"{otherwise}."
        )


def is_typo(name: str, known: str) -> bool:
    """Return whether a name is a known one, but for one letter or two that are exchanged."""
    pairs = enumerate(zip(name, known, strict=False))
    shorter = min(len(name), len(known))
    place = next((place for place, (own, other) in pairs if own != other), shorter)
    name = name[place:]
    known = known[place:]
    one = name[1:] == known[1:] or name[1:] == known or name == known[1:]
    return one or name[1::-1] + name[2:] == known


def check_letters(columns: Columns, answer: str) -> None:
    """Raise InputError for answers that are all letters, and may be those of options."""
    if columns.unused:
        raise InputError(
            f"all answers are letters, such as {shown(answer)}, and none of "
            f"{listed(columns.unused)} is known to be an option: "
            f"{give_fields('options=COLUMN+COLUMN')}; or {themselves(columns)}."
        )
    raise InputError(
        f"all answers are letters, such as {shown(answer)}, and there are no options: "
        f"{GIVE_OPTIONS}; or {themselves(columns)}."
    )


def themselves(columns: Columns) -> str:
    """Say how a user says that a column has the answers, and no numbers or letters of options."""
    name = columns.of["answer"][0] if "answer" in columns.of else "COLUMN"
    return f"{give_fields(f'answer={name}')} if the questions are open"


def check_counts(rows: Sequence[PlacedRow], columns: Columns, answers: Sequence[str]) -> None:
    """Raise InputError for answers that are all small numbers, and may be those of options."""
    if columns.column("answer") in ("label", "answerkey") and all(map(DIGIT.fullmatch, answers)):
        raise InputError(
            f"the column {shown(columns.of['answer'][0])} has numbers of classes or options, and "
            f"there are no options: {GIVE_OPTIONS}; or {themselves(columns)}."
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
