"""What a page says about a run: the model, the task, and the settings that made it."""

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from cola_jax.errors import count
from cola_jax.strategies.rules import PRESETS

DIGEST_DIGITS = 12
MAX_NAME = 120  # characters
MAX_VALUE = 2000  # characters of a setting


def model_name(start: dict[str, Any]) -> str:
    """Returns the name of the model: a Hub id, or the last part of a local path."""
    origin = start.get("origin") or {}
    name = str(origin.get("name") or start.get("model") or "unknown model")
    return title(name if origin.get("kind") == "hub" else PurePath(name).name)


def task_name(start: dict[str, Any]) -> str:
    """Returns the name of the task: its own, or the last part of a local path."""
    return title(PurePath(str(start.get("task", "unknown task"))).name)


def run_details(
    settings: dict[str, Any], start: dict[str, Any], starts: int
) -> list[tuple[str, str]]:
    """Lists what is needed to judge or reproduce the run, as far as it was recorded."""
    origin = start.get("origin") or {}
    prompt = settings.get("prompt") or {}  # none of multiple choice without shots
    versions = dict(start.get("versions") or {})
    if "python" in start:
        versions["python"] = start["python"]
    details = {
        "model": " · ".join(str(origin[k]) for k in ("kind", "name", "revision") if origin.get(k)),
        "checkpoint": f"{start.get('model', '')} {short_digest(settings.get('model'))}",
        "task": f"{start.get('task', '')} {short_digest(settings.get('task'))}",
        "split": start.get("split"),
        "scorer": settings.get("scorer"),
        "prompt": prompt_name(prompt),
        "chat template": "yes" if settings.get("chat") or prompt.get("chat") else "no",
        "token limit": settings.get("max_new_tokens"),
        "grader": settings.get("grader"),
        **(search_details(settings) if settings.get("command") == "search" else {}),
        "control searches": settings.get("control"),
        "decoys": settings.get("decoys"),
        "search for": "right in all variants" if settings.get("robust") else None,
        "variants": ", ".join(settings.get("variants") or ()),
        "dtype": settings.get("dtype"),
        "device": start.get("device"),
        "date": start.get("date"),
        "starts": starts if starts > 1 else None,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return shortened({name: value for name, value in details.items() if value not in (None, "")})


def shortened(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists names and values as texts that are not too long to be read."""
    return [
        (cut_middle(name, MAX_NAME), cut_middle(str(one), MAX_VALUE))
        for name, one in values.items()
    ]


def search_details(settings: dict[str, Any]) -> dict[str, Any]:
    """Names the settings of a search."""
    return {
        "preset": preset_name(settings.get("strategy", "tree"), settings.get("preset")),
        "simulations": f"{settings.get('simulations')} per question",
        "leaves": f"{settings.get('leaves')} per question and wave",
        "seed": settings.get("seed"),
        "early stop": "yes" if settings.get("early_stop") else "no",
    }


def prompt_name(prompt: dict[str, Any]) -> str | None:
    """Describes a prompt by its format and number of shots."""
    if not prompt:
        return None
    style = prompt["format"]  # of multiple choice, and of other projects' prompts, a name
    name = style["name"] if isinstance(style, dict) else style
    # lm-evaluation-harness has shots of its own: how many, where that was asked for
    shots = prompt.get("num_fewshot", len(prompt.get("shots") or ()))
    return name if shots is None else f"{name}, {count(shots, 'shot')}"


def short_digest(value: Any) -> str:
    """Shortens a digest."""
    return f"({value[:DIGEST_DIGITS]}…)" if isinstance(value, str) else ""


def preset_name(strategy: str, values: dict[str, Any] | None) -> str:
    """Returns the name of the preset of a strategy that has these values."""
    for name, preset in PRESETS.items():
        own = dataclasses.asdict(preset)
        # an older run may lack a field
        if preset.name == strategy and values and own | values == own:
            return name
    return "custom"


def cut_middle(text: str, limit: int) -> str:
    """Remove the middle of a long text, as the answer is often at the end."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]} […{len(text) - limit:,} characters left out…] {text[-tail:]}"


def title(name: str) -> str:
    """Write a name for a title or a legend: short, and of characters that are shown.

    Others could end the line, or turn the direction of the numbers that follow.
    """
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 3]}…{name[-MAX_NAME // 2 :]}"
    return "".join(char if char.isprintable() else "\ufffd" for char in short)
