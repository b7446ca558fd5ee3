"""The README.md of an exported model, with its measured effects, and the Hub's file of these."""

import dataclasses
import itertools
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cola_jax.deploy.effect import ReportedEffect
from cola_jax.deploy.path_file import PathFile, name_of_length
from cola_jax.deploy.provenance import Provenance
from cola_jax.deploy.verify.rows import check_rows
from cola_jax.errors import InputError, check_belongs, escaped, reading, shorten
from cola_jax.files import write_whole
from cola_jax.formats import demo_model
from cola_jax.formats.identity import Identity
from cola_jax.path import LayerPath, format_path, is_whole_path
from cola_jax.question import digest
from cola_jax.runs.chosen_on import CHOSEN_ON, MEASURED_ON, ChosenOn
from cola_jax.runs.estimates import (
    CHANGE,
    CHOSEN,
    CORRECT,
    MODEL,
    RECOMMENDED,
    sentences_of,
)
from cola_jax.runs.path_results import group_of
from cola_jax.runs.results import DIGEST, Results, read_results
from cola_jax.runs.trial_facts import NOT_RECORDED, dated, short, trial_facts
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step, layer_of, part_of
from cola_jax.storage import AnyPath
from cola_jax.tasks.registry import TASKS, canonical

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

log = logging.getLogger(__name__)
# intraword underscores, as in arc_easy, are no markup
MARKUP = re.compile(r"[\\`*\[\]<&~$#]|(?<![^\W_])_|_(?![^\W_])")
# what GitHub and the Hub make links of, without brackets
AUTOLINK = re.compile(r":(?=//)|(?<=www)\.|@(?=[\w-]+\.)", re.IGNORECASE)
ZEROS_NOTE = (
    "The weights of missing attentions and MLPs are zeros here, which is exact and saves neither "
    "time nor memory."
)
MOST_WORDINGS = 8  # that a card lists
# without its requirements, which are not those of vLLM
INSTALL = "pip install --no-deps git+https://github.com/cola-jax/cola-jax"
TRY_OTHERS = "try it on others with `cola verify --other-questions`"


def effects_section(effects: Sequence[ReportedEffect]) -> str:
    """Write the effects of a file as a section: a table, what is said of them, and the protocol.

    There is no section of no effects.
    """
    if not effects:
        return ""
    names = ["task", "questions", "prompts", "accuracy before", "after"]
    names += ["difference in points (95 %)", "outcome"]
    width = len(names) - all(not effect.change.note for effect in effects)
    rows = [names, ["---"] * width, *map(cells_of, effects)]
    lines = [f"| {' | '.join(row[:width])} |\n" for row in rows]
    said = "".join(f"\nThe report: {literal(effect.sentence)}\n" for effect in effects)
    facts = "".join(f"| {cell(name)} | {cell(text)} |\n" for name, text in effects[0].facts.items())
    return f"## Measured effect\n\n{''.join(lines)}{said}\n| protocol | |\n|---|---|\n{facts}"


def cells_of(effect: ReportedEffect) -> list[str]:
    """Return the cells of a row of `effects_section`."""
    counts = [str(effect.change.n), cell(str(effect.prompts))]
    shares = [effect.before.text, effect.after.text, effect.size]
    return [cell(effect.task), *counts, *shares, cell(effect.change.note)]


