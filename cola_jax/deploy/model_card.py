"""The README.md of an exported model: its path, the measured effect of it, and its origin."""

import itertools
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from cola_jax.errors import InputError, check_belongs, reading
from cola_jax.files import read_json
from cola_jax.path import format_path, parse_path_of
from cola_jax.question import digest

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

# intraword underscores, as in arc_easy, are no markup
MARKUP = re.compile(r"[\\`*\[\]<&~$#]|(?<![^\W_])_|_(?![^\W_])")
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]


class ReportedEffect(BaseModel):
    """The effect of a path on questions that it was not chosen on; all shares are 0 to 1."""

    model_config = ConfigDict(strict=True, frozen=True)

    task: str  # with its split
    n: PositiveInt  # questions
    before: Share  # accuracy of the pretrained model
    after: Share  # accuracy along the path
    interval: tuple[Change, Change]  # of the difference, 95 %

    def markdown(self) -> str:
        """Return the effect as a section with a table."""
        low, high = self.interval
        return (
            "## Measured effect\n\n"
            "| task | questions | accuracy before | after | difference, points | 95 % interval |\n"
            "|---|---|---|---|---|---|\n"
            f"| {cell(self.task)} | {self.n} | {self.before:.1%} | {self.after:.1%} | "
            f"{100 * (self.after - self.before):+.1f} | {100 * low:+.1f} to {100 * high:+.1f} |\n"
        )


def read_effect(
    file: Path, path: Sequence[int], num_layers: int, model: str | None = None
) -> ReportedEffect:
    """Read the effect of a path from static.json, results.json or a file of its fields.

    Raises InputError for missing or invalid fields, and for the effect of another path or model.
    """
    values, name = read_json(file), format_path(path)
    with reading(file):
        if "cola_jax" in values:
            values = effect_of_results(file, values, name)
        measured = values.get("path")
        if isinstance(measured, str):
            measured = format_path(parse_path_of(file, measured, num_layers))
        recorded, ours = {"model": values.get("model"), "path": measured}, {"model": model}
        action = "measure this path on this model"
        check_belongs(str(file), recorded, "this export", ours | {"path": name}, action)
        return ReportedEffect.model_validate_json(json.dumps(values.get("effect", values)))


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
    return {"model": model, "path": path, "effect": {"task": task, **known[path]}}


def model_card(
    metadata: dict[str, Any],
    path: tuple[int, ...],
    *,
    base: str | None = None,
    effect: ReportedEffect | None = None,
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

{"" if effect is None else effect.markdown()}
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
