"""`cola static`, `menu` and `distill`: what serves a whole task."""

import contextlib
import dataclasses
import io
import json
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from tyro.conf import OmitArgPrefixes, arg

from cola_jax.cli.flags import (
    Command,
    DeviceChoice,
    Dtype,
    Flags,
    Model,
    Output,
    TaskChoice,
    check_one_task,
    check_output,
    group,
    open_session,
    run_with_progress,
    write_flags,
)
from cola_jax.cli.report import print_json
from cola_jax.cli.verbosity import console, log, log_devices
from cola_jax.deploy.settings import DistillSettings, MenuSettings, StaticSettings
from cola_jax.files import claimed, is_url, write_whole
from cola_jax.identity import question_digest, set_digest
from cola_jax.runs.devices import Devices
from cola_jax.tasks.task import ScorerName

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

RESULT = "static.json"


@dataclasses.dataclass(frozen=True)
class Static(Command):
    """Search one path for all questions of a task, and measure it on held-out ones."""

    flags: Flags
    settings: Annotated[OmitArgPrefixes[StaticSettings], group("Search")] = dataclasses.field(
        default_factory=StaticSettings
    )
    json: bool = False
    """Print the path and its figures as JSON, as static.json has them."""

    def run(self) -> None:
        check_one_task("static", self.flags.task)
        from cola_jax.deploy.static import find_path
        from cola_jax.report.results import static_content, static_table

        session, out = self.flags.prepare(command=self), self.flags.out
        best = run_with_progress(lambda metrics: find_path(session, out, self.settings, metrics))
        content = static_content(best, self.flags.task.task, origin_of(session))
        write_result(f"{out}/{RESULT}", content, None if self.json else static_table(content))


@dataclasses.dataclass(frozen=True)
class Menu(Command):
    """Choose a few paths that serve a task, and how to decide between them without the answer."""

    flags: Flags
    runs: tuple[str, ...]
    """Searches or evaluations of training questions, whose correct paths are candidates."""
    settings: Annotated[OmitArgPrefixes[MenuSettings], group("Menu")] = dataclasses.field(
        default_factory=MenuSettings
    )
    try_scorer: ScorerName | None = None
    """Scorer with which candidates are tried on training questions, such as exact where answers
    are decoded; the task's own by default."""
    json: bool = False
    """Print the menu and its figures as JSON, as menu.json has them."""

    def run(self) -> None:
        check_one_task("menu", self.flags.task)
        import numpy as np

        from cola_jax.deploy.menu import find_menu
        from cola_jax.deploy.rules import MENU, SELECTOR
        from cola_jax.report.results import menu_content, menu_table

        session = screen = self.flags.prepare(command=self)
        if self.try_scorer is not None:
            task = dataclasses.replace(
                self.flags.task, scorer=self.try_scorer, max_new_tokens=None, rule=None
            )
            screen = dataclasses.replace(self.flags, task=task).prepare(command=self)
            screen = dataclasses.replace(screen, handle=session.handle)  # it shares the weights
        out = self.flags.out
        menu = run_with_progress(
            lambda metrics: find_menu(session, screen, out, self.runs, self.settings, metrics)
        )
        file = io.BytesIO()
        np.savez(file, **menu.selector._asdict())
        write_whole(f"{out}/{SELECTOR}", file.getvalue())
        write_flags(out, self)
        content = menu_content(menu, origin_of(session) | {"task": self.flags.task.task})
        write_result(f"{out}/{MENU}", content, None if self.json else menu_table(content))


def write_result(file: str, content: dict[str, Any], table: Table | None) -> None:
    """Write a file of JSON, and print its table, or the JSON itself where there is none."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(file, text.encode())
    if table is None:
        print(text, end="")
    else:
        console.print(table)
    log.info("written to %s", file)


def origin_of(session: "Session") -> dict[str, Any]:
    """Return the model, the scorer and the questions that a result was found with."""
    return {
        "model": session.settings["model"],
        "num_layers": session.num_layers,
        "scorer": session.scorer.name,
        "questions": set_digest(question_digest(each.question) for each in session.encoded),
    }


@dataclasses.dataclass(frozen=True)
class Distill(Command):
    """Train a router, which names a path from the prompt alone, on the correct paths of a run."""

    model: Model
    source: Annotated[str, arg(name="run")]
    """Run directory of `cola search`, whose correct paths are learned."""
    out: Output
    """Directory of the router."""
    task: TaskChoice
    settings: Annotated[OmitArgPrefixes[DistillSettings], group("Training")] = dataclasses.field(
        default_factory=DistillSettings
    )
    dtype: Dtype = None
    """Dtype of the model's weights and activations; auto is float32 on a CPU, else the
    checkpoint's own."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)
    json: bool = False
    """Print the figures as JSON, as metrics.json has them."""

    def run(self) -> None:
        check_one_task("distill", self.task)
        check_output(self.out)
        with contextlib.nullcontext() if is_url(self.out) else claimed(self.out):
            self.train()

    def train(self) -> None:
        """Train the router, and print its effect on held-out questions."""
        from cola_jax.deploy.distill import distill
        from cola_jax.report.results import router_lines
        from cola_jax.runs.run import Run
        from cola_jax.runs.session import RunConfig

        Run(self.source).manifest()  # or it is not a run
        run_config = RunConfig(dtype=self.dtype, devices=self.devices)
        session = open_session(self.model, self.task.prepare, run_config)
        log_devices()
        distilled = distill(session, self.source, self.out, self.settings)
        write_flags(self.out, self)
        if self.json:
            print_json(distilled.to_json())
            return
        for line in router_lines(distilled):
            console.print(line, soft_wrap=True, highlight=False)
