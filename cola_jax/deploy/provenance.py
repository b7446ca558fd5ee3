"""`Provenance`: where a path was chosen, and what that has in common with where it is judged."""

import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from etils import epath

from cola_jax.deploy.path_file import PATH_FILE, PathFile, find_path_file
from cola_jax.errors import InputError, count, reading, shorten, shown
from cola_jax.files import entries, exists, inside, read_json
from cola_jax.runs.chosen_on import CHOSEN_ON, MEASURED_ON, NOTHING, ChosenOn
from cola_jax.runs.estimates import CHOSEN_BY, Estimate
from cola_jax.runs.results import BESIDE, RESULTS
from cola_jax.runs.run import MANIFEST, Run
from cola_jax.storage import path_of

UNKNOWN = "unknown"  # in place of the sources of a path
HELD_OUT = "held-out"  # folders of runs that measure
DEPTH = 2  # folders in which the runs of a command lie: of tasks, and of prompts
ASK_OTHERS = (  # in a trial
    "ask other questions (--other-questions with a larger --limit, --part held-out, or another "
    "file) in other prompts (--prompts, with --num-fewshot where the task shows no examples)"
)


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a path was chosen: files and directories with what they record, or unknown."""

    sources: tuple[str, ...] = ()
    chosen_on: ChosenOn | None = None  # None where it is unknown

    @classmethod
    def read(cls, sources: Sequence[str]) -> "Provenance":
        """Read outputs of commands that choose, or the word unknown; InputError for others."""
        if UNKNOWN not in sources:
            every = map(read_chosen_on, sources)
            return cls(tuple(sources), functools.reduce(operator.or_, every))
        if len(sources) > 1:
            others = shorten([source for source in sources if source != UNKNOWN])
            raise InputError(f"--chosen-on is {others}, or it is {UNKNOWN}: give one of the two.")
        return UNKNOWN_PROVENANCE

    @classmethod
    def of_file(cls, text: str) -> "Provenance | None":
        """Read where the path of a file such as static.json was chosen; None for other texts.

        A folder or a repository may have it as its path.json. Files of other projects are read
        later, with their own errors.
        """
        try:
            file = find_path_file(text)
        except InputError:  # of a repository that may be a model
            return None
        if file is None or not exists(file):
            return None
        try:
            chosen_on = PathFile.read(file, text).chosen
        except ValueError:
            if file.name == PATH_FILE:
                raise
            return None
        if chosen_on is None and BESIDE["static"] == file.name and is_run(file.parent):
            chosen_on = Run(file.parent).chosen_on()
        return None if chosen_on is None else cls((text,), chosen_on)

    def with_measured(self, file: str) -> "Provenance":
        """Add the held-out questions of the results of a command, where these chose a path too."""
        measured = read_json(path_of(file))["run"].get(MEASURED_ON)
        if self.chosen_on is None or measured is None:
            return self
        with reading(file):
            chosen_on = self.chosen_on | ChosenOn.from_json(measured)
        return dataclasses.replace(self, chosen_on=chosen_on)

    @property
    def names(self) -> list[str]:
        """The sources without the folders above them, which a model card may not name."""
        places = map(PurePath, self.sources)
        return ["/".join(each.parts[-2 if each.suffix == ".json" else -1 :]) for each in places]

    def note(self, measured: ChosenOn) -> str:
        """Name the questions that chose a path, and those of them on which it is measured.

        It follows the words "chosen on".
        """
        chosen = self.chosen_on
        if chosen is None:
            return UNKNOWN
        text = f"{count(len(chosen.questions), 'question')} of {shorten(self.names)}"
        if not chosen.complete:
            text += ", in prompts that were not recorded"
        common = self.overlap(measured)
        if common.questions or common.wordings:
            return f"{text}; overlap allowed: {common_text(common)} in common"
        return f"{text}, none of which it was measured on"

    def record(self) -> dict[str, Any]:
        """Return what a protocol says of it: its sources, the numbers and the digest of keys."""
        if self.chosen_on is None:
            return {"from": UNKNOWN}
        chosen = self.chosen_on
        return {
            "from": list(self.sources),
            "questions": len(chosen.questions),
            "wordings": len(chosen.wordings),
            "complete": chosen.complete,
            "digest": chosen.digest,
        }

    def overlap(self, measured: ChosenOn) -> ChosenOn:
        """Return what chose the path of that on which it is measured."""
        if self.chosen_on is None:
            return NOTHING
        return self.chosen_on.overlap(measured)

    def check(self, name: str, measured: ChosenOn, where: str, action: str = ASK_OTHERS) -> None:
        """Raise InputError where a path is measured on questions or wordings that chose it.

        `name` is that of the path, `where` says on what it is measured, and `action` what to do.
        """
        common = self.overlap(measured)
        if common.questions or common.wordings:
            raise InputError(
                f"{name} was chosen ({shorten(list(self.sources))}) on {common_text(common)} of "
                f"{where}: {action}, or give --allow-overlap, which is then stated with the result."
            )

    def estimate(self, measured: ChosenOn, group: str) -> Estimate:
        """Return how many of the questions chose the path, with a note on where it was chosen."""
        if self.chosen_on is None:
            return Estimate(CHOSEN_BY, group, unit="count", note=UNKNOWN)
        common = len(self.overlap(measured).questions)
        return Estimate.count(CHOSEN_BY, common, group=group, note=self.note(measured))


UNKNOWN_PROVENANCE = Provenance()


def common_text(common: ChosenOn) -> str:
    """State the numbers of questions and prompts in common."""
    return f"{count(len(common.questions), 'question')}, {count(len(common.wordings), 'prompt')}"


def read_chosen_on(source: str) -> ChosenOn:
    """Read the questions and wordings of the output of a command that chooses.

    It is a JSON file that the command wrote, or its directory; of runs of earlier versions, which
    have no such field, the rows tell the questions. Raises InputError for other places.
    """
    place = path_of(source)
    chosen_on = None
    if source.endswith(".json"):
        chosen_on = recorded_in(place)
        place = place.parent
    every = [chosen_on] if chosen_on is not None else list(chosen_in(place, DEPTH))
    chosen = functools.reduce(operator.or_, every, NOTHING)
    if not chosen.questions:
        raise InputError(
            f"{shown(source)} does not record on which questions a path was chosen: give the "
            "directory of the search, scan, evaluation, static path or menu that chose it, or "
            f"--chosen-on {UNKNOWN}."
        )
    return chosen


def recorded_in(file: epath.Path) -> ChosenOn | None:
    """Read the field of a file or of its run, None where it has none, as of earlier versions."""
    content = read_json(file)
    run = content.get("run")
    field = content.get(CHOSEN_ON) or (run.get(CHOSEN_ON) if isinstance(run, Mapping) else None)
    with reading(file):
        return None if field is None else ChosenOn.from_json(field)


def is_run(folder: epath.Path) -> bool:
    """Whether a folder is a run directory."""
    return exists(folder / MANIFEST)


def chosen_in(folder: epath.Path, depth: int) -> Iterator[ChosenOn]:
    """Yield the questions and wordings of the outputs in a folder, but those that measure."""
    names = entries(folder)
    for name in (*BESIDE.values(), PATH_FILE):
        if name in names and (chosen_on := recorded_in(folder / name)) is not None:
            yield chosen_on
            return
    if MANIFEST in names:  # whose rows may be more than those of results.json
        yield Run(folder).chosen_on()
        return
    if RESULTS in names and (chosen_on := recorded_in(folder / RESULTS)) is not None:
        yield chosen_on
        return
    for name in names if depth else ():
        if name != HELD_OUT and not name.startswith("."):
            yield from chosen_in(inside(folder, name), depth - 1)
