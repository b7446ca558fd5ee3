"""Columns: which field of a question each column of a table is taken for.

    Question | A    | B    | C    | Key | topic
    ---------+------+------+------+-----+------
    text       options              ?     not used      -> fields="answer=Key"

Names of columns that data sets use are known, whatever their case and separators. What could be
read in two ways is refused, and the user says which column is which.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cola_jax.errors import LONGEST, InputError, did_you_mean, nearest, printed, shorten, shown
from cola_jax.question import LETTERS

FieldNames = str | Mapping[str, str | Sequence[str]] | None  # "question=ctx,options=a+b", or a dict
FieldPairs = tuple[tuple[str, str | tuple[str, ...]], ...]  # of a field and its columns
# the names of columns of each field, the preferred one first
NAMES = {
    "question": (
        *("prompt", "question", "query", "problem", "input", "ctx", "goal", "question_stem"),
        "messages",
    ),
    "options": ("options", "choices", "endings"),
    "answer": ("gt_ans", "answer", "label", "target", "gold", "answerKey"),
    "id": ("query_id", "unique_id", "id"),
    "subject": ("subject",),
    "context": ("context", "passage", "article", "body"),
    "image": ("image",),
    "solution": ("solution",),
}
FIELDS = ("question", "prompt", "options", "answer", *list(NAMES)[3:])  # that a user can name
MATH_NAMES = {"subject": ("subject", "domain", "type"), "level": ("level", "query_metadata")}
SCIENCE_NAMES = {"context": ("hint",)}
OPTION = re.compile(
    r"option(?!s$)[ _-]?([a-z]|[0-9]{1,2})", re.IGNORECASE
)  # a column of one option
NUMBERED = re.compile(r"(.*?)[ _-]?([a-j]|[0-9]{1,2})", re.IGNORECASE)
PIQA = ("sol1", "sol2")
# texts that may belong to the question: beside another, the user says what they are
TEXTS = ("premise", "hypothesis", "sentence", "instruction", "text", "story", "paragraph", "system")
COLUMN = "COLUMN"  # where no name is similar


class Columns(NamedTuple):
    """The columns of each field that a table has, and those that are not used."""

    of: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...] = ()
    explicit: frozenset[str] = frozenset()  # fields that the user has named
    prompt: bool = False  # whether the text is a whole prompt
    labels: tuple[str, ...] = ()  # of options in columns of their own

    def column(self, field: str) -> str:
        """Return the folded name of a field's first column, "" without one."""
        return folded(self.of[field][0]) if field in self.of else ""

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row by field; options in columns of their own by label."""
        values = {}
        for field, names in self.of.items():
            if field == "options" and self.labels:
                options = {
                    label: row.get(name) for label, name in zip(self.labels, names, strict=True)
                }
                check_gaps(options)
                values[field] = {key: x for key, x in options.items() if x is not None}
            elif (value := row.get(names[0])) is not None:
                values[field] = value
        if self.labels and isinstance(values.get("answer"), str):
            values["answer"] = self.label_of(values["answer"], values["options"])
        return values

    def label_of(self, answer: str, options: Mapping[str, Any]) -> str:
        """Return the label of the option whose column an answer names; other answers as is."""
        if answer in options or answer in map(str, options.values()):
            return answer
        labels = dict(zip(map(folded, self.of["options"]), self.labels, strict=True))
        return labels.get(folded(answer), answer)

    def describe(self) -> str:
        """Describe what each column is taken for."""
        parts = [
            f"{'prompt' if field == 'question' and self.prompt else field} from "
            + ", ".join(map(shown, names))
            for field, names in self.of.items()
        ]
        return "; ".join(parts)


def folded(name: str) -> str:
    """Return a name in one spelling: lower case, without separators."""
    return re.sub(r"[\s_-]+", "", name.lower())


def check_gaps(options: Mapping[str, Any]) -> None:
    """Raise InputError for an empty option before one that is not."""
    filled = [value is not None for value in options.values()]
    if filled != sorted(filled, reverse=True):
        label = list(options)[filled.index(False)]
        raise InputError(f"option {label} is empty, and a later one is not: fill it.")


def find_columns(
    names: Sequence[str], pairs: FieldPairs = (), rows: Sequence[Mapping[str, Any]] = ()
) -> Columns:
    """Find the columns of each field by their names.

    Args:
      names: of the columns, in order.
      pairs: fields that the user names.
      rows: in which two columns of one field must say the same; none of a data set whose columns
        are known.

    Raises:
      InputError: for columns that can be read in two ways, and for fields that are not valid.
    """
    explicit = named_columns(pairs, names)
    rest = [name for name in names if not any(name in columns for columns in explicit.values())]
    of = {field: columns for field, columns in explicit.items() if field != "prompt"}
    if "prompt" in explicit:
        of["question"] = explicit["prompt"]
    is_math = is_math_table(rest)
    more = MATH_NAMES if is_math else SCIENCE_NAMES if is_science_table(rest) else {}
    rivals = {}
    for field, known in (NAMES | more).items():
        found = [name for alias in known for name in rest if folded(name) == folded(alias)]
        if field not in of and found:
            of[field] = (found[0],)
            rivals[field] = found
    if "options" not in of:
        of |= option_columns(rest, is_piqa="goal" in map(folded, rest))
    prompt = "prompt" in explicit or (
        "question" not in explicit and folded(of.get("question", ("",))[0]) == "prompt"
    )
    if "prompt" in explicit and "context" not in explicit:
        of.pop("context", None)  # a whole prompt has it
    used = {name for columns in of.values() for name in columns}
    columns = Columns(
        {field: of[field] for field in (*NAMES, "level") if field in of},
        tuple(name for name in names if name not in used),
        frozenset(explicit),
        prompt,
        labels_of(of.get("options", ()), "options" in explicit),
    )
    if rows and not is_math:
        check_rivals(rivals, rows)
        check_texts(columns)
    return columns


def check_texts(columns: Columns) -> None:
    """Raise InputError where the question may be in another column as well."""
    if "question" not in columns.of or {"question", "prompt"} & columns.explicit:
        return
    others = [name for name in columns.unused if folded(name) in TEXTS]
    if columns.prompt and "context" not in columns.explicit:  # the prompt may have it already
        others += columns.of.get("context", ())
    if others:
        text = columns.of["question"][0]
        field = "prompt" if columns.prompt else "question"
        fields = f"context={others[0]} or {field}={text}"
        raise InputError(
            f"the {field} may be in the columns {shown(text)} and {shown(others[0])}: "
            f"{give_fields(fields)}."
        )


def is_math_table(names: Sequence[str]) -> bool:
    """Return whether a table has the columns of MATH or of DART-Math."""
    known = set(map(folded, names))
    return bool(known & {"problem", "queryid"}) or {"query", "gtans"} <= known


def is_science_table(names: Sequence[str]) -> bool:
    """Return whether a table has the columns of ScienceQA."""
    return {"choices", "hint", "skill"} <= set(map(folded, names))


def option_columns(names: Sequence[str], is_piqa: bool) -> dict[str, tuple[str, ...]]:
    """Find options in columns of their own: option_a, ...; A, B, ...; or PIQA's sol1 and sol2."""
    columns = tuple(name for name in names if OPTION.fullmatch(name.strip()))
    letters = [name for name in names if len(name.strip()) == 1 and name.strip() in LETTERS]
    if not columns and sorted(map(str.strip, letters)) == list(LETTERS[: len(letters)]):
        columns = tuple(sorted(letters, key=str.strip)) if len(letters) > 1 else ()
    if not columns and is_piqa:
        columns = tuple(name for name in names if folded(name) in PIQA)
    return {"options": columns} if columns else {}


