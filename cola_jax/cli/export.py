"""`cola export` and `lm-eval`: use paths in other programs."""

import dataclasses
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from cola_jax.cli.flags import Command, Model, checkpoint_of
from cola_jax.cli.main import keeping
from cola_jax.cli.verbosity import console, log
from cola_jax.errors import InputError, first_line, shown
from cola_jax.files import check_apart, read_json, written_bytes
from cola_jax.progress import byte_bar

# formats of an export that a flag is for; GGUF cannot share, as llama.cpp refuses shared tensors
FITTING = {"source": ("mergekit", "gguf"), "effect": ("hf",), "share": ("hf",)}
UNKEPT = "the harness keeps answers with --use_cache alone, and then goes on with the same command."


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
        from cola_jax.checkpoint import read_metadata
        from cola_jax.deploy.export import read_path
        from cola_jax.path import format_path

        self.check_flags()
        directory = checkpoint_of(self.model)
        metadata = read_metadata(directory)
        num_layers = metadata["config"]["num_layers"]
        self.check_measured(metadata["digest"])
        path = read_path(self.path, num_layers)
        write = {"hf": self.write_hf, "mergekit": self.write_recipe, "gguf": self.write_gguf}
        write[self.format](directory, metadata, path)
        size = written_bytes(self.out.expanduser()) / 1e6
        console.print(
            f"{self.out}: path {format_path(path)}, {len(path)} layers of {num_layers}, "
            f"{size:,.1f} MB",
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

    def write_hf(self, directory: str, metadata: dict[str, Any], path: tuple[int, ...]) -> None:
        """Write a Hugging Face checkpoint, with a model card."""
        from cola_jax.deploy.export import export
        from cola_jax.deploy.model_card import read_effect

        effect = None
        if self.effect is not None:
            num_layers = metadata["config"]["num_layers"]
            effect = read_effect(self.effect, path, num_layers, metadata["digest"])
        with byte_bar(f"exporting {self.model}") as on_progress:
            options = {"share": self.share, "effect": effect, "on_progress": on_progress}
            export(directory, path, self.out, **options)

    def write_recipe(self, directory: str, metadata: dict[str, Any], path: tuple[int, ...]) -> None:
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

    def write_gguf(self, directory: str, metadata: dict[str, Any], path: tuple[int, ...]) -> None:
        """Write a GGUF file."""
        from cola_jax.config import ModelConfig
        from cola_jax.deploy.export_gguf import check_sizes, export_gguf

        name, kind = metadata["origin"]["name"], metadata["origin"]["kind"]
        if self.source is None and not (kind == "gguf" and Path(name).is_file()):
            raise InputError(
                f"{self.model} was converted from {name}, which is not a GGUF file that exists "
                "here: give --source the .gguf file of the same model."
            )
        source = Path(self.source or name)
        check_sizes(source, ModelConfig.from_json(metadata["config"]))
        export_gguf(source, path, self.out)


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

        from cola_jax.deploy.lm_eval import join_path  # registers the model

        before = sys.argv
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
            sys.argv = before


def about_arguments(error: ValueError) -> bool:
    """Whether an error was raised where the harness checks its command line."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return file.parts[-2:] in (("lm_eval", "evaluator.py"), ("lm_eval", "__main__.py")) or (
        file.parts[-3:-1] in (("lm_eval", "_cli"), ("lm_eval", "config"))
    )
