"""The folder of a path that other engines run on the base model: `path.json` and a card."""

from collections.abc import Mapping, Sequence
from typing import Any

from cola_jax.config import ModelConfig
from cola_jax.deploy.effect import ReportedEffect
from cola_jax.deploy.engine_commands import (
    BaseWeights,
    commands_of,
    exllamav3_command,
    vllm_command,
    vllm_overrides,
)
from cola_jax.deploy.export import exporting
from cola_jax.deploy.model_card import model_card, write_eval_results
from cola_jax.deploy.path_file import Base, Keys, PathFile, find_path_file
from cola_jax.formats.identity import Identity
from cola_jax.path import LayerPath, format_path, validate
from cola_jax.progress import log
from cola_jax.runs.chosen_on import ChosenOn
from cola_jax.storage import AnyPath


def export_path(
    metadata: Mapping[str, Any],
    path: LayerPath,
    destination: AnyPath,
    engine: str,
    *,
    source: str | None = None,
    given: str = "",
    chosen_on: ChosenOn | None = None,
    budget: Mapping[str, str] | None = None,
    effects: Sequence[ReportedEffect] = (),
) -> str:
    """Write the folder of a path, without weights; return the command of an engine.

    Args:
      metadata: that of the checkpoint.
      engine: vllm or exllamav3.
      source: the weights that engines load, by default what the checkpoint was converted from.
      given: the text that named the path, whose file says what it was found with.
      chosen_on: the questions and wordings that chose the path, where they are known.
      budget: what the path was chosen for, of those of a front.
      effects: the measured effects of the path.

    Raises InputError where the engine cannot run the path or load the weights.
    """
    config = ModelConfig.from_json(metadata["config"])
    path = validate(path, config.num_layers)
    config.check_keys(path)
    base = BaseWeights.of(metadata, source)
    if engine == "vllm":
        command = vllm_command(base.name, base.revision, vllm_overrides(config, path))
    else:
        command = exllamav3_command(base, config, path)
    if not base.on_hub:
        log.warning("the base model is a local directory; give --source a Hub id to share the path")
    file = PathFile(
        path=format_path(path),
        layers=len(path),
        num_layers=config.num_layers,
        **of_model(metadata),
        base=Base(hub_id=base.name, revision=base.revision) if base.on_hub else None,
        **found_with(given, budget or {}),
        chosen_on=None if chosen_on is None else Keys(**chosen_on.to_json()),
        effects=list(effects),
        commands=commands_of(base.public, config, path),
    )
    with exporting(destination) as folder:
        file.write(folder)
        flags = f"--format {engine}" + (f" --source {source}" if source and base.on_hub else "")
        card = model_card(dict(metadata), path, effects=effects, file=file, flags=flags)
        card.save(folder / "README.md")
        write_eval_results(folder, path, effects)
    return command


def of_model(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the model of a path."""
    model = Identity.of(metadata)
    return {"model": model.digest, "model_name": model.name, "model_dtype": model.dtype}


def found_with(given: str, budget: Mapping[str, str]) -> dict[str, Any]:
    """Return the task, wordings and budget that the file of a path records, and a budget beside.

    A text of a path records none.
    """
    file = find_path_file(given)
    if file is None:
        return {"budget": dict(budget)}
    read = PathFile.read(file, given)
    return {"task": read.task, "wordings": read.wordings, "budget": read.budget | dict(budget)}
