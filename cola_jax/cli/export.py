"""`cola export`."""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from cola_jax.cli.flags import checkpoint_of, console
from cola_jax.cli.values import Model
from cola_jax.cli.verbosity import errors, log
from cola_jax.errors import InputError, shown
from cola_jax.files import check_apart

if TYPE_CHECKING:
    from cola_jax.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Export:
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
        from cola_jax.checkpoint import identity, read_metadata
        from cola_jax.config import ModelConfig
        from cola_jax.deploy.export import read_path
        from cola_jax.path import format_path

        self.check_flags()
        directory = checkpoint_of(self.model)
        metadata = read_metadata(directory)
        config = ModelConfig.from_json(metadata["config"])
        self.check_measured(identity(metadata))
        path = read_path(self.path, config.num_layers)
        if self.format == "hf":
            self.write_hf(directory, path, config.num_layers, identity(metadata))
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
        """Raises ValueError for unfit places, and for flags that the format has no use for."""
        if os.path.exists(self.model):
            check_apart(self.out, self.model)
        if self.path.endswith(".json") and not os.path.isfile(self.path):
            raise InputError(f"--path {self.path}: there is no such file.")
        if self.format == "hf" and self.source is not None:
            raise InputError("--source is for --format mergekit and gguf: leave it out.")
        if self.format != "hf" and self.effect is not None:
            raise InputError(
                f"--effect is for the model card of --format hf, which {self.format} has not."
            )
        if self.format == "gguf" and self.share:
            raise InputError(
                "--share cannot be had in GGUF: llama.cpp refuses a file in which two tensors "
                "have the same data. Leave it out, or use --format hf."
            )
        if self.format == "mergekit" and self.share:
            raise InputError("--share is for --format hf: a mergekit recipe holds no weights.")

    def check_measured(self, model: str) -> None:
        """Warns of a path that was found on another checkpoint than this one."""
        from cola_jax.files import read_json

        there = read_json(Path(self.path)).get("model") if self.path.endswith(".json") else None
        if there not in (None, model):
            log.warning(
                "--path %s is of another checkpoint (%s, here it is %s): what the path does to "
                "this one is not known.",
                self.path,
                shown(there),
                model,
            )

    def command(self) -> str:
        """Returns the command line of this export."""
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
        if name is None and origin["kind"] == "hub":
            name = f"{origin['name']}@{origin['revision']}"
        if name is None and origin["kind"] == "directory":
            name = origin["name"]
        if name is None:
            raise InputError(
                f"{self.model} was converted from a {origin['kind']} file, which mergekit cannot "
                "read: give --source the Hub id or directory of the same model in Hugging Face "
                "layout."
            )
        write_recipe(path, config, name, self.out)

    def write_gguf(self, path: tuple[int, ...], config: "ModelConfig", origin: dict) -> None:
        from cola_jax.deploy.export_gguf import check_same_model, export_gguf

        converted = origin["kind"] == "gguf" and Path(origin["name"]).is_file()
        if self.source is None and not converted:
            raise InputError(
                f"{self.model} was converted from {origin['name']}, which is not a GGUF file that "
                "exists here: give --source the .gguf file of the same model."
            )
        source = Path(self.source or origin["name"])
        check_same_model(source, config)
        export_gguf(source, path, self.out)


def size(out: Path) -> int:
    """Returns the bytes of a file, or of all files below a directory."""
    from cola_jax.deploy.destination import absolute, folder_bytes

    out = absolute(out)
    return folder_bytes(out) if out.is_dir() else out.stat().st_size