def labels_of(columns: Sequence[str], explicit: bool) -> tuple[str, ...]:
    """Return the labels of options in columns of their own, () for options in one column."""
    matches = [OPTION.fullmatch(name.strip()) for name in columns]
    if matches and all(matches):
        return tuple(match[1] for match in matches if match)
    if len(columns) > 1:
        return tuple(LETTERS[: len(columns)])
    return ()


def check_rivals(found: Mapping[str, Sequence[str]], rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise InputError where two columns of one field say different things."""
    pairs = [
        (field, names[0], other)
        for field, names in found.items()
        if field in ("question", "options", "answer")
        for other in names[1:]
    ]
    for field, name, other in pairs:
        for row in rows:
            first = row.get(name)
            second = row.get(other)
            if first is not None and second is not None and str(first) != str(second):
                raise InputError(
                    f"the {field} may be in the column {shown(name)} or {shown(other)}, which "
                    f"differ: {give_fields(f'{field}={name}')}."
                )


def field_pairs(fields: FieldNames) -> FieldPairs:
    """Return the fields that a user names, with their columns as they are given."""
    if fields is None:
        return ()
    if not isinstance(fields, str | Mapping):
        raise InputError(f"fields are a text or a dict of columns, not {shown(fields)}.")
    if isinstance(fields, str):
        parts = [part.partition("=") for part in fields.split(",") if part.strip()]
        return tuple((field.strip(), columns) for field, _, columns in parts)
    return tuple(
        (field, columns if isinstance(columns, str) else tuple(map(str, columns)))
        for field, columns in fields.items()
    )


def named_columns(pairs: FieldPairs, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Find the columns of the fields that a user names; options may be several, as in a+b.

    Raises InputError for what is no field, a column that the table lacks, and one given twice.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for field, value in pairs:
        if field not in FIELDS:
            raise InputError(
                f"--fields names no field {shown(field)}{did_you_mean(field, FIELDS)}: write "
                f"FIELD=COLUMN with the fields {', '.join(FIELDS)}."
            )
        texts = columns_in(value, names)
        columns[field] = tuple(column_of(text, names) for text in texts)
        if len(texts) > 1 and field != "options":
            raise InputError(f"--fields: {field} is one column, and only options are several.")
    # the right answer may be a column of its own among the options
    own = [texts for field, texts in columns.items() if field != "answer"]
    every = [name for texts in own for name in texts]
    if twice := [name for name in every if every.count(name) > 1]:
        raise InputError(f"--fields names the column {shown(twice[0])} twice: give it one field.")
    if "answer" in columns and columns["answer"][0] in columns.get("question", ()):
        raise InputError("--fields has one column for the question and the answer: give another.")
    if {"question", "prompt"} <= columns.keys():
        raise InputError("--fields has a question and a prompt, which are one text: give one.")
    return columns


def columns_in(value: str | Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns that a user gives for a field; a+b are two, unless one is named so."""
    texts = value
    if isinstance(value, str):
        texts = [value] if value.strip() in names else value.split("+")
    return [text.strip() for text in texts]


def column_of(text: str, names: Sequence[str]) -> str:
    """Return the column that the user names; InputError where there is none."""
    for name in names:
        if name.strip() == text:
            return name
    raise InputError(
        f"--fields names the column {shown(text)}{did_you_mean(text, names)}, but there are "
        f"{listed(names)}."
    )


def check_needed(columns: Columns, names: Sequence[str], needed: Iterable[str]) -> None:
    """Raise InputError where a field has no column, with the columns and the most similar one."""
    for field in needed:
        if field in columns.of:
            continue
        near = next((name for name in columns.unused if is_near(name, field)), None)
        hint = f" (did you mean {printed(near)}?)" if near else ""
        raise InputError(
            f"no column is known to be the {field}; there are {listed(names)}{hint}: name it "
            f"{field}, or {give_fields(f'{field}={near or COLUMN}')}."
        )


def is_near(name: str, field: str) -> bool:
    """Return whether a column's name is similar to a known one of a field, or has it as a part."""
    known = NAMES[field]
    parts = re.split(r"[\s_-]+", name.lower())
    return nearest(name, known) is not None or any(alias in parts for alias in known)


def families(names: Sequence[str]) -> list[list[str]]:
    """Return groups of columns that are numbered or lettered, such as ending0, ending1, ..."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if match := NUMBERED.fullmatch(name.strip()):
            groups.setdefault(match[1].lower(), []).append((match[2].lower(), name))
    return [[name for _, name in group] for group in groups.values() if is_series(group)]


def is_series(group: Sequence[tuple[str, str]]) -> bool:
    """Return whether the ends of names are the first letters, or numbers from 0 or 1."""
    ends = [end for end, _ in group]
    series = (LETTERS.lower(), "0123456789", "123456789")
    return len(ends) > 1 and any(sorted(ends) == list(x[: len(ends)]) for x in series)


def give_fields(fields: str) -> str:
    """Say how a user names the columns of fields."""
    return f"give --fields {printed(fields, LONGEST)} (fields= in Python)"


def listed(names: Sequence[str]) -> str:
    """List the names of columns."""
    return f"the columns {shorten(list(map(shown, names)), limit=12)}"
