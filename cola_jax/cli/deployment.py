"""`cola static`, `menu`, `distill`, `export` and `lm-eval`: results that serve a whole task."""

import dataclasses
import functools
import importlib.util
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import OmitArgPrefixes, arg

from cola_jax.cli.flags import (
    Command,
    DeviceChoice,
    DtypeChoice,
    Flags,
    HubChoice,
    HubFlags,
    Model,
    Output,
    RunFlags,
    TaskChoice,
    checkpoint_of,
    console,
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
    check_apart,
    check_writable,
    claimed,
    exists,
    readable_json,
    write_whole,
    written_bytes,
)
from cola_jax.layer_costs import read_layer_costs
from cola_jax.progress import byte_bar, log
from cola_jax.question import digest, question_digest
from cola_jax.storage import path_of
from cola_jax.tasks.scorers import DECODING
from cola_jax.tasks.task import ScorerName, TaskConfig

if TYPE_CHECKING:
    from cola_jax.deploy.effect import ReportedEffect
    from cola_jax.deploy.front import Front
    from cola_jax.formats.identity import Identity
    from cola_jax.path import LayerPath
    from cola_jax.runs.chosen_on import ChosenOn
    from cola_jax.runs.session import Session

RESULT = "static.json"
CONFIG = "config.yaml"  # flags, for --config
ENGINES = ("vllm", "exllamav3")  # that run a path on the base model's weights
# formats of an export that a flag is for
FITTING = {
    "source": ("mergekit", "gguf", *ENGINES),
    "effect": ("hf", "peft", *ENGINES),
    "push_to_hub": ("hf", "peft", *ENGINES),
}
UNKEPT = "the harness keeps answers with --use_cache alone, and then goes on with the same command."


