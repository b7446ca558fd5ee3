"""Table 1 of CoLa, with controls: accuracy by search space.

`python -m experiments.paper.table1 --model CHECKPOINT --out FOLDER --task.task arc_easy.jsonl
--task.variants chat` searches every space, asks what was found again in the variants, and with
`--robust` also searches for paths that are right in all of them. Run it again to resume.
"""

import dataclasses
from typing import get_args

import tyro
from etils import epath

from cola_jax.report.table import format_percent
from cola_jax.runs.session import Session
from cola_jax.search.loop import resolve
from cola_jax.search.presets import Control, PresetName, Settings, Space
from cola_jax.tasks.task import TaskConfig
from experiments.paper.results import Result, layers, points, read, show

HEAD = (
    "space", "correct before", "after", "W→C", "net", "asked again: robust W→C", "net",
    "layers saved on C→C, net", "searched for: robust W→C", "net", "layers saved, net",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table1:
    """Search every space, and compare what they find."""

    model: str
    """Checkpoint directory."""
    out: str
    """Folder for the run directories."""
    task: TaskConfig
    preset: PresetName = "best"
    """Rules of the search, but for the kinds of edits."""
    spaces: tuple[Space, ...] = get_args(Space)
    """Kinds of edits."""
    evaluations: int = 50
    """Evaluations of a question, beyond the baseline."""
    leaves: int = 16
    """Evaluations of a question in a wave."""
    control: Control = "one"
    """Wrong answers that are searched for as well."""
    robust: bool = True
    """Also search for paths that are right in all variants."""
    decoys: str | None = None
    """Run with the model's answers on other paths, of which open questions get their decoys."""


def row(space: str, once: Result, robust: Result | None) -> list[str]:
    """Formats the row of a space."""
    one, again = once.summary, once.summary.again
    cells = [
        space, format_percent(one.before.value), format_percent(one.after.value),
        format_percent(one.corrected.value), points(one.net),
    ]  # fmt: skip
    saved = one.net_saved
    for asked in (again, robust and robust.summary.again):
        if asked is None:
            cells += ["–", "–", layers(saved) if asked is again else "–"]
            continue
        shown = saved if asked is again else asked.net_saved
        cells += [format_percent(asked.corrected.value), points(asked.net), layers(shown)]
    return cells


def main(settings: Table1) -> None:
    session = Session.prepare(
        settings.model,
        settings.task.prepare,
        metadata={"task": settings.task.task},
        decoys=settings.decoys,
    )
    rows = []
    for space in settings.spaces:
        rules = resolve(settings.preset).within(space)
        search = Settings(
            rules, settings.evaluations, settings.leaves, seed=0, control=settings.control
        )
        folder = epath.Path(settings.out)
        runs = [session.search(str(folder / space), search)]
        if settings.robust and settings.task.variants:
            runs.append(session.search(str(folder / f"{space}-robust"), search, robust=True))
        once, *robust = read(str(run.directory) for run in runs)
        rows.append(row(space, once, robust[0] if robust else None))
    show(HEAD, rows)


if __name__ == "__main__":
    main(tyro.cli(Table1, description=__doc__))
