"""`cola report`."""

import csv
import dataclasses
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils import epath
from tyro.conf import Positional

from cola_jax.commands.flags import console, errors

if TYPE_CHECKING:
    from cola_jax.runs.directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Report:
    """Print what a run found, and write it as one HTML page that opens offline, and as Markdown."""

    run_directory: Positional[str]
    """What `cola search`, `cola evaluate` or `cola scan` made."""
    page: Path | None = None
    """Where to write the page of a search or a scan, and beside it the same table as .md or .csv;
    report.html in the run directory by default."""
    polar: Path | None = None
    """Where to write the paths of each question as PoLar's merged_mcts_samples.json."""
    drllm: Path | None = None
    """Where to write the right paths of each question as a result file of Dr.LLM."""
    json: bool = False
    """Print the results as JSON, as results.json has them."""

    def run(self) -> None:
        self.export()
        self.show(draws=True)

    def export(self) -> None:
        """Writes the files of other projects that are asked for."""
        if self.polar is None and self.drllm is None:
            return
        from cola_jax.runs.directory import RunDirectory
        from cola_jax.runs.searched import write_drllm, write_polar

        run = RunDirectory(self.run_directory)
        for write, file in ((write_polar, self.polar), (write_drllm, self.drllm)):
            if file is not None:
                console.print(write(run, file), soft_wrap=True, markup=False)

    def show(self, draws: bool) -> dict[str, Any]:
        """Prints the table, writes the page if it draws, and returns the results but of a scan."""
        from cola_jax import report
        from cola_jax.runs.directory import RunDirectory

        run = RunDirectory(self.run_directory)
        command = run.manifest()["settings"].get("command")
        if command == "scan":
            self.show_scan(run, draws)
            return {}
        if command == "evaluate" and self.page is not None:
            raise ValueError("--page belongs to a search or a scan: an evaluation has no page.")
        summary = None if command == "evaluate" else report.summarise(run)
        results = report.write_results(run, summary)
        if self.json:
            print_json(results)
        else:
            table = report.paths_table(run) if summary is None else report.summary_table(summary)
            console.print(table)
        if summary is None:
            return results
        if not draws:
            self.say_how_to_draw()
            return results
        page = self.page or run.directory / "report.html"
        report.write_page(run, summary, page)
        report.write_markdown(run, summary, page.with_suffix(".md"))
        errors.print(f"report: {page}, and as Markdown {page.with_suffix('.md')}", soft_wrap=True)
        return results

    def show_scan(self, run: "RunDirectory", draws: bool) -> None:
        """Prints the best blocks of a scan; writes the map as CSV, and as a page if it draws."""
        from cola_jax.report.scan import summarise_scan
        from cola_jax.report.scan_page import write_scan_page
        from cola_jax.report.scan_table import scan_csv, scan_table
        from cola_jax.runs.directory import write_whole

        summary = summarise_scan(run)
        if self.json:
            print_json(list(csv.DictReader(io.StringIO(scan_csv(summary)))))
        else:
            console.print(scan_table(summary))
        page = epath.Path(self.page or run.directory / "report.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page.with_suffix(".csv"), scan_csv(summary).encode())
        errors.print(f"every block: {page.with_suffix('.csv')}", soft_wrap=True)
        if not draws:
            self.say_how_to_draw()
            return
        write_scan_page(run, summary, page)
        errors.print(f"report: {page}", soft_wrap=True)

    def say_how_to_draw(self) -> None:
        """Prints how to get the page where matplotlib is missing."""
        errors.print(
            f"for the page: pip install 'cola-jax[report]' && cola report {self.run_directory}",
            soft_wrap=True,
            markup=False,
        )


def report_extra_installed() -> bool:
    """Whether the page of a report can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def show_results(directories: Sequence[str], as_json: bool) -> None:
    """Shows the results of one run, or those of several tasks and one table over all of them."""
    from cola_jax import report
    from cola_jax.runs.directory import RunDirectory

    if len(directories) == 1:
        Report(directories[0], json=as_json).show(draws=report_extra_installed())
        return
    if as_json:
        print_json([report.write_results(RunDirectory(directory)) for directory in directories])
        return
    every = [Report(one).show(draws=report_extra_installed()) for one in directories]
    console.print(report.tasks_table(every))
