"""The HTML page of a run: one file, and for many questions a folder of scripts beside it."""

import base64
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from cola_jax.files import write_whole
from cola_jax.report.compare import Change, compared_report, run_names
from cola_jax.report.figures import scan_figures, search_figures
from cola_jax.report.questions import Questions, gather_questions, script_json, write_chunks
from cola_jax.report.scan import ScanSummary
from cola_jax.report.summary import Summary
from cola_jax.report.tables import RunReport
from cola_jax.runs.run import Run

INLINE = 1_000_000  # characters of questions up to which a page needs no files beside it
SCRIPTS = ("dom.js", "figures.js", "questions.js")


def write_search_page(
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    file: epath.PathLike,
    changes: Sequence[Change] = (),
) -> None:
    """Write the report of one search run, or of several of one model, as an HTML page.

    Of several, `changes` are the comparisons of the others with the first. The paths of many
    questions go to a folder of scripts beside the page, which `report.html` calls `report_files`.
    Raises OSError where a file cannot be written.
    """
    names = run_names(runs)
    data = {
        "runs": names,
        "layers": summaries[0].num_layers,
        "open": summaries[0].open,
        "decodes": summaries[0].decodes,
        "float32": summaries[0].dtype == "float32",
        "figures": search_figures(list(zip(names, runs, summaries, strict=True))),
    }
    report, questions = compared_report(runs, summaries, changes), gather_questions(runs, summaries)
    write_page(report, file, data, questions, summaries)


def write_scan_page(report: RunReport, summary: ScanSummary, file: epath.PathLike) -> None:
    """Write the page of a scan; OSError where the file cannot be written."""
    write_page(report, file, {"figures": scan_figures(summary)})


def write_page(
    report: RunReport,
    file: epath.PathLike,
    data: dict[str, Any] | None = None,
    questions: Questions | None = None,
    summaries: Sequence[Summary] = (),
) -> None:
    """Write a report as an HTML page; it needs no network.

    Raises OSError where a file cannot be written.

    Args:
      report: the tables.
      file: the page.
      data: what the scripts draw.
      questions: those of searches, for the list of questions.
      summaries: of searches, to explain their controls.
    """
    target = epath.Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    data, chunks = {"runs": [], "figures": []} | (data or {}), []
    if questions is not None:
        beside = questions.characters > INLINE
        chunks = [] if beside else questions.chunks
        folder = target.parent / f"{target.stem}_files"
        # before the page that loads them
        files = write_chunks(folder, questions.token, questions.chunks if beside else [])
        data |= {"questions": questions.listed, "token": questions.token, "files": files}
    content = render(
        report=report,
        summaries=summaries,
        figures=data["figures"],
        data=script_json(data),
        chunks=[Markup(f"[{','.join(chunk)}]") for chunk in chunks],
    )
    write_whole(target, content)


@functools.cache
def templates() -> jinja2.Environment:
    """Load the template, scripts and style from the package."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cola_jax", "report/assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def asset(name: str) -> str:
    """Read a script or style as it is."""
    environment = templates()
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]


def render(**values: Any) -> bytes:
    """Render a page whose security policy allows its own script and style, and no others.

    Scripts that this one adds are those beside the page; markup in a text of a run could add none.
    """
    script = '"use strict";\n(() => {\n' + "".join(map(asset, SCRIPTS)) + "})();\n"
    style = asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{policy_hash(script)}' 'strict-dynamic'; "
        f"style-src '{policy_hash(style)}'; base-uri 'none'; form-action 'none'"
    )
    template = templates().get_template("page.html")
    content = template.render(script=Markup(script), style=Markup(style), policy=policy, **values)
    return content.encode(errors="replace")  # a name of a file may not be UTF-8


def policy_hash(content: str) -> str:
    """Name a script or style in a security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
