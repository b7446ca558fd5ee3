"""`Question`, and the stable hashes that identify, order and draw things."""

import dataclasses
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

from cola_jax.errors import InputError, shown

PICTURE = "<image>"  # where a question's text shows its picture
DELIMITER = "delimiter"  # metadata of a question whose text is a whole prompt
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer options in order, and the index of the correct one.

    The options of an open question are the gold answer and a decoy, if it has one: by default an
    integer close to an integer gold. A metric of your own needs none.
    """

    id: str
    text: str
    options: tuple[str, ...] = ()
    answer: int = 0
    open: bool = False  # answered in free text; the options are not shown
    solution: str | None = None  # worked solution, without the line that states the answer
    metadata: tuple[tuple[str, str], ...] = ()  # such as ("math_level", "3")
    picture: bytes | None = dataclasses.field(default=None, repr=False)  # the file of a picture

    def __post_init__(self):
        """Check the types of a user's own question; InputError names what is wrong."""
        options: Any = self.options
        if hasattr(options, "tolist"):  # an array of NumPy's
            options = options.tolist()
        if not isinstance(self.id, str) or not isinstance(self.text, str):
            raise InputError(f"question {shown(self.id)}: its id and its text must be texts.")
        # the usual types first: of millions of questions, abstract ones take seconds
        is_list = isinstance(options, tuple | list | Sequence) and not isinstance(options, str)
        if not is_list or not all(isinstance(option, str) for option in options):
            raise InputError(
                f"question {shown(self.id)}: options must be a list of texts, not {shown(options)}."
            )
        count = max(1, len(options))  # without options, a metric of the user's own
        is_index = isinstance(self.answer, int | Integral) and not isinstance(self.answer, bool)
        if not is_index or not 0 <= self.answer < count:
            raise InputError(
                f"question {shown(self.id)}: answer must be the index of the right option, 0 to "
                f"{count - 1}, not {shown(self.answer)}."
            )
        object.__setattr__(self, "options", tuple(options))

    @property
    def letters(self) -> str:
        """The letters of the options, by position, whatever the labels of the source."""
        return LETTERS[: len(self.options)]

    @property
    def gold(self) -> str:
        """The text of the correct answer."""
        return self.options[self.answer]

    @property
    def picture_digest(self) -> str | None:
        """The SHA-256 of the picture, None without one."""
        return None if self.picture is None else sha256_of(self.picture)

    def with_decoy(self, decoy: str | None) -> "Question":
        """Return the same open question with another decoy, or without one."""
        return dataclasses.replace(self, options=with_wrong(self.gold, decoy))

    def get(self, name: str) -> str | None:
        """Look up a name in the metadata."""
        return dict(self.metadata).get(name)


def open_question(
    id: str,
    text: str,
    gold: str,
    solution: str | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
    picture: bytes | None = None,
) -> Question:
    """Make an open question; raises InputError if the text or the answer is blank."""
    if not text.strip():
        raise InputError(f"question {id} is empty.")
    gold = gold.strip()
    if not gold:
        raise InputError(f"question {id} has no answer: the gold answer is empty.")
    options = with_wrong(gold, decoy_of(id, gold))
    return Question(id, text, options, 0, True, solution, metadata, picture)


def with_wrong(gold: str, decoy: str | None) -> tuple[str, ...]:
    """Return the options of an open question."""
    return (gold,) if decoy is None else (gold, decoy)


def decoy_of(id: str, gold: str) -> str | None:
    """Pick a wrong integer close to an integer gold by a hash of the id; None for other golds.

    It must be a plausible answer, for a control search: that of a nonnegative gold is nonnegative.
    """
    if not INTEGER.fullmatch(gold):
        return None
    offset = (-4, -3, -2, -1, 1, 2, 3, 4)[sha256(f"decoy {id}")[0] % 8]
    value = int(gold)
    if value >= 0 > value + offset:
        offset = -offset
    return str(value + offset)


def check_questions(questions: Any) -> list[Question]:
    """Return questions as a list; InputError where they are none, or something else.

    Names of tasks, files, and rows are for `cola_jax.load_questions`.
    """
    if isinstance(questions, Question):
        raise InputError(
            f"questions is the single question {shown(questions.id)}: give a list of questions."
        )
    is_list = isinstance(questions, Iterable) and not isinstance(questions, str | bytes | Mapping)
    listed: list[Any] = list(questions) if is_list else []
    if not is_list or not all(isinstance(each, Question) for each in listed):
        is_name = isinstance(questions, str | os.PathLike)
        given = shown(os.fspath(questions)) if is_name else "..."
        raise InputError(
            f"questions is of type {type(questions).__name__}, but must be a list of Question: "
            f"read it with cola_jax.load_questions({given})."
        )
    if not listed:
        raise InputError("there are no questions: give a list of one or more.")
    known: set[str] = set()
    for question in listed:
        if question.id in known:
            raise InputError(
                f"two questions have the id {shown(question.id)}: give each an id of its own."
            )
        known.add(question.id)
    return listed


def content(question: Question) -> tuple[str, ...]:
    """Return the parts that equal questions share: text, picture, and options in any order."""
    picture = question.picture_digest or ""
    return key_parts(question.text, question.options, picture, is_open=question.open)


def key_parts(
    text: str, options: Sequence[str], picture: str = "", *, is_open: bool
) -> tuple[str, ...]:
    """Return what equal questions share; the options of an open one are not shown.

    Blanks are not what tells questions apart, nor is how Unicode composes a letter.
    """
    shown = (text, *(() if is_open else options))
    text, *options = (" ".join(unicodedata.normalize("NFC", each).split()) for each in shown)
    return (text, picture, *sorted(options))


def distinct(questions: Sequence[Question]) -> list[int]:
    """Return the places of the questions without those that equal an earlier one, whatever the id.

    A question under thirty ids is one question to a test.
    """
    first: dict[tuple[str, ...], int] = {}
    for place, question in enumerate(questions):
        first.setdefault(content(question), place)
    return list(first.values())


def question_digest(question: Question) -> str:
    """Return the digest of a question's text, options, gold answer and picture."""
    gold = question.gold if question.options else None
    shown = () if question.picture is None else (question.picture_digest,)
    return digest(question.text, question.options, gold, question.answer, *shown)


def digest(*parts: Any) -> str:
    """Return the SHA-256 of values that JSON has, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(text).hex()


def split(ids: Sequence[str], key: str) -> list[int]:
    """Order ids by a hash of key and id, the same on any machine and in any selection of ids.

    Returns the indices of all ids, of questions or their texts: take the first n as held-out
    questions, or every n-th as a fold. `key` names the order, such as "validation".
    """
    return sorted(range(len(ids)), key=lambda i: sha256(f"{key} {ids[i]}" if key else ids[i]))


def random_of(*key: int | str) -> "np.random.Generator":
    """Return the random generator of a key, such as a seed and a question's id."""
    import numpy as np  # which the command line does without

    return np.random.default_rng(seed_of(key))


def key_of(*key: int | str) -> "np.ndarray":
    """Return the key [2] uint32 of the random words of a tree, as of threefry2x32."""
    import numpy as np

    return np.random.SeedSequence(seed_of(key)).generate_state(2)


def seed_of(key: Iterable[int | str]) -> list[int]:
    """Return the parts of a key as whole numbers."""
    return [part if isinstance(part, int) else stable_hash(part) for part in key]


def stable_hash(text: str) -> int:
    """Return 64 bits of a text's hash, the same on every machine and in every version."""
    return int.from_bytes(sha256(text)[:8], "little")


def sha256(text: str) -> bytes:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()


def sha256_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
