"""`cola static`, `menu`, `distill` and `lm-eval`: results that serve a whole task."""

import dataclasses
import functools
import importlib.util
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from cola_jax.cli.flags import (
    Command,
    DeviceChoice,
    DtypeChoice,
    Flags,
    Model,
    Output,
    RunFlags,
    Shares,
    TaskChoice,
    group,
    keeping,
    log_devices,
    open_session,
    run_with_progress,
    yaml_of,
)
from cola_jax.cli.prompts import TaskCommand
from cola_jax.cli.results import print_results, write_report
from cola_jax.deploy.settings import MenuSettings, StaticSettings
from cola_jax.engine.devices import Devices
from cola_jax.errors import InputError
from cola_jax.extras.settings import DistillSettings
from cola_jax.files import (
    check_writable,
    claimed,
    readable_json,
    write_whole,
)
from cola_jax.layer_costs import part_fractions, read_layer_costs
from cola_jax.progress import log
from cola_jax.question import digest, question_digest
from cola_jax.storage import path_of
from cola_jax.tasks.scorers import DECODING
from cola_jax.tasks.task import ScorerName, TaskConfig

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

RESULT = "static.json"
CONFIG = "config.yaml"  # flags, for --config
UNKEPT = "the harness keeps answers with --use_cache alone, and then goes on with the same command."


@dataclasses.dataclass(frozen=True)
class StaticFlags(StaticSettings):
    """Rules of the search for one path."""

    shares: Shares = ()
    """Shares of a layer's update, such as 0.5,0.25, that a path may add in place of all of it."""


@dataclasses.dataclass(frozen=True)
class Static(TaskCommand):
    """Search one path for all questions of a task, and measure it on held-out ones."""

    flags: Flags
    settings: Annotated[OmitArgPrefixes[StaticFlags], group("Search")] = dataclasses.field(
        default_factory=StaticFlags
    )
    layer_costs: Path | None = None
    """File of `cola benchmark --layers`, or a JSON list of milliseconds by layer: the cost of a
    path, in place of its number of layers, for --max-cost and between paths as good."""

    def asked(self) -> tuple[str, list[TaskConfig]]:
        return self.flags.model, [self.flags.over_prompts().task]

    def run_task(self) -> None:
        from cola_jax.deploy.path_file import name_of_length
        from cola_jax.deploy.static import find_path, static_estimates
        from cola_jax.path import format_path
        from cola_jax.runs.results import Results
        from cola_jax.runs.session import facts_of

        flags = self.flags.over_prompts()
        session, out = flags.prepare(command=self), flags.out
        model = session.model
        fractions = part_fractions(model.config) if self.settings.has_steps else None
        costs = read_layer_costs(self.layer_costs, model.config.num_layers, model.digest, fractions)
        prompts = flags.measuring(session, self)
        best = run_with_progress(
            lambda metrics: find_path(session, out, self.settings, metrics, prompts, costs)
        )
        facts = facts_of(session, command="static", **self.settings.record())
        chosen_on = session.chosen_on().field()
        recorded = facts.to_json() | size_of(prompts) | chosen_on
        if self.settings.has_steps:  # by which the paths of other costs are weighed
            recorded["settings"] |= {"layer_costs": costs.milliseconds, "part_costs": costs.parts}
        results = Results(static_estimates(best, self.settings.fitness), recorded)
        write_report(results, path_of(out))
        chosen = {
            "path": format_path(best.recommended),  # to use
            name_of_length(best.recommended): len(best.recommended),
            "found": format_path(best.chosen.path),  # to try
        }
        origin = origin_of(session) | {"task": flags.task.task}
        origin |= {"wordings": wordings_of(session), "budget": self.budget(best.evaluated)}
        write_used(f"{out}/{RESULT}", chosen | origin | chosen_on)
        print_results(results, as_json=self.json)

    def budget(self, tried: int) -> dict[str, Any]:
        """Return within what a path was searched, and how many were tried on all questions."""
        names = ("generations", "offspring", "max_layers", "max_cost")
        limits = {name: getattr(self.settings, name) for name in names}
        limits = {name: x for name, x in limits.items() if x is not None}
        if self.settings.parts:
            limits["parts"] = True
        if self.settings.shares:
            limits["shares"] = ",".join(f"{share:g}" for share in self.settings.shares)
        return limits | {"paths_tried": tried}


