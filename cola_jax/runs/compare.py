"""Comparison of runs: whether two have the same model, settings, questions and prompts."""

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from etils.epath import PathLike

from cola_jax.errors import InputError, describe_difference, shorten, shown
from cola_jax.question import Question, digest
from cola_jax.runs.settings import other_settings
from cola_jax.scoring.scorer import Encoded

log = logging.getLogger(__name__)
# settings that decide a verdict, and with PROMPT the prompts
DECIDING = (
    *("model", "dtype", "scorer", "rule", "grader", "max_new_tokens"),
    *("temperature", "top_p", "sample_seed", "chat"),
)
PROMPT = ("format", "shots")
# may differ where the paths of a run are only tried again
ANY_SCORER = (*DECIDING[1:], *PROMPT, "prompts")
ASKED = ["question", "text", "options", "gold", "prompt_hash"]  # columns of a run's questions
COMPARED = ("texts", "prompts", "options", "golds")


class AskedRow(NamedTuple):
    """A question as a run has asked it, or as a command asks it."""

    question: str  # its id
    text: str
    options: list[str] | None
    gold: str | None  # None where no options were offered
    prompt: str | None  # the digest of its prompt, None where it is not known


class Asked:
    """The settings that decide verdicts and the questions, of a run or a command that begins."""

    def __init__(
        self, name: str, settings: Mapping[str, Any], read: Callable[[], Iterable[AskedRow]]
    ):
        """Take the settings; `read` reads the questions one by one, once more at each call."""
        self.name = name
        self.values = deciding(settings)
        self.read = read

    @functools.cached_property
    def rows(self) -> dict[str, AskedRow]:
        """The questions by their ids."""
        return {row.question: row for row in self.read()}

    def find(self, question: str) -> AskedRow | None:
        """Return a question by its id, None where it is not asked."""
        return self.rows.get(question)


class AskedHere(Asked):
    """The questions of a command, of which there may be a million."""

    def __init__(
        self, settings: Mapping[str, Any], questions: Sequence[Question], sample: Sequence[Encoded]
    ):
        super().__init__("this command", settings, lambda: map(self.row, questions))
        self.questions = questions
        self.prompts = {encoded.question.id: encoded.prompt_hash for encoded in sample}

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """The places of the questions by their ids."""
        return {question.id: place for place, question in enumerate(self.questions)}

    def find(self, question: str) -> AskedRow | None:
        """Return a question by its id, None where it is not asked."""
        place = self.places.get(question)
        return None if place is None else self.row(self.questions[place])

    def row(self, question: Question) -> AskedRow:
        """Return a question as it is compared."""
        return AskedRow(
            question.id,
            question.text,
            list(question.options),
            question.gold if question.options else None,
            self.prompts.get(question.id),
        )


def asked_here(
    settings: Mapping[str, Any], questions: Sequence[Question], sample: Sequence[Encoded]
) -> Asked:
    """Return the questions of a command with its settings, and the prompts of a sample of them."""
    return AskedHere(settings, questions, sample)


def asked_rows(tables: Iterable[pa.Table]) -> Iterator[AskedRow]:
    """Read the questions of a run from tables with the columns `ASKED`."""
    for table in tables:
        columns = (table[name].to_pylist() for name in ASKED)
        for question, text, options, gold, prompt in zip(*columns, strict=True):
            answer = None if gold is None or options is None else options[gold]
            yield AskedRow(question, text, options, answer, prompt)


class Comparison:
    """The differences between results, whose questions come one by one, and other questions."""

    def __init__(
        self,
        name: str,
        values: Mapping[str, Any],
        ours: Asked,
        allowed: Collection[str] = (),
    ):
        """Compare the deciding settings of results, `values`; names of `allowed` may differ."""
        self.name = name
        self.ours = ours
        self.allowed = allowed
        self.settings = {
            key: describe_difference(key, value, ours.values[key])
            for key, value in values.items()
            if key in allowed or None not in (value, ours.values[key])
        }
        self.count = 0
        self.changed: dict[str, list[str]] = {name: [] for name in COMPARED}  # ids
        self.other: str | None = None  # the first id of those that are not asked here

    def add(self, rows: Iterable[AskedRow]) -> None:
        """Compare questions with those of the same ids."""
        for theirs in rows:
            self.count += 1
            ours = self.ours.find(theirs.question)
            if ours is None:
                self.other = min(theirs.question, self.other or theirs.question)
                continue
            is_known = None not in (theirs.prompt, ours.prompt)
            for name, is_changed in (
                ("texts", theirs.text != ours.text),
                ("prompts", is_known and theirs.prompt != ours.prompt),
                ("options", theirs.options != ours.options),
                ("golds", theirs.gold != ours.gold),
            ):
                if is_changed:
                    self.changed[name].append(theirs.question)

    def check(self) -> None:
        """Raise InputError with all differences; those that may be are logged."""
        differences = self.settings | {
            name: f"{len(ids)} of {self.count} {name} have changed "
            f"({shorten([shown(each) for each in ids[:4]], limit=3)})"
            for name, ids in self.changed.items()
            if ids
        }
        refused = [text for name, text in differences.items() if text and name not in self.allowed]
        if refused:
            raise InputError(
                f"{self.name} does not belong to {self.ours.name}: {'; '.join(refused)}. Give "
                "results of one model, with the same questions and prompts."
            )
        if text := "; ".join(filter(None, map(differences.get, sorted(self.allowed)))):
            log.info("%s was made with other settings: %s", self.name, text)


def check_comparable(theirs: Asked, ours: Asked, allowed: Collection[str] = ()) -> None:
    """Raise InputError for results that do not belong together, with the values that differ.

    Questions are compared where both have them. Differences of `allowed` names are logged.
    """
    comparison = Comparison(theirs.name, theirs.values, ours, allowed)
    comparison.add(theirs.read())
    comparison.check()


def check_complete(directory: PathLike, comparison: Comparison) -> None:
    """Raise InputError where a run has questions that a command does not ask."""
    if comparison.other is not None:
        text = f"--task: it has other questions, such as {shown(comparison.other)}"
        raise other_settings(directory, [text])


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide verdicts, without the questions."""
    prompt = settings.get("prompt") or {}
    style, shots = prompt.get("format", "plain"), prompt.get("num_fewshot")
    if isinstance(style, dict):
        rest = {name: value for name, value in style.items() if name != "shots"}
        style = f"{style['name']} {digest(rest)[:8]}"
    prompts = {"format": style, "shots": len(prompt.get("shots") or ()) if shots is None else shots}
    return {name: settings.get(name) for name in DECIDING} | prompts
