"""Multiple choice in a row: options in any of their forms, and the one that an answer means.

    options                                          answer
    ["Lyon", "Nice", "Paris"]                        "C", "Paris", 2 from 0, 3 from 1
    {"A": "Lyon", "B": "Nice", "C": "Paris"}         likewise
    {"text": ["Lyon", ...], "label": ["A", ...]}     a label, as ARC has it

A number may count from 0 or from 1, or be the text of an option. All rows of a table are asked
which it is, and what they leave open is refused.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cola_jax.errors import InputError, shown
from cola_jax.question import LETTERS

Meaning = Literal["label", "text", "0", "1"]  # of a number: a label, a text, or a count from 0 or 1
MEANINGS: tuple[Meaning, ...] = ("label", "text", "0", "1")
WHOLE = re.compile(r"(-?[0-9]{1,9})(\.0+)?")
BOOLEAN = {True: ("yes", "true"), False: ("no", "false")}  # texts of options
NO_YES = ("no", "yes")  # the options of a question whose answer is a boolean
# a quoted text of Python, with the escapes that mean the same anywhere, and what divides two
QUOTED = re.compile(r"""'((?:[^'\\]|\\['"\\nt])*)'|"((?:[^"\\]|\\['"\\nt])*)\"""")
BETWEEN = re.compile(r"\s*,\s*|\s+")  # NumPy writes no commas
ESCAPED = re.compile(r"\\(.)")
ESCAPES = {"n": "\n", "t": "\t"}
NO_LIST = (
    'write them as a list of JSON, such as ["red", "blue"], or give each a column (option_a, '
    "option_b and so on)"
)


class Numbered(NamedTuple):
    """A row whose answer is a number: its place, the answer, and the option of each meaning."""

    where: str
    answer: Any
    meanings: Mapping[Meaning, int]


def options_by_label(options: Any) -> dict[str, Any]:
    """Return options by label, in whatever form a row has them; ValueError where it is none."""
    if isinstance(options, str):
        options = parse_options(options)
    if isinstance(options, Mapping) and {"text", "label"} <= options.keys():
        labels = list(options["label"])
        values = list(options["text"])
    elif isinstance(options, list) and all(is_labelled(option) for option in options):
        labels = [option["label"] for option in options]
        values = [option["text"] for option in options]
    elif isinstance(options, list):
        more = map(str, range(len(LETTERS), len(options)))
        labels = [*LETTERS, *more][: len(options)]
        values = options
    elif isinstance(options, Mapping):
        given = {str(label): value for label, value in options.items() if value is not None}
        labels = list(given)
        values = list(given.values())
    else:
        raise ValueError(f"options are no list, but {shown(options)}: {NO_LIST}")
    labels = [str(label).strip() for label in labels]
    if len(labels) != len(values) or len(set(labels)) != len(labels):
        raise ValueError(f"the labels {shown(labels)} of the {len(values)} options must be theirs")
    values = [str(value) if isinstance(value, bool) else value for value in values]
    return dict(zip(labels, values, strict=True))


def is_labelled(option: Any) -> bool:
    """Return whether an option is a dict of its text and label."""
    return isinstance(option, Mapping) and {"text", "label"} <= option.keys()


def parse_options(text: str) -> Any:
    """Read options in one cell: JSON, or a list of texts as Python and NumPy write it.

    Numbers stay as they are written. ValueError for anything else, which is not evaluated.
    """
    text = text.strip()
    if text.startswith(("[", "{")):
        try:
            return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
        except ValueError:
            pass
    options = quoted_list(text)
    if options is None:
        raise ValueError(f"the options {shown(text)} are no list: {NO_LIST}")
    return options


def quoted_list(text: str) -> list[str] | None:
    """Read a list of quoted texts, such as ['red', "Ann's"]; None for anything else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    inner = text[1:-1].strip()
    options = []
    place = 0
    while match := QUOTED.match(inner, place):
        options.append(unescaped(match[1] if match[1] is not None else match[2]))
        place = match.end()
        if place == len(inner):
            return options
        between = BETWEEN.match(inner, place)
        if between is None:
            return None
        place = between.end()
    return None


def unescaped(text: str) -> str:
    """Return a text with its escapes replaced."""
    return ESCAPED.sub(lambda match: ESCAPES.get(match[1], match[1]), text)


def check_distinct(labels: Sequence[str], texts: Sequence[str]) -> None:
    """Raise InputError where two options have the same text."""
    seen: dict[str, str] = {}
    for label, text in zip(labels, texts, strict=True):
        other = seen.setdefault(text.strip(), label)
        if other != label:
            raise InputError(
                f"the options {other} and {label} are both {shown(text.strip())}: change or "
                "remove one."
            )


def whole_number(answer: Any) -> int | None:
    """Return the number that an answer is, also one in a text such as 2 or 2.0; None for others."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return None
    match = WHOLE.fullmatch(str(answer).strip())
    return int(match[1]) if match else None


def meanings_of(answer: Any, options: Mapping[str, Any]) -> dict[Meaning, int]:
    """Return the index of the option that a number means, by what it may be; {} for others."""
    number = whole_number(answer)
    if number is None:
        return {}
    labels = list(options)
    count = len(options)
    texts = [str(value).strip() for value in options.values()]
    written = {str(answer).strip(), str(number)}
    meanings: dict[Meaning, int] = {}
    if labels[0].isdecimal() and str(number) in labels:
        meanings["label"] = labels.index(str(number))
    found = [index for index, text in enumerate(texts) if text in written]
    if len(found) == 1:
        meanings["text"] = found[0]
    if 0 <= number < count:
        meanings["0"] = number
    if 1 <= number <= count:
        meanings["1"] = number - 1
    return meanings


def choose_meaning(rows: Sequence[Numbered]) -> Meaning:
    """Choose what the numbers of all rows mean: the meaning in which each names an option.

    Labels that are numbers come first. Raises InputError where none or several remain.
    """
    rows = [row for row in rows if row.meanings]
    possible: list[Meaning] = [
        name for name in MEANINGS if all(name in row.meanings for row in rows)
    ]
    if not rows or "label" in possible:
        return "label" if rows else "0"
    choices = {tuple(row.meanings[name] for row in rows) for name in possible}
    if len(choices) == 1:
        return possible[0]
    if not possible:
        no_zero, no_one = (
            next(row for row in rows if name not in row.meanings) for name in ("0", "1")
        )
        raise InputError(
            f"the answers are numbers that count neither from 0 ({no_zero.where}: "
            f"{shown(no_zero.answer)}) nor from 1 ({no_one.where}: {shown(no_one.answer)}): "
            "correct them, or write letters."
        )
    row = next(row for row in rows if len({row.meanings[name] for name in possible}) > 1)
    counts = [name for name in possible if name in ("0", "1")]
    may = [f"count from {' or from '.join(counts)}"] if counts else []
    may += ["be the text of an option"] if "text" in possible else []
    flags = " or ".join(f"--answers-from {name}" for name in counts)
    raise InputError(
        f"{row.where}: the answer {shown(row.answer)} may {' or '.join(may)}, and no row tells "
        f"which: give {flags} (answers_from= in Python), or write letters."
    )


def answer_index(answer: Any, options: Mapping[str, Any], meaning: Meaning) -> int:
    """Return the index of the option that an answer means: a label, a text, or a number.

    Raises InputError where it is none, or may be two.
    """
    labels = [label.lower() for label in options]
    texts = [str(value).strip() for value in options.values()]
    if isinstance(answer, bool):
        matches = [i for i, text in enumerate(texts) if text.lower() in BOOLEAN[answer]]
    elif whole_number(answer) is not None:
        meanings = meanings_of(answer, options)
        matches = [meanings[meaning]] if meaning in meanings else []
    else:
        text = str(answer).strip()
        label = text.lower()
        if label not in labels and text not in texts:
            label = label.strip("().: ")  # as in (B), B) and B.
        matches = [i for i in range(len(texts)) if labels[i] == label or texts[i] == text]
    if len(matches) != 1:
        first = 1 if meaning == "1" else 0
        raise InputError(
            f"the answer must be the number ({first} to {first + len(texts) - 1}), the letter or "
            f"the text of an option, and not of two options, got {shown(answer)}."
        )
    return matches[0]
