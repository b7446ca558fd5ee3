"""What a command prints and writes of its results."""

from typing import TYPE_CHECKING

from cola_jax.cli.flags import console
from cola_jax.cli.report import print_json
from cola_jax.files import write_whole
from cola_jax.progress import log

if TYPE_CHECKING:
    from etils import epath

    from cola_jax.runs.results import Results


def print_results(results: "Results", *, as_json: bool, whole: bool = False) -> None:
    """Print results as JSON, or as a report, with all of its tables if `whole`."""
    from cola_jax.report.document import Document, terminal_report

    if as_json:
        print_json(results.to_json())
    else:
        console.print(terminal_report(Document.of(results), whole=whole))


def write_report(results: "Results", folder: "epath.Path") -> None:
    """Write results into a folder, as JSON, as a page and as Markdown."""
    from cola_jax.report.document import Document, markdown_report
    from cola_jax.report.page import write_page
    from cola_jax.runs.results import RESULTS, write_results

    document = Document.of(results)
    write_page(document, folder / "report.html")
    markdown = markdown_report(document, whole=True)
    write_whole(folder / "report.md", markdown.encode(errors="replace"))
    write_results(results, folder / RESULTS)
    log.info("written to %s", folder / RESULTS)
