"""`cola static`, `menu`, `distill`, `export` and `lm-eval`: use what searches found."""

import contextlib
import dataclasses
import importlib.util
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    check_task,
    checkpoint_of,
    console,
    group,
    run_with_progress,
    write_config,
)
from cola_jax.cli.report import print_json
from cola_jax.cli.signals import keeping
from cola_jax.cli.verbosity import errors, log, log_devices
from cola_jax.deploy.settings import MenuSettings, StaticSettings
from cola_jax.errors import InputError, first_line, shown
from cola_jax.files import check_apart, claimed, is_url, read_json, write_whole
from cola_jax.runs.devices import Devices
from cola_jax.tasks.task import ScorerName

if TYPE_CHECKING:
    from rich.table import Table

    from cola_jax.config import ModelConfig
    from cola_jax.deploy.router.distill import DistillConfig
    from cola_jax.runs.session import Session

RESULT = "static.json"
# formats of an export that a flag is for; GGUF cannot share, as llama.cpp refuses shared tensors
FITTING = {"source": ("mergekit", "gguf"), "effect": ("hf",), "share": ("hf",)}
UNKEPT = "the harness keeps answers with --use_cache alone, and then goes on with the same command."


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
        from cola_jax.deploy.task_path import find_path
        from cola_jax.identity import question_digest, set_digest
        from cola_jax.report.deployed import static_json, static_table

        session = self.flags.prepare(command=self)
        found = run_with_progress(
            lambda metrics: find_path(session, self.flags.out, self.settings, metrics)
        )
        questions = set_digest(question_digest(each.question) for each in session.encoded)
        about = origin_of(session) | {"questions": questions}
        content = static_json(found, self.flags.task.task, about)
        write_result(
            f"{self.flags.out}/{RESULT}", content, None if self.json else static_table(found)
        )


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
        import io

        import numpy as np

        from cola_jax.deploy.menu_file import MENU, SELECTOR
        from cola_jax.deploy.task_menu import find_menu
        from cola_jax.report.deployed import menu_json, menu_table

        session = screen = self.flags.prepare(command=self)
        if self.try_scorer is not None:
            task = dataclasses.replace(
                self.flags.task, scorer=self.try_scorer, max_new_tokens=None, rule=None
            )
            screen = dataclasses.replace(self.flags, task=task).prepare(command=self)
            screen = dataclasses.replace(screen, whole=session)  # it shares the weights
        menu = run_with_progress(
            lambda metrics: find_menu(
                session, screen, self.flags.out, self.runs, self.settings, metrics
            )
        )
        about = origin_of(session) | {"task": self.flags.task.task}
        file = io.BytesIO()
        np.savez(file, **menu.selector._asdict())
        write_whole(f"{self.flags.out}/{SELECTOR}", file.getvalue())
        write_config(self.flags.out, self)
        content = menu_json(menu, about)
        write_result(f"{self.flags.out}/{MENU}", content, None if self.json else menu_table(menu))


def write_result(file: str, content: str, table: "Table | None") -> None:
    """Write a file of JSON, and print its table, or the JSON itself where there is none."""
    write_whole(file, content.encode())
    if table is None:
        print(content, end="")
    else:
        console.print(table)
    log.info("written to %s", file)


def origin_of(session: "Session") -> dict[str, Any]:
    """Return the model and the scorer that a result was found with."""
    return {
        "model": session.settings["model"],
        "num_layers": session.num_layers,
        "scorer": session.scorer.name,
    }


