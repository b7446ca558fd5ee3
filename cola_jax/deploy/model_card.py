"""The README.md of an exported model: its path, the measured effect of it, and the command."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from cola_jax.errors import InputError, reading
from cola_jax.files import read_json
from cola_jax.identity import check_belongs, path_digest
from cola_jax.path import format_path, parse_path_of

# intraword underscores, as in arc_easy, are no markup
MARKUP = re.compile(r"[\\`*\[\]<&~$#]|(?<![^\W_])_|_(?![^\W_])")


@dataclasses.dataclass(frozen=True)
class ReportedEffect:
    """What a path changes on questions that it was not chosen on; all shares are 0 to 1."""

    __pydantic_config__: ClassVar = {"strict": True}

    task: str  # with its split
    n: int  # questions
    before: float  # accuracy of the pretrained model
    after: float  # accuracy along the path
    difference: float  # after - before
    interval: tuple[float, float]  # of the difference, 95 %

    def __post_init__(self):
        low, high = self.interval
        if not (0 <= self.before <= 1 and 0 <= self.after <= 1 and self.n >= 1):
            raise InputError(
                f"accuracies are shares of at least one question, got before {self.before}, after "
                f"{self.after}, n {self.n}."
            )
        if abs(self.after - self.before - self.difference) > 1e-3 or not low <= high:
            raise InputError(
                f"the difference {self.difference} [{low}, {high}] does not fit {self.before} "
                f"before and {self.after} after."
            )

    def markdown(self) -> str:
        """Returns the effect as a table."""
        low, high = self.interval
        cell = literal(self.task).replace("|", "\\|")
        return (
            "| task | questions | accuracy before | after | difference, points | 95 % interval |\n"
            "|---|---|---|---|---|---|\n"
            f"| {cell} | {self.n} | {self.before:.1%} | {self.after:.1%} | "
            f"{100 * self.difference:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} |"
        )


def read_effect(
    file: Path, path: Sequence[int], num_layers: int, model: str | None = None
) -> ReportedEffect:
    """Reads what a path does to a model from static.json, results.json or a file of its fields.

    Raises InputError if fields are missing or of another kind, and for the effect of another path
    or model than those given.
    """
    values, name = read_json(file), format_path(path)
    with reading(file):
        if "cola_jax" in values:
            values = of_results(file, values, name)
        measured = values.get("path")
        if isinstance(measured, str):
            measured = format_path(parse_path_of(file, measured, num_layers))
        rests_on = {"model": values.get("model"), "path": measured}
        here = {"model": model, "path": name}
        check_belongs(str(file), rests_on, "this export", here, "measure this path on this model")
    names = ", ".join(field.name for field in dataclasses.fields(ReportedEffect))
    hint = f"A measured effect has the fields {names}, in the file itself or in its field effect."
    with reading(file, hint):
        effect = json.dumps(values.get("effect", values))
        return TypeAdapter(ReportedEffect).validate_json(effect)


def of_results(file: Path, results: dict[str, Any], path: str) -> dict[str, Any]:
    """Returns the effect of a path in the results of `cola evaluate`, as static.json has it."""
    known = results["cola_jax"]["effects"].get("paths", {})
    if list(known) != [path]:
        raise InputError(
            f"{file} measures {', '.join(known) or 'no path'} against the identity path, but an "
            f"effect is that of one path, chosen before: `cola evaluate` {path} alone with it."
        )
    (task, *_) = (config["task"] for config in results["configs"].values())
    model = results["cola_jax"]["settings"]["model"]
    return {"model": model, "path": path, "effect": {"task": task, **known[path]}}


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model card states."""

    path: tuple[int, ...]
    num_layers: int  # of the original
    origin: dict[str, Any]  # of the checkpoint, as its metadata has it
    command: str
    effect: ReportedEffect | None = None
    model: str = ""  # digest of the original
    base: str | None = None  # where the base model of an adapter is; None for a whole model

    def markdown(self) -> str:
        """Returns the text of README.md."""
        parts = [self.front_matter(), self.summary(), self.layers()]
        if self.effect is not None:
            parts.append(f"## Measured effect\n\n{self.effect.markdown()}")
        parts += [f"## Use\n\n```python\n{self.usage()}\n```", self.source()]
        return "\n\n".join(parts) + "\n"

    @property
    def name(self) -> str:
        """The original's name, for Markdown; of a local one, without the folders above it."""
        name = str(self.origin.get("name", "a pretrained model"))
        return literal(name if self.origin.get("kind") == "hub" else Path(name).name)

    def front_matter(self) -> str:
        """Returns what the Hub reads."""
        lines = ["---", f"library_name: {'transformers' if self.base is None else 'peft'}"]
        if self.origin.get("kind") == "hub":
            lines.append(f"base_model: {self.origin['name']}")
        return "\n".join([*lines, "tags:", "- chain-of-layers", "---"])

    def summary(self) -> str:
        """Returns the heading, and what the model is."""
        revision = self.origin.get("revision")
        at = f" at revision `{revision}`" if revision else ""
        return (
            f"# {self.name}, path {format_path(self.path)}\n\n"
            f"The layers of {self.name}{at}, run in the order `{format_path(self.path)}`. No "
            "weight was trained or changed."
        )

    def layers(self) -> str:
        """Returns a table of what the path does with the layers."""
        counts = [self.path.count(layer) for layer in range(self.num_layers)]
        skipped = [layer for layer, count in enumerate(counts) if count == 0]
        repeated = [f"{layer} ({n} times)" for layer, n in enumerate(counts) if n > 1]
        moves = sum(b < a for a, b in zip(self.path, self.path[1:], strict=False))
        return (
            f"| | |\n|---|---|\n| layers of the original | {self.num_layers} |\n"
            f"| layers run | {len(self.path)} |\n"
            f"| skipped | {format_path(skipped) or 'none'} |\n"
            f"| run more than once | {', '.join(repeated) or 'none'} |\n"
            f"| steps back to an earlier layer | {moves} |"
        )

    def usage(self) -> str:
        """Returns Python that loads the model."""
        if self.base is None:
            return (
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")\n'
                'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")'
            )
        revision = self.origin.get("revision") if self.origin.get("kind") == "hub" else None
        at = f', revision="{revision}"' if revision else ""
        return (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{self.base}"{at})\n'
            'model = PeftModel.from_pretrained(base, "THIS_FOLDER")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{self.base}"{at})'
        )

    def source(self) -> str:
        """Returns the command that made it, and the path for other tools."""
        return (
            f"## Made by\n\n```\n{self.command}\n```\n\n"
            f"The path as JSON: `{json.dumps(list(self.path))}`, its digest "
            f"`{path_digest(self.path)}`, that of the model `{self.model}`."
        )


def literal(text: str) -> str:
    """Write a text in one line of Markdown that shows it as it is: no HTML, link or image."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