def read_effects(
    file: AnyPath,
    path: Sequence[int],
    num_layers: int,
    model: str | None = None,
    *,
    provenance: Provenance | None = None,
    allow_overlap: bool = False,
    budget: Mapping[str, str] | None = None,
) -> list[ReportedEffect]:
    """Read the effects of a path, one on each task, from `results.json`.

    `provenance` says where the path was chosen, where results do not, and `budget` are the facts of
    a path that was chosen for one, of those that `cola static` measured. Raises InputError for the
    results of another path or model, of several paths that were compared on the questions that
    chose between them, of a path that was chosen on what measures it, unless `allow_overlap`, of a
    pilot, and of another measure than accuracy. The identity path, which `cola static` may
    recommend, has no effect.
    """
    if group_of(path, num_layers) == MODEL:
        log.warning("the path is that of the model itself: its card states no effect")
        return []
    results = read_results(file)
    check_rows(file, results)
    with reading(file):
        settings = results.run["settings"]
        action = "measure this path on this model"
        theirs = {"model": settings.get("model")}
        check_belongs(str(file), theirs, "this export", {"model": model}, action)
        measure = settings.get("measure", "accuracy")
        if measure != "accuracy":
            raise InputError(
                f"{file} measures {measure}, but a model card states accuracy: verify the path by "
                "it."
            )
        if settings.get("pilot"):
            raise InputError(
                f"{file} is of a pilot, which gives no verdict and may ask what chose the path: "
                "try it with `cola verify` without --pilot, on other questions."
            )
        name = group_of(path, num_layers)
        is_of_front = budget is not None and settings.get("command") == "static"
        measured = measured_paths(results, name if is_of_front else None)
        tried = [*dict.fromkeys(facts["path"] for facts in measured.values())]
        listed = shorten(tried) or "no path"
        if settings.get("command") == "evaluate" and tried != [name]:
            raise InputError(
                f"{file} measures {listed} against the identity path, but "
                f"an effect is that of one path, chosen before: `cola evaluate` {name} alone with "
                "it."
            )
        if name not in tried:
            raise InputError(
                f"{file} has the effect of {listed}, not of {name}: export "
                "this one, or measure the other."
            )
        groups = [group for group, facts in measured.items() if facts["path"] == name]
        protocol = trial_facts(results, groups)
        if not protocol:
            chosen_on = chosen_on_text(results, name, provenance, allow_overlap=allow_overlap)
            protocol = measured_facts(results, chosen_on)
        protocol = protocol | dict(budget or {})
        return [effect_of(results, group, measured[group], protocol) for group in groups]


def chosen_on_text(
    results: Results, path: str, provenance: Provenance | None, *, allow_overlap: bool
) -> str:
    """Say on which questions a path was chosen that a command other than a trial has measured.

    Raises InputError where they measure it, unless `allow_overlap`.
    """
    own = results.run.get(CHOSEN_ON)
    measured = results.run.get(MEASURED_ON)  # on questions that the command held out
    command = str((results.run.get("settings") or {}).get("command"))
    if measured is not None and own is not None and provenance is None:
        provenance = Provenance((f"cola {command}",), ChosenOn.from_json(own))
    judged = own if measured is None else measured
    if provenance is None or judged is None:
        return NOT_RECORDED
    asked = ChosenOn.from_json(judged)
    if measured is None and not allow_overlap:
        provenance.check(path, asked, "those that measure it", TRY_OTHERS)
    return provenance.note(asked)


def measured_facts(results: Results, chosen_on: str) -> dict[str, str]:
    """Return the facts of a measurement that is no trial."""
    start = results.run.get("start") or {}
    versions = start.get("versions") or {}
    command = (results.run.get("settings") or {}).get("command")
    return {
        "hash": f"none: cola {command} measured it, and no claim was tried by cola verify",
        "chosen on": chosen_on,
        "measured": dated(start.get("date"), versions.get("cola-jax"), start.get("commit")),
        "results": short(results.run.get(DIGEST)),
    }


