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
from cola_jax.deploy.path_file import Base, Keys, PathFile, find_path_file, name_of_length
from cola_jax.deploy.provenance import is_run
from cola_jax.files import exists, read_json
from cola_jax.formats.identity import Identity
from cola_jax.path import LayerPath, format_path, validate
from cola_jax.progress import log
from cola_jax.runs.chosen_on import ChosenOn, wordings_in
from cola_jax.runs.results import BESIDE
from cola_jax.runs.run import Run
from cola_jax.storage import AnyPath, path_of
from cola_jax.tasks.wordings import wording_facts


def export_path(
    metadata: Mapping[str, Any],
    path: LayerPath,
    destination: AnyPath,
    engine: str,
    *,
    source: str | None = None,
    given: str = "",
    sources: Sequence[str] = (),
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
      sources: outputs of the commands that chose the path, which say it otherwise.
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
        **{name_of_length(path): len(path)},
        num_layers=config.num_layers,
        **of_model(metadata),
        base=Base(hub_id=base.name, revision=base.revision) if base.on_hub else None,
        **found_with(given, sources, budget or {}),
        chosen_on=None if chosen_on is None else Keys(**chosen_on.to_json()),
        effects=list(effects),
        commands=commands_of(base.public, config, path),
    )
    with exporting(destination) as folder:
        file.write(folder)
        flags = f"--format {engine}" + (f" --source {base}" if source and base.on_hub else "")
        card = model_card(dict(metadata), path, effects=effects, file=file, flags=flags)
        card.save(folder / "README.md")
        write_eval_results(folder, path, effects)
    return command


def of_model(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the model of a path."""
    model = Identity.of(metadata)
    return {"model": model.digest, "model_name": model.name, "model_dtype": model.dtype}


def found_with(given: str, sources: Sequence[str], budget: Mapping[str, str]) -> dict[str, Any]:
    """Return the task, wordings and budget with which a path was found, and a budget beside.

    They are those of the file that `given` names, else of the first of the outputs that chose the
    path; a text of a path records none.
    """
    file = find_path_file(given)
    found = [] if file is None else [of_file(PathFile.read(file, given))]
    found += map(of_output, sources)
    first = next(filter(None, found), {})
    return first | {"budget": first.get("budget", {}) | dict(budget)}


def of_file(file: PathFile) -> dict[str, Any]:
    """Return what the file of a path was found with; {} where it does not say."""
    facts = {"task": file.task, "wordings": file.wordings, "budget": file.budget}
    return {name: value for name, value in facts.items() if value}


def of_output(source: str) -> dict[str, Any]:
    """Return the same of the output of a command that chooses; {} for others, such as `unknown`."""
    place = path_of(source)
    static = place / BESIDE["static"]
    if place.name.endswith(".json") or exists(static):
        content = read_json(static if exists(static) else place)
        return of_file(PathFile.of(content, source)) if "path" in content else {}
    if not is_run(place):
        return {}
    facts = Run(place).facts()
    settings = facts.settings
    budget = {name: settings[name] for name in ("strategy", "simulations") if name in settings}
    if "paths" in settings:
        budget["paths"] = len(settings["paths"])
    wordings = [wording_facts(record) for record in wordings_in(settings)]
    return {"task": facts.start.get("task"), "wordings": wordings, "budget": budget}
