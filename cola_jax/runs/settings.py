"""Settings of a run: whether a command may continue it, and by which flags the two differ."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from cola_jax.errors import InputError, brief, printed, shorten, shown
from cola_jax.path import format_path
from cola_jax.question import digest
from cola_jax.runs.chosen_on import PRIOR_CHOSEN_ON, PRIOR_DIGEST
from cola_jax.tasks.wordings import PLAIN

FLAGS = {
    "strategy": "--preset",
    "questions": "--limit",
    "prompt.format": "--format",
    "prompt.num_fewshot": "--num-fewshot",
    "prompt.shots": "--shots-file",
    "prompt": "--format",
    "prompt_set": "--shots-seed",
    "grader": "the grader",
    "rules.parts": "--parts",
    "rules.shares": "--shares",
}
FIRST_STREAM = 1
# digests of questions and prompts, which other settings decide; runs of earlier versions have other
# ones than this, and those that both have are compared
DIGESTS = (
    *("questions_digest", "shots_digest", "prompts_digest"),
    *("choosing_digest", "choosing_shots"),
    *("task", "prompt.hash"),  # of earlier versions
)

PRIOR = (PRIOR_DIGEST, PRIOR_CHOSEN_ON)  # beside `prior`, the edits


def continues(
    directory: epath.PathLike,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    models: tuple[Any, Any] = (None, None),
) -> bool:
    """Return whether new settings need more evaluations of each question of a run.

    More questions are evaluated beside those that are done; a larger search starts anew, with the
    evaluations of the run. InputError names by its flag each setting that differs otherwise, but
    for digests of the questions, which are compared one by one first (see `check_digests`).
    `models` are the names of the models of the run and of this command.
    """
    if old.get("command") != new.get("command"):
        raise InputError(
            f"{directory} was made by `cola {printed(str(old.get('command')))}`, not by `cola "
            f"{new.get('command')}`: choose another directory."
        )
    if any(old.get(name) and not new.get(name) for name in ("variants", "robust")):
        raise InputError(
            f"{directory} was made by an earlier version, with --variants: `cola report` reads it, "
            "but no command resumes it; choose another directory, and ask again in --prompts other "
            "wordings."
        )
    if exits := (old.get("preset") or {}).get("exits"):
        raise InputError(
            f"{directory} was made by an earlier version, with --rules.exits {exits}: `cola "
            f"report` reads it, but no command resumes it; choose another directory, with --reuse "
            f"{directory} for its evaluations."
        )
    check_steps(directory, old, new)
    if differences := named_differences(old, new, models):
        raise other_settings(directory, differences)
    return asks_more(old, new)


def check_steps(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise InputError where a run of whole layers is resumed with other steps, or the reverse."""
    if bool(old.get("steps")) == bool(new.get("steps")):
        return
    kinds = ("paths with parts or shares of layers", "paths of whole layers alone")
    there, here = kinds if old.get("steps") else reversed(kinds)
    reuse = f", with --reuse {directory} for its evaluations" * (new.get("command") == "search")
    raise InputError(
        f"{directory} has {there}, and this command has {here} (--parts, --shares or --paths): "
        f"choose another directory{reuse}."
    )


def stream_of(settings: Mapping[str, Any]) -> int:
    """Return the stream of random numbers of searches, which earlier versions did not record."""
    return settings.get("stream", FIRST_STREAM)


def asks_more(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether new settings need more evaluations of each question than old ones."""
    return any(grows(name, old.get(name), new.get(name)) for name in ("simulations", "paths"))


def check_digests(
    directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Raise InputError where a run of as many questions has others, or asks them differently.

    It asks more questions again in the same wordings, too.
    """
    changes = differing(as_flags(old), as_flags(new))
    names = [name for name in digests_in(changes) if None not in changes[name]]
    if "prompts_digest" in names and "questions" in changes:
        raise other_settings(directory, ["--prompts: other wordings there than here"])
    if "questions" not in changes and names:
        task = f"--task: other questions or prompts there than here (digest of {names[0]})"
        raise other_settings(directory, [task])


def named_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], models: tuple[Any, Any] = (None, None)
) -> list[str]:
    """Describe the settings that differ by their flags, but for digests and what may grow."""
    changes = differing(as_flags(old), as_flags(new))
    for name in digests_in(changes):
        del changes[name]
    if None not in models and models[0] != models[1] and "model" in changes:
        changes["model"] = models
    if "strategy" in changes:  # which has a stream of its own
        changes.pop("stream", None)
    if "prompt.num_fewshot" in changes:
        changes.pop("prompt.shots", None)
    if "scorer" in changes:  # which has settings of its own
        changes = {name: both for name, both in changes.items() if None not in both}
    differences: dict[str, str] = {}
    for name, (was, now) in changes.items():
        flag = flag_of(name)
        # the name of a choice explains the other differences under its flag
        if grows(name, was, now) or (flag in differences and not name.endswith(".name")):
            continue
        differences[flag] = (
            f"{flag}: {setting_text(name, was)} there, {setting_text(name, now)} here"
        )
    return list(differences.values())


