"""A self-contained HTML page about a search run."""

import dataclasses
import functools
import math
from pathlib import PurePath
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from cola_jax.report.browser import MAX_QUESTIONS, browser_questions, script_json
from cola_jax.report.figures import accuracy_by_depth, layer_heatmap, length_histogram
from cola_jax.report.summary import Summary
from cola_jax.report.table import Row, summary_caption, summary_rows
from cola_jax.runs.directory import RunDirectory, write_whole
from cola_jax.search.presets import PRESETS

DIGEST_DIGITS = 12
BAR_WIDTH = 120  # of the drawing of an interval


def write_page(run: RunDirectory, summary: Summary, file: epath.PathLike) -> None:
    """Writes the report of a search run as one HTML file that needs no other file and no network.

    Raises ValueError where matplotlib is missing, OSError where the file cannot be written.
    """
    target = epath.Path(file)
    content = render(run, summary)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content.encode())


@functools.cache
def page_template(name: str) -> jinja2.Template:
    """Loads the template of a page."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cola_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template(name)


def render(run: RunDirectory, summary: Summary) -> str:
    """Renders the page."""
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    data = {
        "layers": summary.num_layers,
        "open": summary.open,
        "decodes": summary.decodes,
        "questions": browser_questions(run),
    }
    return page_template("page.html").render(
        summary=summary,
        model=model_name(start),
        task=task_name(start),
        groups=summary_rows(summary),
        caption=summary_caption(summary),
        interval_bar=interval_bar,
        details=run_details(settings, start, len(manifest["starts"])),
        preset=settings.get("preset") or {},
        conclusion=control_conclusion(summary),
        histogram=Markup(length_histogram(summary)),
        depth=Markup(accuracy_by_depth(summary)),
        heatmap=Markup(layer_heatmap(summary)),
        max_questions=MAX_QUESTIONS,
        data=script_json(data),
    )


def model_name(start: dict[str, Any]) -> str:
    """Returns the name of the model: a Hub id, or the last part of a local path."""
    origin = start.get("origin") or {}
    name = str(origin.get("name") or start.get("model") or "unknown model")
    return name if origin.get("kind") == "hub" else PurePath(name).name


def task_name(start: dict[str, Any]) -> str:
    """Returns the name of the task: its own, or the last part of a local path."""
    return PurePath(str(start.get("task", "unknown task"))).name


def run_details(
    settings: dict[str, Any], start: dict[str, Any], starts: int
) -> list[tuple[str, str]]:
    """Lists what is needed to judge or reproduce the run, as far as it was recorded."""
    origin = start.get("origin") or {}
    prompt = settings.get("prompt") or {}  # of open questions
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
    return [(name, str(value)) for name, value in details.items() if value not in (None, "")]


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
    shots = len(prompt.get("shots") or ())
    return f"{prompt['format']['name']}, {shots} shot{'' if shots == 1 else 's'}"


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


def control_conclusion(summary: Summary) -> str:
    """States in words what the control leaves of the W→C rate."""
    low, high = summary.net.interval
    if math.isnan(low):
        return "No question that was wrong before has a control, so there is nothing to compare."
    if low > 0:
        return "Here the whole interval of the difference lies above 0."
    if high < 0:
        return (
            f"Here the whole interval lies below 0: the wrong {summary.answer_noun} was reached "
            "more often."
        )
    return (
        "Here the interval of the difference contains 0: these questions do not show that the "
        "search does more for the correct answer than for any other."
    )


def interval_bar(row: Row) -> dict[str, float] | None:
    """Places a share and its interval on a bar; None where there is nothing to draw."""
    if row.share is None or not row.share.n:
        return None
    low, high = (BAR_WIDTH * bound for bound in row.share.interval)
    return {"at": BAR_WIDTH * row.share.value, "low": low, "high": high, "width": BAR_WIDTH}
