"""The README.md of an exported model, with its measured effects, and the Hub's file of these."""

import itertools
import json
import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from cola_jax.errors import InputError, check_belongs, reading
from cola_jax.files import read_json, write_whole
from cola_jax.path import LayerPath, format_path, parse_path_of
from cola_jax.question import digest
from cola_jax.tasks.registry import TASKS, canonical

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

log = logging.getLogger(__name__)
# intraword underscores, as in arc_easy, are no markup
MARKUP = re.compile(r"[\\`*\[\]<&~$#]|(?<![^\W_])_|_(?![^\W_])")
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]


class ReportedEffect(BaseModel):
    """The effect of a path on questions that it was not chosen on; all shares are 0 to 1."""

    model_config = ConfigDict(strict=True, frozen=True)

    task: str  # with its split
    n: PositiveInt  # questions
    prompts: PositiveInt = 1  # in which they were asked
    before: Share  # accuracy of the pretrained model
    after: Share  # accuracy along the path
    interval: tuple[Change, Change]  # of the difference, 95 %
    outcome: str | None = None  # of a trial
    sentence: str | None = None  # of the report of a trial or of an evaluation

    @property
    def difference(self) -> str:
        """The difference in points with its interval."""
        low, high = self.interval
        return f"{100 * (self.after - self.before):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"

    def cells(self) -> list[str]:
        """Return the cells of a row of `effects_section`."""
        counts = [str(self.n), str(self.prompts)]
        shares = [f"{self.before:.1%}", f"{self.after:.1%}", self.difference]
        return [cell(self.task), *counts, *shares, cell(self.outcome or "")]


def effects_section(effects: Sequence[ReportedEffect]) -> str:
    """Write effects as a section with a table, and what is said of them; none for no effects."""
    if not effects:
        return ""
    names = ["task", "questions", "prompts", "accuracy before", "after"]
    names += ["difference in points (95 %)", "outcome"]
    width = len(names) - all(effect.outcome is None for effect in effects)
    rows = [names, ["---"] * width, *(effect.cells() for effect in effects)]
    lines = [f"| {' | '.join(row[:width])} |\n" for row in rows]
    said = "".join(
        f"\nThe report: {literal(effect.sentence)}\n" for effect in effects if effect.sentence
    )
    return f"## Measured effect\n\n{''.join(lines)}{said}"


def read_effects(
    file: Path, path: Sequence[int], num_layers: int, model: str | None = None
) -> list[ReportedEffect]:
    """Read the effects of a path from static.json, results.json, verdicts.json or their fields.

    Raises InputError for missing or invalid fields, and for the effect of another path or model.
    """
    values, name = read_json(file), format_path(path)
    with reading(file):
        if "cola_jax" in values:
            values = effect_of_results(file, values, name)
        elif "claims" in values:
            values = effects_of_verdicts(file, values, name, num_layers)
        measured = values.get("path")
        if isinstance(measured, str):
            measured = format_path(parse_path_of(file, measured, num_layers))
        recorded, ours = {"model": values.get("model"), "path": measured}, {"model": model}
        action = "measure this path on this model"
        check_belongs(str(file), recorded, "this export", ours | {"path": name}, action)
        effects = values.get("effects") or [values.get("effect", values)]
        return [ReportedEffect.model_validate_json(json.dumps(effect)) for effect in effects]


def effects_of_verdicts(
    file: Path, verdicts: dict[str, Any], path: str, num_layers: int
) -> dict[str, Any]:
    """Return the effects of a path on each task in the verdicts of `cola verify`."""
    claims, measure = verdicts["claims"], verdicts.get("measure", "accuracy")
    if measure != "accuracy":
        raise InputError(
            f"{file} measures {measure}, but a model card states accuracy: verify the path by it."
        )
    tried = [format_path(parse_path_of(file, claim["path"], num_layers)) for claim in claims]
    if path not in tried:
        raise InputError(f"{file} tries {', '.join(tried)}, not {path}: export one of these paths.")
    tasks = claims[tried.index(path)]["tasks"]
    effects = [{"task": task} | verdict for task, verdict in tasks.items()]
    return {"model": verdicts["model"], "path": path, "effects": effects}


