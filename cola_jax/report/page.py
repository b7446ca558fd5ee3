"""One self-contained HTML page about a search run."""

import dataclasses
import math
from pathlib import PurePath
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from cola_jax.report.browser import MOST_QUESTIONS, browse, script_json
from cola_jax.report.figures import layer_heatmap, length_histogram
from cola_jax.report.share import Share
from cola_jax.report.summary import Summary
from cola_jax.report.table import Line, caption, noun, summary_lines
from cola_jax.runs.directory import RunDirectory, write_whole
from cola_jax.search.presets import PRESETS

SHORT = 12  # digits of a digest that are shown

BAR = 120  # width of the drawing of an interval


def write_page(run: RunDirectory, summary: Summary, file: epath.PathLike) -> None:
    """Writes the report of a search run as one HTML file that needs no other file and no network.

    Raises ValueError where matplotlib is missing; OSError where the file cannot be written.
    """
    target = epath.Path(file)
    content = render(run, summary)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content.encode())


def render(run: RunDirectory, summary: Summary) -> str:
    """Makes the page's text."""
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    questions = browse(run)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cola_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        summary=summary,
        model=model_name(start),
        task=PurePath(str(start.get("task", "unknown task"))).name,
        groups=summary_lines(summary),
        caption=caption(summary),
        whiskers=whiskers,
        facts=facts(settings, start, len(manifest["starts"])),
        preset=settings.get("preset") or {},
        early_stop=bool(settings.get("early_stop")),
        noun=noun(summary),
        judgement=judgement(summary),
        histogram=Markup(length_histogram(summary)),
        heatmap=Markup(layer_heatmap(summary)),
        most_questions=MOST_QUESTIONS,
        data=script_json(
            {
                "layers": summary.num_layers,
                "open": summary.open,
                "decodes": summary.decodes,
                "questions": questions,
            }
        ),
    )


def model_name(start: dict[str, Any]) -> str:
    """Names the model: a Hub id whole, a file or a folder without what leads there."""
    origin = start.get("origin") or {}
    name = str(origin.get("name") or start.get("model") or "unknown model")
    return name if origin.get("kind") == "hub" else PurePath(name).name


def facts(settings: dict[str, Any], start: dict[str, Any], starts: int) -> list[tuple[str, str]]:
    """Lists what a reader needs to judge or repeat the run, as far as it was recorded."""
    origin = start.get("origin") or {}
    prompt = settings.get("prompt") or {}  # of open questions
    versions = dict(start.get("versions") or {})
    if "python" in start:
        versions["python"] = start["python"]
    named = {
        "model": " · ".join(str(origin[k]) for k in ("kind", "name", "revision") if origin.get(k)),
        "checkpoint": f"{start.get('model', '')} {digest(settings.get('model'))}",
        "task": f"{start.get('task', '')} {digest(settings.get('task'))}",
        "split": start.get("split"),
        "scorer": settings.get("scorer"),
        "prompt": prompt_name(prompt),
        "chat template": "yes" if settings.get("chat") or prompt.get("chat") else "no",
        "token limit": settings.get("max_new_tokens"),
        "grader": settings.get("grader"),
        "preset": preset_name(settings.get("preset")),
        "simulations": f"{settings.get('simulations')} per question",
        "leaves": f"{settings.get('leaves')} per question and wave",
        "seed": settings.get("seed"),
        "early stop": "yes" if settings.get("early_stop") else "no",
        "dtype": settings.get("dtype"),
        "device": start.get("device"),
        "date": start.get("date"),
        "starts": starts if starts > 1 else None,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(name, str(value)) for name, value in named.items() if value not in (None, "")]


def prompt_name(prompt: dict[str, Any]) -> str | None:
    """Names the format of a prompt, and says how many shots it has."""
    if not prompt:
        return None
    shots = len(prompt.get("shots") or ())
    return f"{prompt['format']['name']}, {shots} shot{'' if shots == 1 else 's'}"


def digest(value: Any) -> str:
    """Shortens a digest."""
    return f"({value[:SHORT]}…)" if isinstance(value, str) else ""


def preset_name(values: dict[str, Any] | None) -> str:
    """Finds the preset that has these values."""
    for name, preset in PRESETS.items():
        if dataclasses.asdict(preset) == values:
            return name
    return "custom"


def judgement(summary: Summary) -> str:
    """Says in words what the control leaves of the W→C rate."""
    low, high = summary.net.interval
    if math.isnan(low):
        return (
            "This run has no question that was wrong before and has a control: nothing to compare."
        )
    if low > 0:
        return "Here the whole interval of the difference lies above 0."
    if high < 0:
        return (
            f"Here the whole interval lies below 0: the wrong {noun(summary)} was reached more "
            "often."
        )
    return (
        "Here the interval of the difference contains 0: these questions do not show that the "
        "search does more for the right answer than for any other."
    )


def whiskers(line: Line) -> dict[str, float] | None:
    """Places a share and its interval on a bar; None where there is nothing to draw."""
    share = line.share
    if not isinstance(share, Share) or not share.n:
        return None
    low, high = share.interval
    return {"at": BAR * share.value, "low": BAR * low, "high": BAR * high, "width": BAR}