@dataclasses.dataclass(frozen=True)
class Distill(Command):
    """Train a router, which names a path from the prompt alone, on the correct paths of a run."""

    model: Model
    source: Annotated[str, arg(name="run")]
    """Run directory of `cola search`, whose correct paths are learned."""
    out: Output
    """Directory of the router: created, or its training resumed."""
    task: TaskChoice
    design: Literal["drllm", "polar"] = "drllm"
    """Kind of router. drllm: a skip, execute or repeat head for each layer, decided on the states
    before it; polar: segments of up to four layers and their operations, from the states after the
    early layers."""
    early_layers: int | None = None
    """Layers whose states the design polar reads; a quarter of the model's by default."""
    labels: Literal["shortest", "all"] = "shortest"
    """Which of a question's correct paths are learned: the shortest, or all, each with weight 1/n;
    of a run with variants, paths that are right in all of them."""
    validation: float = 0.2
    """Share of the run's questions to hold out, chosen by a hash of their ids."""
    beams: int = 1
    """Paths named for each held-out question; accuracy is that of the first."""
    epochs: int = 25
    """Passes over the training examples."""
    batch_size: int = 16
    """Examples of a training step."""
    learning_rate: float = 1e-3
    """Peak learning rate, after a warm-up and before a cosine decay."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    seed: int = 0
    """Random seed of the network, of dropout and of the order of examples."""
    save_every: int = 100
    """Steps between saved training states, at most; slow steps are saved every ten seconds."""
    track: Literal["tensorboard", "wandb"] | None = None
    """Also send metrics to TensorBoard or Weights & Biases (extra `tracking`)."""
    dtype: Dtype = None
    """Dtype of the model's weights and activations; auto is float32 on a CPU, else the
    checkpoint's own."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)
    json: bool = False
    """Print the figures as JSON, as metrics.json has them."""

    def run(self) -> None:
        check_one_task("distill", self.task)
        check_output(self.out)
        check_task(self.task.task)
        with contextlib.nullcontext() if is_url(self.out) else claimed(self.out):
            self.train()

    def train(self) -> None:
        """Train the router, or resume its training, and print what it is worth."""
        from cola_jax.deploy.router.designs import make_design
        from cola_jax.deploy.router.distill import distill
        from cola_jax.deploy.router.summary import lines
        from cola_jax.deploy.router.tracking import check_tracker
        from cola_jax.runs.run import Run
        from cola_jax.runs.session import RunConfig, Session

        Run(self.source).manifest()  # or it is not a run
        config = self.config()
        check_tracker(self.track)
        run_config = RunConfig(dtype=self.dtype, devices=self.devices)
        checkpoint_of(self.model)
        session = Session.prepare(self.model, self.task.prepare, run_config)
        log_devices()
        sizes = session.config.num_layers, session.config.width
        design = make_design(self.design, *sizes, self.early_layers)
        distilled = distill(
            session,
            self.source,
            self.out,
            design,
            config,
            beams=self.beams,
            track=self.track,
            report=self.after_epoch,
        )
        write_config(self.out, self)
        if self.json:
            print_json(distilled.to_json())
            return
        for line in lines(distilled):
            console.print(line, soft_wrap=True, highlight=False)

    def after_epoch(self, epoch: int, epochs: int, loss: float) -> None:
        """Log how training goes; only then it is sure that the directory is ours to write to."""
        log.info("epoch %d/%d  loss %.4f", epoch, epochs, loss)
        write_config(self.out, self)

    def config(self) -> "DistillConfig":
        """Check and return what a router is trained on, and how."""
        from cola_jax.deploy.router.distill import DistillConfig
        from cola_jax.deploy.router.train import TrainingConfig

        if self.beams < 1:
            raise InputError(f"at least 1 path is named for a question, not {self.beams}.")
        training = TrainingConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )
        return DistillConfig(self.labels, self.validation, training, self.save_every)


