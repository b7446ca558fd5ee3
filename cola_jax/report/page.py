"""The HTML page of search runs: one file, and for many questions a folder of scripts beside it."""

import base64
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from cola_jax.files import write_whole
from cola_jax.report.chunks import chunk_name, gather_questions, script_json, write_chunks
from cola_jax.report.compare import Change, run_names
from cola_jax.report.details import model_name, run_details, shortened, task_name
from cola_jax.report.page_data import figures_of
from cola_jax.report.summary import Summary
from cola_jax.report.table import (
    LABELS,
    TableRow,
    format_interval,
    format_points,
    net_row,
    share_row,
    summary_caption,
    summary_rows,
)
from cola_jax.runs.run import Run

BAR_WIDTH = 120  # of the drawing of an interval
INLINE = 1_500_000  # characters of questions up to which a page needs no files beside it
SCRIPTS = (
    "dom.js",
    "charts.js",
    "marks.js",
    "figure.js",
    "figures.js",
    "layer_figures.js",
    "paths.js",
    "question.js",
    "questions.js",
)


def write_page(
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    file: epath.PathLike,
    compared: Sequence[Change] = (),
) -> None:
    """Writes the report of one search run, or of several of one model, as an HTML page.

    Of several, `compared` are the others with the first.

    The page needs no network. The paths of many questions are in a folder of scripts beside it,
    which `report.html` calls `report_files`. Raises OSError where a file cannot be written.
    """
    target = epath.Path(file)
    questions = gather_questions(runs, summaries)
    chunks = questions.chunks
    beside = questions.characters > INLINE
    folder = target.parent / f"{target.stem}_files"
    token = hashlib.sha256()
    for chunk in chunks:
        token.update("".join(chunk).encode())
    names = run_names(runs)
    data = {
        "runs": names,
        "layers": summaries[0].num_layers,
        "open": summaries[0].open,
        "decodes": summaries[0].decodes,
        "figures": figures_of(list(zip(names, runs, summaries, strict=True))),
        "questions": questions.listed,
        "token": token.hexdigest()[:16],
        "files": [f"{folder.name}/{chunk_name(i)}" for i in range(len(chunks))] if beside else [],
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    # before the page that loads them
    write_chunks(folder, data["token"], chunks if beside else [])
    content = render(
        "page.html",
        SCRIPTS,
        data=script_json(data),
        chunks=[] if beside else [Markup(f"[{','.join(chunk)}]") for chunk in chunks],
        **page_values(runs, summaries, names, compared),
    )
    write_whole(target, content)


def page_values(
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    names: Sequence[str],
    compared: Sequence[Change],
) -> dict[str, Any]:
    """Returns what the template shows of the runs."""
    manifests = [run.manifest() for run in runs]
    starts = [manifest["starts"][-1] for manifest in manifests]
    return {
        "model": model_name(starts[0]),
        "task": ", ".join(dict.fromkeys(map(task_name, starts))),
        "names": names,
        "summaries": summaries,
        "summary": summaries[0],
        "groups": summary_rows(summaries[0]) if len(runs) == 1 else compared_rows(summaries),
        "headlines": list(map(headline_rows, summaries)),
        "changes": compared,
        "captions": list(dict.fromkeys(map(summary_caption, summaries))),
        "settings": [run_settings(manifest) for manifest in manifests],
        "interval_bar": interval_bar,
        "conclusion": control_conclusion,
        "points": format_points,
        "interval": format_interval,
    }


def run_settings(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Lists the settings of a run and those of its strategy."""
    settings, starts = manifest["settings"], manifest["starts"]
    preset = (settings.get("preset") or {}).items()
    own = {name.replace("_", " "): value for name, value in preset}
    return run_details(settings, starts[-1], len(starts)) + shortened(own)


def compared_rows(summaries: Sequence[Summary]) -> list[tuple[str, list[list[TableRow]]]]:
    """Lists the rows of several summaries side by side, by heading; a run may lack some.

    A label may have a number of its run, such as `(+35%)`, which does not tell rows apart.
    """
    tables = [dict(summary_rows(summary)) for summary in summaries]
    groups = []
    for heading in dict.fromkeys(heading for table in tables for heading in table):
        rows: dict[tuple[str, int], list[TableRow]] = {}
        for i, table in enumerate(tables):
            seen: dict[str, int] = {}
            for row in table.get(heading, []):
                label = re.sub(r" \([+-]\d+%\)", "", row.label)
                # the label of control searches is the same in several rows
                number = seen[label] = seen.get(label, 0) + 1
                empty = [TableRow(label, "", role=row.role)] * len(tables)
                rows.setdefault((label, number), empty)[i] = row._replace(label=label)
        groups.append((heading, list(rows.values())))
    return groups


def headline_rows(summary: Summary) -> list[TableRow]:
    """Lists the numbers that a reader looks for first."""
    return [
        share_row("correct before", summary.before),
        share_row("correct on some path", summary.after),
        share_row("W→C", summary.corrected),
        share_row("control of W→C", summary.control, "control"),
        net_row(LABELS[next(iter(summary.nets))], summary.net),
        share_row("C→C on fewer layers", summary.shortened),
    ]


@functools.cache
def templates() -> jinja2.Environment:
    """Loads templates, scripts and styles from the package."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cola_jax", "report/assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def asset(name: str) -> str:
    """Reads a script or style as it is."""
    environment = templates()
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]


def render(template: str, scripts: Sequence[str], **values: Any) -> bytes:
    """Renders a page whose security policy allows its own script and style, and no others.

    Scripts that this one adds are those beside the page; markup in a text of a run could add none.
    """
    script = '"use strict";\n(() => {\n' + "".join(asset(name) for name in scripts) + "})();\n"
    style = asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{policy_hash(script)}' 'strict-dynamic'; "
        f"style-src '{policy_hash(style)}'; base-uri 'none'; form-action 'none'"
    )
    content = (
        templates()
        .get_template(template)
        .render(script=Markup(script), style=Markup(style), policy=policy, **values)
    )
    return content.encode(errors="replace")  # a name of a file may not be UTF-8


def policy_hash(content: str) -> str:
    """Names a script or style in a security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def control_conclusion(summary: Summary) -> str:
    """States in words what the control leaves of the W→C rate."""
    net = summary.net
    low, high = net.interval
    if not net.n and summary.unscored:
        return "The scores of the pretrained model, which the comparison needs, are not stored."
    if not net.n:
        return "No question that was wrong before has a control, so there is nothing to compare."
    if net.undecided:
        return (
            "Here the model's preference alone nearly decides which answer is the correct one, so "
            "nothing can be told."
        )
    if math.isnan(low):
        return (
            f"Here {net.reached} of {net.n} correct answers were reached where {net.expected:.1f} "
            "are expected, and too few questions tell a difference for an interval."
        )
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


def interval_bar(row: TableRow) -> dict[str, float] | None:
    """Places a share and its interval on a bar; None where there is nothing to draw."""
    if row.share is None or not row.share.n:
        return None
    low, high = (BAR_WIDTH * bound for bound in row.share.interval)
    return {"at": BAR_WIDTH * row.share.value, "low": low, "high": high, "width": BAR_WIDTH}
