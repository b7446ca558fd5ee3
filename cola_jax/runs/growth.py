"""Which settings a run may be continued with: those it was created with, or larger ones.

More questions are evaluated beside those that are done. More evaluations of each question are a
search of its own, which takes from the run what that has evaluated.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from cola_jax.errors import InputError, printed, shown

PROMPTS = "other questions or prompts"  # for digests, which tell a reader nothing
FLAGS = {
    "strategy": "--preset",
    "shots": "--num-fewshot",
    "prompt.shots": "--num-fewshot",
    "prompt.format": "--format",
    "prompt.hash": "--task",
    "prompt": "--format",
    "grader": "the version of math-verify",
}


def continues(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether each question of a run has to be evaluated further under new settings.

    Args:
      directory: that of the run, for messages.
      old: the settings that it was last started with.
      new: those of this command, as JSON has them.

    Raises InputError that names by its flag each setting that differs and cannot grow.
    """
    was, now = dict(old), dict(new)
    if was.get("command") != now.get("command"):
        raise InputError(
            f"{directory} was made by `cola {printed(str(was.get('command')))}`, not by `cola "
            f"{now.get('command')}`: choose another directory."
        )
    further = False
    count = was.get("questions")
    if isinstance(count, int) and count < now.get("questions", 0):
        # the questions that a run has are compared one by one
        was, now = (without_digests(each) | {"questions": None} for each in (was, now))
    if (was.get("simulations") or 0) < (now.get("simulations") or 0):
        was["simulations"], further = now["simulations"], True
    paths, wanted = ({tuple(path) for path in each.get("paths") or ()} for each in (was, now))
    if paths < wanted:
        was["paths"], further = now["paths"], True
    if differences := describe(was, now):
        raise other_settings(directory, differences)
    return further


def check_same(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises InputError that names every setting in which a folder and this command differ."""
    differences = [
        f"{name}: {shown(was)} there, {shown(now)} here" for name, was, now in differing(old, new)
    ]
    if differences:
        raise other_settings(directory, differences)


def other_settings(directory: epath.PathLike, differences: Iterable[str]) -> InputError:
    """Returns the error for a directory that was created with different settings."""
    return InputError(
        f"{directory} was created with different settings ({'; '.join(differences)}): choose "
        "another directory, or repeat the old settings to resume it."
    )


def without_digests(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings without what depends on which questions are asked."""
    out = {name: value for name, value in settings.items() if name != "task"}
    if isinstance(out.get("prompt"), dict):
        out["prompt"] = {name: value for name, value in out["prompt"].items() if name != "hash"}
    if isinstance(out.get("variants"), dict):
        out["variants"] = dict.fromkeys(out["variants"])
    return out


def describe(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names each setting that differs by its flag, with both values."""
    found: dict[str, str] = {}
    fewer = (was.get("questions") or 0) > (now.get("questions") or 0)
    differences = differing(was, now)
    rules = [name for name, _, _ in differences if name.startswith("preset.")]
    if len(rules) > 1:
        found["--preset"] = f"--preset or --rules: {len(rules)} rules of the search"
        differences = [one for one in differences if one[0] not in rules]
    for name, before, after in differences:
        if name == "questions":
            found["--limit"] = f"--limit: {before} questions there, {after} here"
        elif name == "task" or name == "prompt.hash" or name.startswith("variants"):
            flag = "--variants" if name.startswith("variants") else "--task"
            if not fewer:  # what follows from there being fewer
                found.setdefault(flag, f"{flag}: {PROMPTS}")
        elif name == "paths":
            found["--paths"] = (
                f"--paths: {len(before or ())} paths there, {len(after or ())} here, which have "
                "not all of them"
            )
        else:
            found[name] = f"{flag_of(name)}: {shown(before)} there, {shown(after)} here"
    return list(found.values())


def flag_of(name: str) -> str:
    """Returns the flag of a setting, `preset.max_length` for example."""
    head, _, rest = name.partition(".")
    if head == "preset":
        name = f"rules.{rest}"
    return FLAGS.get(name) or FLAGS.get(head) or f"--{name.replace('_', '-')}"


def differing(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Lists dotted names with both values where two nested configurations differ."""
    found = []
    for name in sorted(set(old) | set(new)):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            found += differing(was, now, f"{prefix}{name}.")
        elif was != now:
            found.append((f"{prefix}{name}", was, now))
    return found
