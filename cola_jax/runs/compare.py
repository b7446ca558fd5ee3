"""Comparison of runs: whether two have the same model, settings, questions and prompts."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils.epath import PathLike

from cola_jax.errors import check_belongs, describe_difference, shown
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


class Asked(NamedTuple):
    """The model, prompts and questions of a run, or of a command that begins."""

    name: str
    values: dict[str, Any]  # that decide verdicts; those of each question by its id

    @classmethod
    def of(
        cls, name: str, settings: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
    ) -> "Asked":
        """Take the settings of a run and the rows of its questions."""
        values = deciding(settings) | {"texts": {}, "prompts": {}, "options": {}, "golds": {}}
        for row in rows:
            question, options, gold = row["question"], list(row["options"]), row["gold"]
            values["texts"][question] = row["text"]
            values["prompts"][question] = row["prompt_hash"]
            values["options"][question] = options
            values["golds"][question] = None if gold is None else options[gold]
        return cls(name, values)


def asked_here(
    settings: Mapping[str, Any], questions: Sequence[Question], sample: Sequence[Encoded]
) -> Asked:
    """Return the questions of a command with its settings, and the prompts of a sample of them."""
    values = deciding(settings) | {"texts": {}, "prompts": {}, "options": {}, "golds": {}}
    for question in questions:
        values["texts"][question.id] = question.text
        values["options"][question.id] = list(question.options)
        values["golds"][question.id] = question.gold if question.options else None
    for encoded in sample:
        values["prompts"][encoded.question.id] = encoded.prompt_hash
    return Asked("this command", values)


def check_comparable(theirs: Asked, ours: Asked, allowed: Collection[str] = ()) -> None:
    """Raise InputError for results that do not belong together, with the values that differ.

    Questions are compared where both have them. Differences of `allowed` names are logged.
    """
    compared = {name: value for name, value in theirs.values.items() if name not in allowed}
    action = "give results of one model, with the same questions and prompts"
    check_belongs(theirs.name, compared, ours.name, ours.values, action)
    differences = (
        describe_difference(name, theirs.values[name], ours.values[name])
        for name in sorted(allowed)
    )
    if text := "; ".join(filter(None, differences)):
        log.info("%s was made with other settings: %s", theirs.name, text)


def check_asked(directory: PathLike, before: Asked, asked: Asked, *, complete: bool) -> None:
    """Raise InputError where a command asks other or changed questions than a run that it resumes.

    A `complete` one asks all questions of the run, and not the share of one of several processes.
    """
    check_comparable(before, asked)
    others = before.values["texts"].keys() - asked.values["texts"].keys()
    if others and complete:
        text = f"--task: it has other questions, such as {shown(min(others))}"
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
