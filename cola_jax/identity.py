"""Identities: digests of models, questions, prompts and paths, and whether two things belong.

Files that are valid by themselves and do not belong together give plausible wrong numbers. So each
carries the digests that it rests on, and `check_belongs` is called wherever two meet.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

from cola_jax.errors import InputError, printed, shown
from cola_jax.question import Question

SHOWN = 12  # characters of a digest in a message
NAMED = 3  # questions named in a message


def digest(*parts: Any) -> str:
    """Return the SHA-256 of values that JSON has, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def question_digest(question: Question, *, ordered: bool = True) -> str:
    """Return the digest of a question's text, options and gold answer.

    Args:
      ordered: whether the order of the options counts; it does not where parts of a task that must
        have no question in common are compared.
    """
    gold = question.gold if question.options else None
    options = question.options if ordered else sorted(question.options)
    index = question.answer if ordered else None  # two options may have equal texts
    return digest(question.text, options, gold, index)


def path_digest(path: Sequence[int]) -> str:
    """Return the digest of a path."""
    return digest([int(layer) for layer in path])


def set_digest(digests: Iterable[str]) -> str:
    """Return the digest of a set of questions or prompts, whose order does not count."""
    return digest(sorted(digests))


def random_of(*key: int | str) -> "np.random.Generator":
    """Return the random generator of a key, such as a seed and a question's id."""
    import numpy as np

    parts = [part if isinstance(part, int) else stable_hash(part) for part in key]
    return np.random.default_rng(parts)


def stable_hash(text: str) -> int:
    """Return 64 bits of a text's hash, the same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def check_belongs(
    name: str, theirs: Mapping[str, Any], other: str, ours: Mapping[str, Any], action: str
) -> None:
    """Raise InputError where values that both sides have differ, naming each difference.

    Args:
      name: of the file, for the message.
      theirs: the values that the file rests on, by name, such as the digest of a "model", and under
        "questions" a mapping from ids to digests. None, or no entry, is not known.
      other: the name of the other side, such as "this model".
      ours: the values of the other side.
      action: the next action of the user, a clause in the imperative.
    """
    known = [key for key in theirs if theirs[key] is not None and ours.get(key) is not None]
    differences = (describe_difference(key, theirs[key], ours[key]) for key in known)
    if problems := "; ".join(filter(None, differences)):
        raise InputError(
            f"{name} does not belong to {other}: {problems}. {action[0].upper()}{action[1:]}."
        )


def describe_difference(name: str, theirs: Any, ours: Any) -> str:
    """Describe how two values differ; "" where they do not."""
    if isinstance(theirs, Mapping):
        changed = [shown(key) for key, value in theirs.items() if ours.get(key, value) != value]
        named = f"{', '.join(changed[:NAMED])}{', ...' * (len(changed) > NAMED)}"
        return f"{len(changed)} of {len(theirs)} {name} have changed ({named})" if changed else ""
    return "" if theirs == ours else f"its {name} is {brief(theirs)}, here it is {brief(ours)}"


def brief(value: Any) -> str:
    """Write a value for a message, a digest as its beginning."""
    text = printed(value) if isinstance(value, str) and value else shown(value)
    return text if len(text) < 32 or not text.isalnum() else text[:SHOWN]