@dataclasses.dataclass(frozen=True)
class Export(Command):
    """Write a path as a model that other programs load."""

    model: Model
    path: str
    """Path such as 0-5,7,7,8-29, or a JSON file with the field path."""
    out: Annotated[Path, arg(name="output", aliases=["-o"], metavar="DESTINATION")]
    """Directory to make (hf), or file (mergekit, gguf)."""
    format: Literal["hf", "mergekit", "gguf"] = "hf"
    """A Hugging Face checkpoint, a recipe for mergekit, or a GGUF file for llama.cpp."""
    share: bool = False
    """Store layers that run several times once: a PEFT adapter that repeats layers of its base."""
    source: str | None = None
    """What a recipe names (Hub id or directory), or the .gguf file to copy tensors from; what the
    checkpoint was converted from by default."""
    effect: Path | None = None
    """File with the measured effect of the path, for the model card: static.json, or the
    results.json of `cola evaluate`."""

    def run(self) -> None:
        from cola_jax.checkpoint import model_digest, read_metadata
        from cola_jax.config import ModelConfig
        from cola_jax.deploy.export import read_path
        from cola_jax.path import format_path

        self.check_flags()
        directory = checkpoint_of(self.model)
        metadata = read_metadata(directory)
        config = ModelConfig.from_json(metadata["config"])
        self.check_measured(model_digest(metadata))
        path = read_path(self.path, config.num_layers)
        if self.format == "hf":
            self.write_hf(directory, path, config.num_layers, model_digest(metadata))
        elif self.format == "mergekit":
            self.write_recipe(path, config, metadata["origin"])
        else:
            self.write_gguf(path, config, metadata["origin"])
        console.print(
            f"{self.out}: path {format_path(path)}, {len(path)} layers of {config.num_layers}, "
            f"{size(self.out) / 1e6:,.1f} MB",
            soft_wrap=True,
        )

    def check_flags(self) -> None:
        """Raise InputError for unfit places, and for flags that the format has no use for."""
        if os.path.exists(self.model):
            check_apart(self.out, self.model)
        if self.path.endswith(".json") and not os.path.isfile(self.path):
            raise InputError(f"--path {self.path}: there is no such file.")
        for flag, formats in FITTING.items():
            if getattr(self, flag) and self.format not in formats:
                raise InputError(
                    f"--{flag} is for --format {' or '.join(formats)}, not {self.format}: leave it "
                    "out."
                )

    def check_measured(self, model: str) -> None:
        """Warn of a path that was found on another checkpoint than this one."""
        measured = read_json(self.path).get("model") if self.path.endswith(".json") else None
        if measured not in (None, model):
            log.warning(
                f"--path {self.path} is of another checkpoint ({shown(measured)}, here it is "
                f"{model}): what the path does to this one is not known."
            )

    def command(self) -> str:
        """Return the command line of this export."""
        words = ["cola", "export", "--model", self.model, "--path", self.path]
        words += ["--output", str(self.out)]
        words += ["--share"] * self.share
        if self.effect is not None:
            words += ["--effect", str(self.effect)]
        return shlex.join(words)

    def write_hf(self, directory: str, path: tuple[int, ...], num_layers: int, model: str) -> None:
        from cola_jax.deploy.export import export
        from cola_jax.deploy.model_card import read_effect
        from cola_jax.runs.progress import byte_bar

        effect = None
        if self.effect is not None:
            effect = read_effect(self.effect, path, num_layers, model)
        with byte_bar(errors, f"exporting {self.model}") as on_progress:
            export(
                directory,
                path,
                self.out,
                command=self.command(),
                share=self.share,
                effect=effect,
                on_progress=on_progress,
            )

    def write_recipe(self, path: tuple[int, ...], config: "ModelConfig", origin: dict) -> None:
        from cola_jax.deploy.export import write_recipe

        name = self.source
        if name is None and origin["kind"] in ("hub", "directory"):
            name = origin["name"] + (f"@{origin['revision']}" if origin["kind"] == "hub" else "")
        if name is None:
            raise InputError(
                f"{self.model} was converted from a {origin['kind']} file, which mergekit cannot "
                "read: give --source the Hub id or directory of the same model in Hugging Face "
                "layout."
            )
        write_recipe(path, config, name, self.out)

    def write_gguf(self, path: tuple[int, ...], config: "ModelConfig", origin: dict) -> None:
        from cola_jax.deploy.export_gguf import check_sizes, export_gguf

        converted = origin["kind"] == "gguf" and Path(origin["name"]).is_file()
        if self.source is None and not converted:
            raise InputError(
                f"{self.model} was converted from {origin['name']}, which is not a GGUF file that "
                "exists here: give --source the .gguf file of the same model."
            )
        source = Path(self.source or origin["name"])
        check_sizes(source, config)
        export_gguf(source, path, self.out)


def size(out: Path) -> int:
    """Return the bytes of a file, or of all files below a directory."""
    from cola_jax.deploy.destination import folder_bytes, real_path

    out = real_path(out)
    return folder_bytes(out) if out.is_dir() else out.stat().st_size


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

        import cola_jax.deploy.lm_eval  # noqa: F401 - registers the model
        from cola_jax.deploy.model_args import join_path

        given = sys.argv
        # the harness reads its command line from nowhere else
        sys.argv = ["lm-eval", *(join_path(argument) for argument in self.arguments)]
        try:
            with keeping(UNKEPT):
                cli_evaluate()
        except ValueError as error:
            if not about_arguments(error):
                raise
            raise InputError(f"lm-evaluation-harness: {first_line(error)}.") from error
        finally:
            sys.argv = given


def about_arguments(error: ValueError) -> bool:
    """Whether an error was raised where the harness checks its command line."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return file.parts[-2:] in (("lm_eval", "evaluator.py"), ("lm_eval", "__main__.py")) or (
        file.parts[-3:-1] in (("lm_eval", "_cli"), ("lm_eval", "config"))
    )