def as_flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the values of flags in place of the records of prompts."""
    out = dict(settings)
    prompt = dict(out.pop("prompt", None) or PLAIN)
    style = prompt.get("format")
    shots = prompt.pop("shots", ())
    style = {"name": style} if not isinstance(style, Mapping) else dict(style)
    style.pop("shots", None)  # their number, as of `prompt`
    count = prompt.pop("num_fewshot", None)
    prompt |= {"format": style, "num_fewshot": len(shots) if count is None else count}
    if shots:
        prompt["shots"] = list(shots)
    out["prompt"] = prompt
    out["chat"] = bool(out.get("chat"))
    prior = out.pop("prior", None)
    own = out.get(PRIOR_DIGEST)
    for name in PRIOR:
        out.pop(name, None)
    if prior:
        out["prior"] = own or digest(prior)
    out["stream"] = stream_of(settings)
    if drawn := out.pop("choose_prompts", None):
        out |= {"choose_prompts": len(drawn), **drawn_digests(drawn)}
    return out


def drawn_digests(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the digest of the records of drawn prompts, and that of the texts of their shots."""
    name = "shots_digest"  # which runs of earlier versions lack
    shots = [record[name] for record in records if name in record]
    rest = [{key: x for key, x in record.items() if key != name} for record in records]
    return {"choosing_digest": digest(rest)} | ({"choosing_shots": digest(shots)} if shots else {})


def again_count(settings: Mapping[str, Any]) -> int:
    """Return the number of other wordings in which a search asked again."""
    return settings.get("prompts") or len(settings.get("variants") or ())  # of earlier versions


def again_digest(settings: Mapping[str, Any]) -> str | None:
    """Return the digest of the wordings in which a search asked again, None for none."""
    variants = settings.get("variants")
    return settings.get("prompts_digest") or (digest(sorted(variants)) if variants else None)


def digests_in(changes: Mapping[str, Any]) -> list[str]:
    """List the dotted names of digests that other settings or the questions decide."""
    return [name for name in changes if name.startswith(DIGESTS)]


def grows(name: str, was: Any, now: Any) -> bool:
    """Return whether a setting asks for more of the same, or in a later stream."""
    if name == "stream":  # for the questions that are not done; see `Run.check_streams`
        return was < now
    if name == "paths":
        return set(map(tuple, was or ())) < set(map(tuple, now or ()))  # texts by their characters
    return name in ("questions", "simulations") and (was or 0) < (now or 0)


def check_same(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise InputError that names every setting in which a folder and this command differ."""
    if changes := differing(old, new):
        texts = (f"{n}: {shown(was)} there, {shown(now)} here" for n, (was, now) in changes.items())
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
    if head == "preset":
        name = f"rules.{rest}"
    first = ".".join(name.split(".")[:2])
    return FLAGS.get(first) or FLAGS.get(head) or f"--{name.replace('_', '-')}"


def setting_text(name: str, value: Any) -> str:
    """Write the value of a setting as its flag takes it."""
    if value is None or isinstance(value, bool):
        return {None: "not given", True: "on", False: "off"}[value]
    if name == "paths":
        return shorten([p if isinstance(p, str) else format_path(p) for p in value])
    return brief(value) if isinstance(value, str) else shown(value)


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values where two nested configurations differ, by dotted names.

    A setting that one of them lacks, as of another version, has its default there: none, or off.
    """
    changes = {}
    for name in sorted({*old, *new}):
        was = old.get(name)
        now = new.get(name)
        is_missing = name not in old or name not in new
        if is_missing and not was and not now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            changes |= {f"{name}.{rest}": both for rest, both in differing(was, now).items()}
        elif was != now:
            changes[name] = was, now
    return changes