def effect_of_results(file: Path, results: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the effect of a path in the results of `cola evaluate`, as static.json has it."""
    known = results["cola_jax"]["effects"].get("paths", {})
    if list(known) != [path]:
        raise InputError(
            f"{file} measures {', '.join(known) or 'no path'} against the identity path, but an "
            f"effect is that of one path, chosen before: `cola evaluate` {path} alone with it."
        )
    (task, *_) = (config["task"] for config in results["configs"].values())
    model = results["cola_jax"]["settings"]["model"]
    sentence = results["cola_jax"]["effects"].get("sentence")
    effect = {"task": task, "sentence": sentence, **known[path]}
    return {"model": model, "path": path, "effect": effect}


def model_card(
    metadata: dict[str, Any],
    path: LayerPath,
    *,
    base: str | None = None,
    effects: Sequence[ReportedEffect] = (),
) -> "ModelCard":
    """Make the model card of an export; it names local files without the folders above them.

    `metadata` is that of the checkpoint, and `base` the Hub id or the folder of the base model of
    an adapter, None for a whole model.
    """
    from huggingface_hub import ModelCard, ModelCardData  # imports a client of HTTP

    origin, num_layers = metadata["origin"], metadata["config"]["num_layers"]
    text, license, on_hub = format_path(path), origin.get("license"), origin["kind"] == "hub"
    revision = origin["revision"] if on_hub else None
    name = origin["name"] if on_hub else Path(origin.get("name") or "local model").name
    counts = [path.count(layer) for layer in range(num_layers)]
    repeated = [f"{layer} ({n} times)" for layer, n in enumerate(counts) if n > 1]
    model = shlex.quote(f"{name}@{revision}" if on_hub else " ".join(name.split()))
    data = ModelCardData(
        library_name="transformers" if base is None else "peft",
        base_model=name if on_hub else None,
        license=license,
        tags=["chain-of-layers"],
    )
    return ModelCard(f"""---
{data.to_yaml()}
---

# {literal(name)}, path {text}

The layers of {literal(name)}{f" at revision `{revision}`" if revision else ""}, run in the order
`{text}`. No weight was trained or changed.

| | |
|---|---|
| license | {cell(license or "that of the original, which is not recorded")} |
| layers of the original | {num_layers} |
| layers run | {len(path)} |
| skipped | {format_path([layer for layer, n in enumerate(counts) if not n]) or "none"} |
| run more than once | {", ".join(repeated) or "none"} |
| steps back to an earlier layer | {sum(b < a for a, b in itertools.pairwise(path))} |

{effects_section(effects)}
## Use

```python
{usage(base, revision)}
```

## Made by

```
cola export --model {model} --path '{text}'{"" if base is None else " --share"}
```

The path as JSON: `{list(path)}`, its digest `{digest(path)}`, that of the model
`{metadata["digest"]}`.
""")


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
            "value": round(100 * effect.after, 4),  # percent, as the benchmarks of the Hub have it
            "notes": f"path {format_path(path)}; questions {effect.n}, prompts {effect.prompts}; "
            f"points more than the pretrained model: {effect.difference}",
        }
        file = folder / ".eval_results" / f"{task}.yaml"
        write_whole(file, yaml.safe_dump([entry], sort_keys=False, width=1000).encode())


def usage(base: str | None, revision: str | None) -> str:
    """Return Python that loads the model, or the base model and then its adapter."""
    imports, place, adapter = "", '"THIS_FOLDER"', ""
    if base is not None:
        imports = "from peft import PeftModel\n"
        place = f'"{base}", revision="{revision}"' if revision else f'"{base}"'
        adapter = 'model = PeftModel.from_pretrained(model, "THIS_FOLDER")\n'
    return (
        f"{imports}from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({place})\n{adapter}"
        f"tokenizer = AutoTokenizer.from_pretrained({place})"
    )


def cell(text: str) -> str:
    """Write a text as it is in a cell of a table."""
    return literal(text).replace("|", "\\|")


def literal(text: str) -> str:
    """Write a text in one line of Markdown that shows it as it is: no HTML, link or image."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
