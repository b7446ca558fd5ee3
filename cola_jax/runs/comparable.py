"""Whether stored results belong together: the same questions, asked of one model alike."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cola_jax.errors import InputError, shown
from cola_jax.runs.growth import differing
from cola_jax.scoring.encode import Encoded

if TYPE_CHECKING:
    from cola_jax.runs.directory import RunDirectory

DECIDE = ("model", "dtype", "scorer", "rule", "grader", "max_new_tokens", "chat")
ASKED = ("format", "shots")  # how a question is asked, beside `chat`
# what may differ where the paths of a run are only tried again
ANY_SCORER = (*DECIDE[1:], *ASKED, "prompt")


class Wording(NamedTuple):
    """A question as it was asked."""

    text: str
    options: tuple[str, ...]
    gold: str | None
    prompt: str  # digest


class Asked(NamedTuple):
    """What was asked, and of what: by a run, or by a command that begins."""

    name: str
    settings: Mapping[str, Any]
    questions: Mapping[str, Wording]  # by id


def asked_by_run(run: "RunDirectory") -> Asked:
    """Reads what a run asked."""
    rows = run.questions(["question", "text", "options", "gold", "prompt_hash"]).to_pylist()
    questions = {
        row["question"]: wording(row["text"], row["options"], row["gold"], row["prompt_hash"])
        for row in rows
    }
    return Asked(str(run.directory), run.manifest()["settings"], questions)


def asked_here(settings: Mapping[str, Any], encoded: Sequence[Encoded]) -> Asked:
    """Returns what a command asks."""
    questions = {
        one.question.id: wording(
            one.question.text, one.question.options, one.question.answer, one.prompt_hash
        )
        for one in encoded
    }
    return Asked("this command", settings, questions)


def wording(text: str, options: Sequence[str], gold: int | None, prompt: str) -> Wording:
    """Makes the content of a question; open questions without options have no gold."""
    answer = None if gold is None or not options else options[gold]
    return Wording(text, tuple(options), answer, prompt)


def check_comparable(one: Asked, other: Asked, allowed: Collection[str] = ()) -> list[str]:
    """Raises ValueError where results do not belong together, with what differs and both values.

    Questions are compared where both have them. Returns the differences that are `allowed`, names
    of settings or of fields of a question's content, to be told.
    """
    found = differences(one.settings, other.settings)
    both = [name for name in one.questions if name in other.questions]
    for field in Wording._fields:
        pairs = [
            (getattr(one.questions[q], field), getattr(other.questions[q], field), q) for q in both
        ]
        pairs = [pair for pair in pairs if pair[0] != pair[1]]
        # a prompt differs with all else, and its digest tells a reader little
        if pairs and not (field == "prompt" and found):
            was, now, name = pairs[0]
            such = f"{field} of {len(pairs)} of {len(both)} common questions, such as {shown(name)}"
            found[field] = f"{such}: {shown(was)} and {shown(now)}"
    if refused := [text for name, text in found.items() if name not in allowed]:
        raise InputError(
            f"{one.name} and {other.name} do not belong together, they differ in "
            f"{'; '.join(refused)}: give results of one model, with the same questions asked alike."
        )
    return list(found.values())


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings that decide what is right, where they differ, with both values."""
    found: dict[str, str] = {}
    for name, was, now in differing(deciding(one), deciding(other)):
        found.setdefault(name.partition(".")[0], f"{name}: {shown(was)} and {shown(now)}")
    return found


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that decide what is right, whatever questions are asked."""
    prompt = settings.get("prompt") or {}
    style, shots = prompt.get("format"), prompt.get("num_fewshot")
    if isinstance(style, dict):
        style = {name: value for name, value in style.items() if name != "shots"}
    asked = {"format": style, "shots": len(prompt.get("shots") or ()) if shots is None else shots}
    return {name: settings.get(name) for name in DECIDE} | asked