@dataclasses.dataclass(frozen=True)
class Static(TaskCommand):
    """Search one path for all questions of a task, and measure it on held-out ones."""

    flags: Flags
    settings: Annotated[OmitArgPrefixes[StaticSettings], group("Search")] = dataclasses.field(
        default_factory=StaticSettings
    )
    layer_costs: Path | None = None
    """File of `cola benchmark --layers`, or a JSON list of milliseconds by layer: the cost of a
    path, in place of its number of layers, for --max-cost and between paths as good."""

    def asked(self) -> tuple[str, list[TaskConfig]]:
        return self.flags.model, [self.flags.over_prompts().task]

    def run_task(self) -> None:
        from cola_jax.deploy.static import find_path, static_estimates
        from cola_jax.path import format_path
        from cola_jax.runs.results import Results
        from cola_jax.runs.session import facts_of

        flags = self.flags.over_prompts()
        session, out = flags.prepare(command=self), flags.out
        model = session.model
        costs = read_layer_costs(self.layer_costs, model.config.num_layers, model.digest)
        prompts = flags.measuring(session, self)
        best = run_with_progress(
            lambda metrics: find_path(session, out, self.settings, metrics, prompts, costs)
        )
        facts = facts_of(session, command="static", **dataclasses.asdict(self.settings))
        chosen_on = session.chosen_on().field()
        recorded = facts.to_json() | size_of(prompts) | chosen_on
        results = Results(static_estimates(best, self.settings.fitness), recorded)
        write_report(results, path_of(out))
        chosen = {
            "path": format_path(best.recommended),  # to use
            "layers": len(best.recommended),
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
        return {name: x for name, x in limits.items() if x is not None} | {"paths_tried": tried}


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


class Measured(NamedTuple):
    """What is known of a path that is exported."""

    effects: "Sequence[ReportedEffect]"
    budget: dict[str, str] | None  # for which it was chosen, of a front
    chosen_on: "ChosenOn | None"


@dataclasses.dataclass(frozen=True)
class Export(Command):
    """Write a path as a model that other programs load."""

    model: Model
    path: str
    """Path such as 0-5,7,7,8-29, a JSON file with the field path, a folder with a path.json, or a
    repository OWNER/NAME of the Hub with one."""
    out: Annotated[str, arg(name="output", aliases=["-o"], metavar="DESTINATION")]
    """Directory to make, or file (mergekit, gguf), or a gs:// or s3:// URL."""
    format: Literal["hf", "peft", "mergekit", "gguf", "vllm", "exllamav3"] = "hf"
    """A Hugging Face checkpoint, a PEFT adapter that repeats layers of its base without copies, a
    recipe for mergekit, or a GGUF file for llama.cpp; or a path.json without weights, and the
    command with which vLLM or exllamav3 runs the path on the base model."""
    source: str | None = None
    """What a recipe or an engine loads (Hub id or directory), or the .gguf file to copy tensors
    from; what the checkpoint was converted from by default."""
    max_cost: str | None = None
    """With --path static.json of `cola static`: take the path of its front that is best on held-out
    questions within a cost, a share of the model's such as 80%, or a time such as 12.5ms. The model
    card has its measured effect."""
    layer_costs: Path | None = None
    """With --max-cost: file of `cola benchmark --layers`, where the search had none."""
    effect: Path | None = None
    """The results.json of `cola static`, `evaluate` or `verify` with the measured effect of the
    path, for the model card and the Hub's evaluation results."""
    chosen_on: tuple[str, ...] = ()
    """With --effect of `cola evaluate`, or for a path.json: where the path was chosen, outputs of
    `cola search`, `scan` or `menu`, or the word unknown; static.json and path.json record it."""
    allow_overlap: bool = False
    """State an effect on questions or prompts that chose the path; the model card says so."""
    repository: HubChoice = dataclasses.field(default_factory=HubFlags)

    def run(self) -> None:
        from cola_jax.checkpoint import read_metadata
        from cola_jax.deploy.path_file import read_path
        from cola_jax.formats.identity import Identity
        from cola_jax.path import format_path

        if exists(self.model):
            check_apart(self.out, self.model)
        given = vars(self) | {"push_to_hub": self.repository.push_to_hub}
        for flag, formats in FITTING.items():
            if given[flag] and self.format not in formats:
                name = flag.replace("_", "-")
                fitting = f"{', '.join(formats[:-1])} or {formats[-1]}"
                raise InputError(f"--{name} is for --format {fitting}, not {self.format}.")
        self.repository.check(self.out)
        directory = checkpoint_of(self.model)
        metadata = read_metadata(directory)
        num_layers = metadata["config"]["num_layers"]
        if self.max_cost is None and self.layer_costs is not None:
            raise InputError("--layer-costs are for a path within --max-cost: give it as well.")
        if self.max_cost is None:
            path = read_path(self.path, num_layers, Identity.of(metadata))
        else:
            path = self.front(Identity.of(metadata)).best(self.max_cost).path
        write = {
            "hf": self.write_hf,
            "peft": self.write_hf,
            "mergekit": self.write_recipe,
            "gguf": self.write_gguf,
            **dict.fromkeys(ENGINES, self.write_path),
        }
        command = write[self.format](directory, metadata, path)
        size = written_bytes(self.out) / 1e6
        console.print(
            f"{self.out}: path {format_path(path)}, {len(path)} layers of {num_layers}, "
            f"{size:,.1f} MB",
            soft_wrap=True,
        )
        if command is not None:
            console.print(command, soft_wrap=True)
        self.repository.push(self.out, "model")

    def front(self, model: "Identity") -> "Front":
        """Read the front of `cola static`; InputError for other files, and for another model."""
        from cola_jax.deploy.front import Front
        from cola_jax.deploy.path_file import PathFile

        if not self.path.endswith(RESULT):
            raise InputError(
                "--max-cost takes a path from the front of `cola static`: give its static.json as "
                f"--path, not {self.path}."
            )
        named = PathFile.read(self.path)
        model.check(self.path, named.model, named.model_name, named.model_dtype)
        return Front.read(self.path, self.layer_costs)

    def write_hf(self, directory: str, metadata: dict[str, Any], path: "LayerPath") -> None:
        """Write a Hugging Face checkpoint or a PEFT adapter, with a model card."""
        from cola_jax.deploy.adapter import export_adapter
        from cola_jax.deploy.export import export

        measured = self.measured(metadata, path)
        is_measured = self.effect is not None or self.max_cost is not None
        if not is_measured and (self.chosen_on or self.allow_overlap):
            raise InputError("--chosen-on and --allow-overlap are for --effect: leave them out.")
        with byte_bar(f"exporting {self.model}") as on_progress:
            write = export_adapter if self.format == "peft" else export
            write(directory, path, self.out, effects=measured.effects, on_progress=on_progress)

    def write_path(self, directory: str, metadata: dict[str, Any], path: "LayerPath") -> str:
        """Write a path.json, with a model card; return the command of the engine."""
        from cola_jax.deploy.path_folder import export_path

        measured = self.measured(metadata, path)
        if self.effect is None and self.max_cost is None and self.allow_overlap:
            raise InputError("--allow-overlap is for --effect: leave it out.")
        return export_path(
            metadata,
            path,
            self.out,
            self.format,
            source=self.source,
            given=self.path,
            sources=self.chosen_on,
            chosen_on=measured.chosen_on,
            budget=measured.budget,
            effects=measured.effects,
        )

    def measured(self, metadata: dict[str, Any], path: "LayerPath") -> "Measured":
        """Read the measured effects of the path, and where it was chosen."""
        from cola_jax.deploy.model_card import read_effects
        from cola_jax.deploy.provenance import Provenance
        from cola_jax.formats.identity import Identity

        effect = self.effect
        effects: list[ReportedEffect] = []
        budget = None
        given = Provenance.read(self.chosen_on) if self.chosen_on else None
        provenance = given or Provenance.of_file(self.path)
        if self.max_cost is not None:
            front = self.front(Identity.of(metadata))
            budget = front.budget(self.max_cost).facts()
            effect = effect or Path(front.source)
            if provenance is not None:
                provenance = provenance.with_measured(front.source)
        if effect is not None:
            effects = read_effects(
                effect,
                path,
                metadata["config"]["num_layers"],
                metadata["digest"],
                # results of the front name what chose it themselves
                provenance=given if self.effect is None else provenance,
                allow_overlap=self.allow_overlap,
                budget=budget,
            )
        return Measured(effects, budget, provenance and provenance.chosen_on)

    def write_recipe(self, directory: str, metadata: dict[str, Any], path: "LayerPath") -> None:
        """Write a recipe for mergekit."""
        from cola_jax.config import ModelConfig
        from cola_jax.deploy.export import write_recipe

        name, origin = self.source, metadata["origin"]
        if name is None and origin["kind"] == "directory":
            name = origin["name"]
            log.warning("the recipe names a local directory; give --source a Hub id to share it")
        elif name is None and origin["kind"] == "hub":
            name = f"{origin['name']}@{origin['revision']}"
        if name is None:
            raise InputError(
                f"{self.model} was converted from a {origin['kind']} file, which mergekit cannot "
                "read: give --source the Hub id or directory of the same model in Hugging Face "
                "layout."
            )
        write_recipe(path, ModelConfig.from_json(metadata["config"]), name, self.out)

    def write_gguf(self, directory: str, metadata: dict[str, Any], path: "LayerPath") -> None:
        """Write a GGUF file."""
        from cola_jax.extras.export_gguf import export_gguf
        from cola_jax.formats import demo_model

        name, kind = metadata["origin"]["name"], metadata["origin"]["kind"]
        if self.source is None and metadata["origin"].get("package"):
            name = demo_model.find_file()
        if self.source is None and not (kind == "gguf" and Path(name).is_file()):
            raise InputError(
                f"{self.model} was converted from {name}, which is not a GGUF file that exists "
                "here: give --source the .gguf file that it was converted from."
            )
        export_gguf(Path(self.source or name), path, self.out, directory)


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