def measured_paths(results: Results, of_front: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the path, the task and the model's group of each group that was chosen before.

    One of a front, which was chosen for a budget, is all that there is where it is given.
    """
    changed = [each.group for each in results if each.name == CHANGE]
    chosen = [each.group for each in results if each.note == CHOSEN]
    chosen += [each.note for each in results if each.name == RECOMMENDED]
    if of_front is not None:
        chosen = [of_front]
    facts = {"task": str(results.run["start"].get("task")), "model": MODEL}
    claims = results.run.get("groups", {})
    return {
        group: claims.get(group) or facts | {"path": group}
        for group in changed
        if not chosen or group in chosen
    }


def effect_of(
    results: Results, group: str, facts: Mapping[str, Any], protocol: Mapping[str, str]
) -> ReportedEffect:
    """Return the effect of a group of estimates."""
    beside = [each for each in results if each.group in (group, facts["model"])]
    if group not in {each.group for each in beside if each.note == CHOSEN}:
        # that of a budget, where `cola static` has chosen the model
        beside = [dataclasses.replace(x, note="") if x.note == CHOSEN else x for x in beside]
    by_name = {(each.group, each.name): each for each in beside}
    (sentence,) = sentences_of(beside)
    return ReportedEffect(
        task=facts["task"],
        prompts=facts.get("prompts") or results.run.get("prompts", 1),
        before=by_name[facts["model"], CORRECT],
        after=by_name[group, CORRECT],
        change=by_name[group, CHANGE],
        sentence=sentence,
        facts=protocol,
    )


def model_card(
    metadata: dict[str, Any],
    path: LayerPath,
    *,
    base: str | None = None,
    types_along: Sequence[int] = (),
    effects: Sequence[ReportedEffect] = (),
    file: PathFile | None = None,
    flags: str = "",
) -> "ModelCard":
    """Make the model card of an export; it names local files without the folders above them.

    `metadata` is that of the checkpoint, and `base` the Hub id or the folder of the base model of
    an adapter, None for a whole model. `types_along` are the layers of the base along which its
    list of layer types has to be put, none where it may stay. Of a path without weights it is the
    `file`, and `flags` are those of the export.
    """
    from huggingface_hub import ModelCard, ModelCardData  # imports a client of HTTP

    origin, num_layers = metadata["origin"], metadata["config"]["num_layers"]
    text, license = format_path(path), origin.get("license")
    identity = Identity.of(metadata)
    revision = identity.revision
    name = identity.name if origin.get("name") else "local model"
    layers = [layer_of(step) for step in path]
    skipped, repeated = skipped_and_repeated(path, num_layers)
    model = shlex.quote(f"{name}@{revision}" if revision else " ".join(name.split()))
    if origin.get("package"):
        model = demo_model.NAME
    library = "transformers" if base is None else "peft"
    base_model = identity.hub_id
    found = ""
    loading = usage(base, revision if base in (None, name) else None, types_along)
    use = f"```python\n{loading}\n```\n"
    given = "--format peft" if base else flags
    has_zeros = file is None and not is_whole_path(path)
    changed = "No weight was trained." if has_zeros else "No weight was trained or changed."
    as_json = json.dumps(list(path) if is_whole_path(path) else text)
    if file is not None:
        library = "cola-jax"
        base_model = file.base and file.base.hub_id  # a directory has none
        found = found_rows(file)
        use = use_section(file)
    data = ModelCardData(
        library_name=library,
        base_model=base_model,
        license=license,
        tags=["chain-of-layers", *(file.commands if file else ())],
    )
    return ModelCard(f"""---
{data.to_yaml()}
---

# {literal(name)}, path {text}

The layers of {literal(name)}{f" at revision `{revision}`" if revision else ""}, run in the order
`{text}`. {changed}{steps_note(path, has_weights=file is None)}

| | |
|---|---|
| license | {cell(license or "that of the original, which is not recorded")} |
| layers of the original | {num_layers} |
| {name_of_length(path)} run | {len(path)} |
| skipped | {format_path(skipped) or "none"} |
| run more than once | {", ".join(repeated) or "none"} |
| steps back to an earlier layer | {sum(b < a for a, b in itertools.pairwise(layers))} |
{found}
{effects_section(effects)}
## Use

{use}
## Made by

```
cola export --model {model} --path '{text}'{given and f" {given}"} --output THIS_FOLDER
```

The path as JSON: `{as_json}`, its digest `{digest(path)}`, that of the model
`{metadata["digest"]}`.
""")


def skipped_and_repeated(path: LayerPath, num_layers: int) -> tuple[list[int], list[str]]:
    """Return the layers, or parts of layers, that a path skips, and texts of those run again."""
    skipped, repeated = [], []
    for layer in range(num_layers):
        parts = [part_of(step) for step in path if layer_of(step) == layer]
        runs = {part: parts.count(WHOLE) + parts.count(part) for part in (ATTENTION, MLP)}
        if runs[ATTENTION] == runs[MLP]:
            runs = {WHOLE: runs[MLP]}
        for part, times in runs.items():
            step = Step(layer, part).id
            if times == 0:
                skipped.append(step)
            elif times > 1:
                repeated.append(f"{format_path([step])} ({times} times)")
    return skipped, repeated


def steps_note(path: LayerPath, *, has_weights: bool) -> str:
    """Say what steps that are not whole layers mean, and how weights express them."""
    if is_whole_path(path):
        return ""
    note = (
        "\n\n`8a` is the attention of layer 8 without its MLP, `9m` the MLP of layer 9 without its "
        "attention,\nand `7*0.5` adds half of the update of layer 7."
    )
    return f"{note} {ZEROS_NOTE}" if has_weights else note


def found_rows(file: PathFile) -> str:
    """Write rows of what a path was found with, as far as its file records it."""
    each = [
        ", ".join(f"{name} {value}" for name, value in wording.items() if name != "key")
        for wording in file.wordings
    ]
    if len(each) > MOST_WORDINGS:
        each[MOST_WORDINGS:] = [f"and {len(each) - MOST_WORDINGS} more"]
    facts = {
        "found for the task": file.task,
        "in the wordings": "; ".join(each),
        "with the budget": ", ".join(f"{name} {value}" for name, value in file.budget.items()),
        "chosen on": file.chosen and file.chosen.describe(),
    }
    return "".join(f"| {name} | {cell(text)} |\n" for name, text in facts.items() if text)


def use_section(file: PathFile) -> str:
    """Write how each engine runs a path on the base model, of which nothing is copied."""
    text = "There are no weights here, and the base model is a local directory: give its place.\n"
    if file.base is not None:
        at = f" at revision {literal(file.base.revision)}" if file.base.revision else ""
        base = f"{literal(file.base.hub_id)}{at}"
        text = f"There are no weights here: engines run the path on those of {base}.\n"
    if "vllm" in file.commands:
        text += f"vLLM needs cola-jax beside it: `{INSTALL}`.\n"
    blocks = [
        f"{engine}:\n\n```{'python' if engine == 'transformers' else 'sh'}\n{command}\n```\n"
        for engine, command in file.commands.items()
    ]
    return "\n".join([text, *blocks])


def write_eval_results(
    folder: Path, path: Sequence[int], effects: Sequence[ReportedEffect]
) -> None:
    """Write the accuracy along a path as the Hub reads it, a file in `.eval_results` a task.

    Tasks without a data set on the Hub are logged instead.
    """
    for effect in effects:
        name, subject = canonical(effect.task)
        if name not in TASKS or not TASKS[name].hub:
            log.info("no .eval_results of %s, which is not a data set of the Hub", effect.task)
            continue
        task = "_".join(filter(None, (name.replace("-", "_"), subject)))
        entry = {
            "dataset": {"id": TASKS[name].hub, "task_id": task},
            # percent, as the benchmarks of the Hub have it
            "value": round(100 * effect.after.value, 4),
            "notes": f"path {format_path(path)}; questions {effect.change.n}, prompts "
            f"{effect.prompts}; points more than the pretrained model: {effect.size}",
        }
        file = folder / ".eval_results" / f"{task}.yaml"
        write_whole(file, yaml.safe_dump([entry], sort_keys=False, width=1000).encode())


def usage(base: str | None, revision: str | None, types_along: Sequence[int] = ()) -> str:
    """Return Python that loads the model, or the base model and then its adapter."""
    imports, place, adapter, types = "", '"THIS_FOLDER"', "", ""
    if base is not None:
        imports = "from peft import PeftModel\n"
        place = f'"{base}", revision="{revision}"' if revision else f'"{base}"'
        adapter = 'model = PeftModel.from_pretrained(model, "THIS_FOLDER")\n'
    if types_along:
        types = (
            "types = model.config.layer_types  # transformers looks a layer's up by its position\n"
            f"model.config.layer_types = [types[i] for i in {list(types_along)}]\n"
        )
    return (
        f"{imports}from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({place})\n"
        f"{types}{adapter}"
        f"tokenizer = AutoTokenizer.from_pretrained({place})"
    )


def cell(text: str) -> str:
    """Write a text as it is in a cell of a table."""
    return literal(text).replace("|", "\\|")


def literal(text: str) -> str:
    """Write a text in one line of Markdown that shows it as it is: no HTML, link or image.

    Characters that are not printable, such as those that a terminal obeys, are shown escaped.
    """
    shown = MARKUP.sub(r"\\\g<0>", escaped(" ".join(text.split())))
    return AUTOLINK.sub(r"\\\g<0>", shown)
