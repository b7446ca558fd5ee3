"""`cola export`: a path as a model, an adapter, a recipe, or a file that names it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import arg

from cola_jax.cli.deployment import RESULT
from cola_jax.cli.flags import Command, HubChoice, HubFlags, Model, checkpoint_of, console
from cola_jax.errors import InputError
from cola_jax.files import check_apart, exists, written_bytes
from cola_jax.progress import byte_bar, log

if TYPE_CHECKING:
    from cola_jax.deploy.effect import ReportedEffect
    from cola_jax.deploy.front import Front
    from cola_jax.formats.identity import Identity
    from cola_jax.path import LayerPath
    from cola_jax.runs.chosen_on import ChosenOn

ENGINES = ("vllm", "exllamav3")  # that run a path on the base model's weights
# formats of an export that a flag is for
FITTING = {
    "source": ("mergekit", "gguf", *ENGINES),
    "effect": ("hf", "peft", *ENGINES),
    "push_to_hub": ("hf", "peft", *ENGINES),
}


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
    """Path such as 0-5,7,7,8-29 or 0-5,7a,8m,9-29, a JSON file with the field path, a folder with a
    path.json, or a repository OWNER/NAME of the Hub with one."""
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
        from cola_jax.deploy.model_card import ZEROS_NOTE
        from cola_jax.deploy.path_file import read_path
        from cola_jax.formats.identity import Identity
        from cola_jax.path import format_path, is_whole_path
        from cola_jax.steps import part_of

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
        size_of_path = f"{len(path)} layers of {num_layers}"
        if not is_whole_path(path):
            size_of_path = f"{len(path)} steps of a model with {num_layers} layers"
        console.print(
            f"{self.out}: path {format_path(path)}, {size_of_path}, {size:,.1f} MB",
            soft_wrap=True,
        )
        if any(map(part_of, path)) and self.format not in ENGINES:
            console.print(ZEROS_NOTE, soft_wrap=True)
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
