"""`cola report`."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cola_jax.cli.flags import Command
from cola_jax.cli.verbosity import console, log
from cola_jax.errors import InputError
from cola_jax.files import check_file, readable_json, write_whole

if TYPE_CHECKING:
    from etils import epath

    from cola_jax.report.compare import Change
    from cola_jax.report.preference import Preference
    from cola_jax.report.summary import Summary
    from cola_jax.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Print what a run found, and write it as an HTML page that opens offline, and as Markdown.

    Several searches of one model are compared on one page.
    """

    run_directories: Annotated[Positional[tuple[str, ...]], arg(help_behavior_hint="(required)")]
    """What `cola search`, `cola evaluate` or `cola scan` made; several searches for one page."""
    page: Path | None = None
    """Where to write the page, and of searches or a scan the same table beside it as .md or .csv;
    report.html in the run directory by default, in the current one for several runs. The
    paths of many questions go to a folder beside the page, such as report_files."""
    polar: Path | None = None
    """Where to write the paths of each question as PoLar's merged_mcts_samples.json."""
    null: bool = False
    """Print instead what the tests say where there is nothing to find: gold is drawn anew among the
    answers that were searched for; and the smallest effect that the run would show."""
    preference: Path | None = None
    """The results.json of another search with the same model, whose preference for gold among the
    answers searched for is used, where a run has few questions; fitted to each run by default."""
    json: bool = False
    """Print the results as JSON, as results.json has them."""

    def run(self) -> None:
        from cola_jax.runs.run import Run

        if self.page is not None:
            check_page(self.page)
        single = [name for name in ("null", "polar") if getattr(self, name)]
        if single and len(self.run_directories) > 1:
            raise InputError(f"--{single[0]} is of one run: give one run directory.")
        runs = [Run(directory) for directory in self.run_directories]
        if self.null:
            self.show_null(runs[0])
            return
        self.export(runs[0])
        if len(runs) == 1:
            self.show(runs[0])
        else:
            self.compare(runs)

    def export(self, run: "Run") -> None:
        """Write the file of another project that is asked for."""
        from cola_jax.runs.peers import write_polar

        if self.polar is not None:
            console.print(write_polar(run, self.polar), soft_wrap=True)

    def show_null(self, run: "Run") -> None:
        """Print the results of a search without anything to find."""
        from cola_jax.report.null import DRAWS, null, null_table
        from cola_jax.report.summary import check_search, ways_of
        from cola_jax.scoring.statistics import number_or_none

        if self.page or self.polar:
            raise InputError("--null writes no file: leave out --page and --polar.")
        check_search(run, run.manifest()["settings"])
        ways, preference = ways_of(run), self.read_preference(run)
        targets = {name: ways.targets(name)[1] for name in ways.names}
        if not any(len(each.hits) for each in targets.values()):
            raise InputError(
                f"{run.directory} has no wrong question that was searched for other options: "
                "search with --control all."
            )
        nulls = {name: null(each, preference, DRAWS) for name, each in targets.items()}
        if self.json:
            print_json(number_or_none({name: each.to_json() for name, each in nulls.items()}))
        else:
            console.print(null_table(nulls, weighted=ways.weighted))

    def read_preference(self, run: "Run") -> "Preference | None":
        """Read the preference of another run for this one, if one is named."""
        from cola_jax.report.results import read_preference

        if self.preference is None:
            return None
        return read_preference(self.preference, run.manifest()["settings"])

    def show(self, run: "Run") -> dict[str, Any]:
        """Print the table of a run, write its page, and return the results but of a scan."""
        from cola_jax import report

        command = run.manifest()["settings"].get("command")
        if command != "search" and self.preference is not None:
            raise InputError("--preference belongs to searches: leave it out.")
        if command == "scan":
            self.show_scan(run)
            return {}
        summary = None
        if command != "evaluate":
            summary = report.summarise(run, self.read_preference(run))
        results = report.write_results(run, summary)
        if self.json:
            print_json(results)
        else:
            table = report.paths_table(run) if summary is None else report.summary_table(summary)
            console.print(table)
        page = self.page_in(run.directory)
        if summary is None:
            report.write_paths_page(run, page)
            log.info("report: %s", page)
        else:
            self.write([run], [summary], page)
        return results

    def page_in(self, folder: Any) -> "epath.Path":
        """Return where the page is written, by default in this folder."""
        from etils import epath

        return epath.Path(self.page or folder / "report.html")

    def compare(self, runs: "Sequence[Run]") -> None:
        """Print the table of each of several searches, and write one page about all."""
        from cola_jax import report

        report.check_runs(runs)
        preference = self.read_preference(runs[0])
        summaries = [report.summarise(run, preference) for run in runs]
        results = list(map(report.write_results, runs, summaries))
        names = report.run_names(runs)
        changes = report.compare_runs(runs, summaries[0].num_layers, preference)
        if self.json:
            for result, change in zip(results[1:], changes, strict=True):
                result["against"] = {"run": names[0], **change.to_json()}
            print_json(results)
        else:
            for name, summary in zip(names, summaries, strict=True):
                console.print(name, style="bold")
                console.print(report.summary_table(summary))
            console.print(report.changes_table(names, changes))
        self.write(runs, summaries, self.page_in(Path()), changes)

    def write(
        self,
        runs: "Sequence[Run]",
        summaries: "Sequence[Summary]",
        page: "epath.Path",
        compared: "Sequence[Change]" = (),
    ) -> None:
        """Write the page and its Markdown, and say where they are."""
        from cola_jax import report

        markdown = page.with_suffix(".md")
        report.write_page(runs, summaries, page, compared)
        report.write_markdown(runs, summaries, markdown)
        log.info("report: %s, and as Markdown %s", page, markdown)

    def show_scan(self, run: "Run") -> None:
        """Print the best blocks of a scan, and write the map as CSV and as a page."""
        from cola_jax.report.scan import summarise_scan
        from cola_jax.report.scan_page import write_scan_page
        from cola_jax.report.scan_table import scan_csv, scan_table

        summary, page = summarise_scan(run), self.page_in(run.directory)
        table = scan_csv(summary)
        if self.json:
            print_json(list(csv.DictReader(io.StringIO(table))))
        else:
            console.print(scan_table(summary))
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page.with_suffix(".csv"), table.encode())
        write_scan_page(run, summary, page)
        log.info("report: %s, and every block %s", page, page.with_suffix(".csv"))


def check_page(page: Path) -> None:
    """Raise InputError for a page that would replace another file, OSError where none can be."""
    check_file(page)
    if page.suffix not in (".html", ".htm"):
        raise InputError(f"--page {page} is an HTML page: give a name that ends in .html.")


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(readable_json(value, default=str, allow_nan=False))


def show_results(directories: Sequence[str], as_json: bool) -> None:
    """Show the results of one run, or those of several tasks and one table over all of them."""
    from cola_jax import report
    from cola_jax.runs.run import Run

    runs = [Run(directory) for directory in directories]
    if len(runs) == 1:
        Report((directories[0],), json=as_json).show(runs[0])
    elif as_json:
        print_json([report.write_results(run) for run in runs])
    else:
        console.print(report.tasks_table([Report(()).show(run) for run in runs]))