@dataclasses.dataclass(frozen=True)
class Menu(TaskCommand):
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

    def asked(self) -> tuple[str, list[TaskConfig]]:
        return self.flags.model, [self.flags.over_prompts().task]

    def run_task(self) -> None:
        from cola_jax.deploy.menu import find_menu, menu_chosen_on, menu_estimates
        from cola_jax.deploy.rules import MENU, SELECTOR
        from cola_jax.runs.results import Results
        from cola_jax.runs.session import facts_of

        flags = self.flags.over_prompts()
        session = screen = flags.prepare(command=self)
        prompts = flags.measuring(session, self)
        if self.try_scorer is not None:
            usual = {name: getattr(TaskConfig, name) for name in DECODING}
            task = dataclasses.replace(flags.task, scorer=self.try_scorer, **usual)
            screen = dataclasses.replace(flags, task=task).prepare(command=self)
            screen = dataclasses.replace(screen, model=session.model)  # it shares the weights
        out, settings = flags.out, self.settings
        menu = run_with_progress(
            lambda metrics: find_menu(session, screen, out, self.runs, settings, metrics, prompts)
        )
        write_whole(f"{out}/{SELECTOR}", menu.selector.content)
        write_whole(f"{out}/{CONFIG}", yaml_of(self).encode())
        content = menu.to_json() | origin_of(session) | {"task": flags.task.task}
        facts = facts_of(session, command="menu", paths=content["paths"])
        chosen_on = menu_chosen_on([session, screen], self.runs).field()
        content |= chosen_on
        recorded = facts.to_json() | size_of(prompts) | chosen_on
        results = Results(menu_estimates(menu), recorded)
        write_report(results, path_of(out))
        write_used(f"{out}/{MENU}", content)
        print_results(results, as_json=self.json)


def write_used(file: str, content: dict[str, Any]) -> None:
    """Write what other commands use of a result."""
    write_whole(file, f"{readable_json(content)}\n".encode())
    log.info("written to %s", file)


def size_of(prompts: "Sequence[Session]") -> dict[str, Any]:
    """Return the numbers and the keys of the held-out questions and of their prompts."""
    from cola_jax.runs.chosen_on import MEASURED_ON
    from cola_jax.runs.session import held_out_of

    measured_on = functools.reduce(operator.or_, (each.measured_on() for each in prompts))
    size = {"held_out": len(held_out_of(prompts[0])), "prompts": len(prompts)}
    return size | {MEASURED_ON: measured_on.to_json()}


def origin_of(session: "Session") -> dict[str, Any]:
    """Return the model, the scorer and the questions that a result was found with."""
    return {
        "model": session.model.digest,
        "model_name": session.model.identity.name,
        "model_dtype": session.model.identity.dtype,
        "num_layers": session.model.config.num_layers,
        "scorer": session.asked.scorer.name,
        "questions": digest(sorted(map(question_digest, session.asked.questions))),
    }


def wordings_of(session: "Session") -> list[dict[str, Any]]:
    """Say in which wordings a session asks to choose."""
    from cola_jax.runs.chosen_on import wordings_in
    from cola_jax.tasks.wordings import wording_facts

    return [wording_facts(record) for record in wordings_in(session.settings)]


@dataclasses.dataclass(frozen=True)
class Distill(TaskCommand):
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
    dtype: DtypeChoice = None
    """Dtype of the model's weights and activations; auto is float32 on a CPU, else the
    checkpoint's own."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)

    def asked(self) -> tuple[str, list[TaskConfig]]:
        return self.model, [self.task]

    def run_task(self) -> None:
        check_writable(self.out)
        with claimed(self.out):
            self.train()

    def train(self) -> None:
        """Train the router, and print its effect on held-out questions."""
        from cola_jax.extras.distill import distill
        from cola_jax.extras.router import Record
        from cola_jax.runs.chosen_on import CHOSEN_ON
        from cola_jax.runs.results import Results
        from cola_jax.runs.run import Run
        from cola_jax.runs.session import facts_of, prepare_prompts

        Run(self.source).facts()  # or it is not a run
        run = RunFlags(dtype=self.dtype, devices=self.devices)
        session = open_session(self.model, self.task.prepare, run, {"task": self.task.task})
        prompts, task = [session], self.task
        if task.measures_in_several:
            prompts = prepare_prompts(session.model, task, session.engine)
        log_devices()
        # the network is trained on the devices of the model
        fewest = min(len(each.asked) for each in prompts)
        session.model.load(self.devices.mesh(fewest))
        distilled = distill(session, self.source, self.out, self.settings, prompts)
        write_whole(f"{self.out}/{CONFIG}", yaml_of(self).encode())
        facts = facts_of(session, command="distill", **dataclasses.asdict(self.settings))
        size = {"held_out": len(distilled.right), "prompts": len(prompts)}
        size |= {CHOSEN_ON: Record.read(self.out).chosen_on}
        results = Results(distilled.estimates(), facts.to_json() | size)
        write_report(results, path_of(self.out))
        print_results(results, as_json=self.json, whole=True)
        if distilled.warning is not None:
            log.warning(distilled.warning)


@dataclasses.dataclass(frozen=True)
class LmEval(Command):
    """Run lm-evaluation-harness with the model `cola`; all arguments are the harness's own."""

    arguments: tuple[str, ...] = ()
    """Such as --model cola --model_args checkpoint=DIRECTORY,path=0-5,8-29 --tasks arc_easy."""

    def run(self) -> None:
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError(
                "lm-evaluation-harness is not installed: pip install 'cola-jax[lm-eval]'."
            )
        from lm_eval.__main__ import cli_evaluate

        from cola_jax.deploy.lm_eval import join_path  # registers the model `cola`
        from cola_jax.extras import routed_lm  # noqa: F401  registers the model `cola-router`

        before = sys.argv
        # the harness reads its command line from nowhere else
        sys.argv = ["lm-eval", *(join_path(argument) for argument in self.arguments)]
        try:
            with keeping(UNKEPT):
                cli_evaluate()
        finally:
            sys.argv = before
