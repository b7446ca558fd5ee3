"""`ChosenOn`: the questions and the wordings on which a path, a menu or a router was chosen.

A path that is judged on what chose it looks better than it is, so every command that chooses writes
digests of its questions and wordings, and one that judges compares them with its own.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cola_jax.errors import count
from cola_jax.question import Question, content, digest, key_parts
from cola_jax.tasks.wordings import DIGITS, wording_key

CHOSEN_ON = "chosen_on"  # field of what commands write
PRIOR_DIGEST = "prior_digest"  # setting of a search: of the edits that it tries first
PRIOR_CHOSEN_ON = "prior_chosen_on"  # setting of a search: what chose the edits that it tries first
MEASURED_ON = "measured_on"  # likewise: the held-out questions, and the wordings of these
COLUMNS = ["question", "key", "text", "options"]  # of a run's questions


@dataclasses.dataclass(frozen=True)
class ChosenOn:
    """Keys of questions and of wordings; equal texts have one key, as have orders of shots."""

    questions: frozenset[str] = frozenset()
    wordings: frozenset[str] = frozenset()
    complete: bool = True  # no further wordings, which an earlier version did not record

    @classmethod
    def of(cls, questions: Iterable[Question], settings: Mapping[str, Any]) -> "ChosenOn":
        """Return the keys of questions that are asked with these settings."""
        return cls.of_keys(map(question_key, questions), settings)

    @classmethod
    def of_keys(cls, questions: Iterable[str], settings: Mapping[str, Any]) -> "ChosenOn":
        """Return the keys of questions with those of the wordings in the settings of a run.

        What chose the prior of a search has a part in all that it finds.
        """
        every = [wording_key(record) for record in wordings_in(settings)]
        known = frozenset(key for key in every if key is not None)
        asked_otherwise = settings.get("variants") or settings.get("robust")
        complete = None not in every and not asked_otherwise
        own = cls(frozenset(questions), known, complete)
        prior = settings.get(PRIOR_CHOSEN_ON)
        return own if prior is None else own | cls.from_json(prior)

    @classmethod
    def from_json(cls, content: Any) -> "ChosenOn":
        """Read what `to_json` made."""
        questions, wordings = (frozenset(content[x].split()) for x in ("questions", "wordings"))
        return cls(questions, wordings, content["complete"])

    def to_json(self) -> dict[str, Any]:
        """Return the keys in order, each kind in one text."""
        lists = {"questions": self.questions, "wordings": self.wordings}
        texts = {name: " ".join(sorted(keys)) for name, keys in lists.items()}
        return texts | {"complete": self.complete}

    def field(self) -> dict[str, Any]:
        """Return the field of what commands write."""
        return {CHOSEN_ON: self.to_json()}

    def __or__(self, other: "ChosenOn") -> "ChosenOn":
        return ChosenOn(
            self.questions | other.questions,
            self.wordings | other.wordings,
            self.complete and other.complete,
        )

    def without(self, questions: Iterable[Question]) -> "ChosenOn":
        """Leave out questions, such as those that were held out."""
        left_out = set(map(question_key, questions))
        return dataclasses.replace(self, questions=self.questions - left_out)

    def overlap(self, other: "ChosenOn") -> "ChosenOn":
        """Return what both have in common."""
        return ChosenOn(
            self.questions & other.questions,
            self.wordings & other.wordings,
            self.complete and other.complete,
        )

    @property
    def digest(self) -> str:
        """The digest of all keys."""
        return digest(self.to_json())[:DIGITS]

    def describe(self) -> str:
        """State the numbers of questions and prompts."""
        prompts = count(len(self.wordings), "prompt")
        if not self.complete:
            prompts = f"{prompts} or more" if self.wordings else "prompts that were not recorded"
        return f"{count(len(self.questions), 'question')} in {prompts}"


NOTHING = ChosenOn()


def question_key(question: Question) -> str:
    """Return the key of a question: equal ones share it, whatever their ids."""
    return digest(*content(question))[:DIGITS]


def wordings_in(settings: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the records of the wordings in which questions were asked to choose."""
    return settings.get("choose_prompts") or [settings]


def keys_of_rows(tables: Iterable[pa.Table], *, is_open: bool) -> dict[str, str]:
    """Return the keys of a run's questions by their ids, from tables with `COLUMNS`.

    Those of earlier versions have none, and are computed from their texts and options; of pictures
    they have no digest.
    """
    keys = {}
    for table in tables:
        columns = (table[name].to_pylist() for name in COLUMNS)
        for question, key, text, options in zip(*columns, strict=True):
            parts = key_parts(text, options or (), is_open=is_open)
            keys[question] = key or digest(*parts)[:DIGITS]
    return keys
