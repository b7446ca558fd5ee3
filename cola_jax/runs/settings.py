"""Settings of runs: those that continue a run, and those whose results belong together."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

from cola_jax.errors import InputError, printed, shown
from cola_jax.identity import check_belongs, describe_difference, digest
from cola_jax.scoring.scorer import Encoded

if TYPE_CHECKING:
    from cola_jax.runs.run import Run

FLAGS = {
    "strategy": "--preset",
    "questions": "--limit",
    "task": "--task",
    "prompt": "--format",
    "prompt.shots": "--num-fewshot",
    "prompt.hash": "--task",
    "grader": "the version of math-verify",
}
# settings that decide a verdict, and with PROMPT the prompts
DECIDING = ("model", "dtype", "scorer", "rule", "grader", "max_new_tokens", "chat")
PROMPT = ("format", "shots")
# may differ where the paths of a run are only tried again
ANY_SCORER = (*DECIDING[1:], *PROMPT, "prompts")
DIGESTS = ("task", "prompt.hash", "variants.")  # settings that depend on the questions


def continues(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether new settings need more evaluations of each question of a run.

    More questions are evaluated beside those that are done. A larger search starts anew, with the
    evaluations of the run.

    Args:
      directory: the run, for messages.
      old: the settings of its last start.
      new: those of this command, as JSON has them.

    Raises InputError that names by its flag each setting that differs and cannot grow.
    """
    if old.get("command") != new.get("command"):
        raise InputError(
            f"{directory} was made by `cola {printed(str(old.get('command')))}`, not by `cola "
            f"{new.get('command')}`: choose another directory."
        )
    changes = {name: (was, now) for name, was, now in differing(old, new)}
    grown = {name for name, (was, now) in changes.items() if grows(name, was, now)}
    if "questions" in changes:  # the questions of the run are compared one by one
        grown |= {n for n, both in changes.items() if n.startswith(DIGESTS) and None not in both}
    differences: dict[str, str] = {}
    for name, (was, now) in changes.items():
        flag = flag_of(name)
        # the name of a choice explains the other differences under its flag
        if name not in grown and (flag not in differences or name.endswith(".name")):
            differences[flag] = f"{flag}: {shown(was)} there, {shown(now)} here"
    if differences:
        raise other_settings(directory, differences.values())
    return not grown.isdisjoint(("simulations", "paths"))


def grows(name: str, was: Any, now: Any) -> bool:
    """Return whether a setting asks for more of the same."""
    if name == "paths":
        return set(map(tuple, was or ())) < set(map(tuple, now or ()))
    return name in ("questions", "simulations") and (was or 0) < (now or 0)


def check_same(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise InputError that names every setting in which a folder and this command differ."""
    if changes := differing(old, new):
        texts = (f"{name}: {shown(was)} there, {shown(now)} here" for name, was, now in changes)
        raise other_settings(directory, texts)


def other_settings(directory: epath.PathLike, differences: Iterable[str]) -> InputError:
    """Return the error for a directory that was created with different settings."""
    return InputError(
        f"{directory} was created with different settings ({'; '.join(differences)}): choose "
        "another directory, or repeat the old settings to resume it."
    )


def flag_of(name: str) -> str:
    """Return the flag of a setting, `preset.max_length` for example."""
    head, _, rest = name.partition(".")
    if head in ("preset", "variants"):
        name = f"rules.{rest}" if head == "preset" else head
    return FLAGS.get(name) or FLAGS.get(head) or f"--{name.replace('_', '-')}"


def differing(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """List dotted names with both values where two nested configurations differ."""
    out = []
    for name in sorted(set(old) | set(new)):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            out += differing(was, now, f"{prefix}{name}.")
        elif was != now:
            out.append((f"{prefix}{name}", was, now))
    return out


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


def asked_by_run(run: "Run", settings: Mapping[str, Any] | None = None) -> Asked:
    """Read the questions of a run, and its settings by default."""
    known: Mapping[str, Any] = run.manifest()["settings"] if settings is None else settings
    rows = run.questions(["question", "text", "options", "gold", "prompt_hash"]).to_pylist()
    return Asked.of(str(run.directory), known, rows)


def asked_here(settings: Mapping[str, Any], encoded: Sequence[Encoded]) -> Asked:
    """Return the questions of a command with its settings."""
    rows = [
        {
            "question": each.question.id,
            "text": each.question.text,
            "options": each.question.options,
            "gold": each.question.answer if each.question.options else None,
            "prompt_hash": each.prompt_hash,
        }
        for each in encoded
    ]
    return Asked.of("this command", settings, rows)


def check_comparable(theirs: Asked, ours: Asked, allowed: Collection[str] = ()) -> list[str]:
    """Raise InputError for results that do not belong together, with the values that differ.

    Questions are compared where both have them.

    Returns:
      The differences in `allowed` names of `Asked.values`, to be logged.
    """
    compared = {name: value for name, value in theirs.values.items() if name not in allowed}
    action = "give results of one model, with the same questions and prompts"
    check_belongs(theirs.name, compared, ours.name, ours.values, action)
    texts = [
        describe_difference(name, theirs.values[name], ours.values[name])
        for name in sorted(allowed)
    ]
    return [text for text in texts if text]


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide verdicts, without the questions."""
    prompt = settings.get("prompt") or {}
    style, shots = prompt.get("format", "plain"), prompt.get("num_fewshot")
    if isinstance(style, dict):
        rest = {name: value for name, value in style.items() if name != "shots"}
        style = f"{style['name']} {digest(rest)[:8]}"
    prompts = {"format": style, "shots": len(prompt.get("shots") or ()) if shots is None else shots}
    return {name: settings.get(name) for name in DECIDING} | prompts
