"""Settings of runs: what a manifest holds, which continue a run, and whose results go together."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from etils import epath
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cola_jax.config import MOST_LAYERS
from cola_jax.errors import InputError, printed, shown
from cola_jax.scoring.encode import Encoded

if TYPE_CHECKING:
    from cola_jax.runs.run import Run

Count = Annotated[int, Field(ge=0)]
Layer = Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
OF_PATHS = ("evaluate", "generate", "scan")  # commands that evaluate the same paths
COMMANDS = ("search", *OF_PATHS)
FLAGS = {
    "strategy": "--preset",
    "questions": "--limit",
    "task": "--task",
    "prompt": "--format",
    "prompt.shots": "--num-fewshot",
    "prompt.hash": "--task",
    "grader": "the version of math-verify",
}
DECIDE = ("model", "dtype", "scorer", "rule", "grader", "max_new_tokens", "chat")
ASKED = ("format", "shots")  # how a question is asked, beside `chat`
# what may differ where the paths of a run are only tried again
ANY_SCORER = (*DECIDE[1:], *ASKED, "prompt")


class Stored(BaseModel):
    """What readers of a run rely on; other fields may be there, and are shown as they are."""

    model_config = ConfigDict(strict=True)


class Start(Stored):
    """What is recorded of a start."""

    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] | None = None
    origin: dict[str, Any] | None = None
    scorer: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    metrics: dict[str, float | None] | None = None


class PromptFormat(Stored):
    """How open questions are asked."""

    name: str


class Prompt(Stored):
    """What decides the prompts."""

    format: str | PromptFormat
    shots: list[str] | None = None
    num_fewshot: Count | None = None


class RunSettings(Stored):
    """What decides the rows of a run."""

    command: str | None = None
    questions: Count | None = None
    simulations: Count | None = None
    paths: list[Annotated[list[Layer], Field(min_length=1)]] | None = None
    strategy: str | None = None
    preset: dict[str, Any] | None = None
    prompt: Prompt | None = None
    scorer: str | None = None
    variants: dict[str, str] | None = None


class Manifest(Stored):
    """The settings of a run, and its starts."""

    settings: RunSettings
    starts: list[Start]

    @model_validator(mode="after")
    def is_whole(self) -> "Manifest":
        """Refuses a manifest without what its command records, and paths of other models."""
        if not self.starts:
            return self
        settings, layers = self.settings, self.starts[-1].num_layers
        if settings.command in COMMANDS and None in (layers, settings.questions):
            raise InputError("it does not say how many layers the model has, or how many questions")
        if settings.command in OF_PATHS and not settings.paths:
            raise InputError("it names no paths")
        largest = max((max(path) for path in settings.paths or ()), default=0)
        if layers is not None and largest >= layers:
            raise InputError(f"it has a path of layer {largest}, but the model has {layers} layers")
        return self


def continues(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether each question of a run has to be evaluated further under new settings.

    More questions are evaluated beside those that are done. More evaluations of each question are
    a search of its own, which takes from the run what that has evaluated.

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
    before, count = was.get("questions"), now.get("questions", 0)
    if isinstance(before, int) and before != count:
        # the questions that a run has are compared one by one
        was, now = without_digests(was), without_digests(now)
        was["questions"] = max(before, count)
    if (was.get("simulations") or 0) < (now.get("simulations") or 0):
        was["simulations"], further = now["simulations"], True
    paths, wanted = ({tuple(path) for path in each.get("paths") or ()} for each in (was, now))
    if paths < wanted:
        was["paths"], further = now["paths"], True
    check_same(directory, was, now, flag_of)
    return further


def check_same(
    directory: epath.PathLike,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    named: Callable[[str], str] = str,
) -> None:
    """Raises InputError that names every setting in which a folder and this command differ."""
    differences: dict[str, str] = {}
    for name, was, now in differing(old, new):
        flag = named(name)
        if flag not in differences or name.endswith(".name"):  # what a flag chooses differs with it
            differences[flag] = f"{flag}: {shown(was)} there, {shown(now)} here"
    if differences:
        raise other_settings(directory, differences.values())


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


def flag_of(name: str) -> str:
    """Returns the flag of a setting, `preset.max_length` for example."""
    head, _, rest = name.partition(".")
    if head in ("preset", "variants"):
        name = f"rules.{rest}" if head == "preset" else head
    return FLAGS.get(name) or FLAGS.get(head) or f"--{name.replace('_', '-')}"


def differing(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Lists dotted names with both values where two nested configurations differ."""
    out = []
    for name in sorted(set(old) | set(new)):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            out += differing(was, now, f"{prefix}{name}.")
        elif was != now:
            out.append((f"{prefix}{name}", was, now))
    return out


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


def asked_by_run(run: "Run") -> Asked:
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
