"""`cola report`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cola_jax.cli.flags import HubChoice, HubFlags, Printing, console
from cola_jax.errors import InputError, UsageError, count, reading
from cola_jax.files import (
    check_file,
    check_writable,
    exists,
    read_text,
    readable_json,
    write_whole,
)
from cola_jax.progress import log
from cola_jax.storage import path_of

if TYPE_CHECKING:
    from etils import epath

    from cola_jax.report.document import Document
    from cola_jax.runs.results import Results
    from cola_jax.runs.run import Run
    from cola_jax.scoring.preference import Preference


@dataclasses.dataclass(frozen=True)
class Report(Printing):
    """Print the results of a run, and write them as an HTML page that opens offline.

    Several searches of one model are compared on one page.
    """

    run_directories: Annotated[Positional[tuple[str, ...]], arg(help_behavior_hint="(required)")]
    """Runs of `cola search`, `evaluate` or `scan`, or outputs of `cola static`, `menu`,
    `distill` or `verify`; several searches for one page."""
    page: Annotated[str | None, arg(metavar="PATH")] = None
    """The page to write, with the same tables beside it as .md, and every block of a scan as .csv;
    report.html in the run directory by default, in the current one for several runs. The paths of
    many questions go to a folder beside the page, such as report_files."""
    all: bool = False
    """Print all numbers, not only the verdict and the first ten rows."""
    polar: Path | None = None
    """File to write with the paths of each question, as PoLar's merged_mcts_samples.json."""
    every_eval_ever: Annotated[str | None, arg(metavar="DIRECTORY")] = None
    """Directory to write with a record of each path that was evaluated, and its answers, for Every
    Eval Ever; of a search, the pretrained model's."""
    lm_eval: str | None = None
    """File to write with the results in the layout of lm-evaluation-harness's JSON."""
    preference: Path | None = None
    """The results.json of another search with the same model, whose preference for gold among the
    answers searched for is used, where a run has few questions; fitted to each run by default."""
    repository: HubChoice = dataclasses.field(default_factory=HubFlags)

    def run(self) -> None:
        from cola_jax.runs.results import stored_results
        from cola_jax.runs.run import Run

        if not self.run_directories:
            raise UsageError("`cola report` needs RUN-DIRECTORIES: give at least one.")
        if self.page is not None:
            check_page(self.page)
        flags = {"polar": self.polar, "every-eval-ever": self.every_eval_ever}
        flags["lm-eval"] = self.lm_eval
        for flag, value in (flags | {"push-to-hub": self.repository.push_to_hub}).items():
            if value and len(self.run_directories) > 1:
                raise InputError(f"--{flag} is for one run: give one run directory.")
        runs = [Run(directory) for directory in self.run_directories]
        self.repository.check(runs[0].directory)
        if self.polar is not None:
            from cola_jax.runs.stored import write_polar

            console.print(write_polar(runs[0], self.polar), soft_wrap=True)
        if self.every_eval_ever is not None:
            from cola_jax.extras.every_eval_ever import write_records

            check_writable(self.every_eval_ever)
            records = count(write_records(runs[0], self.every_eval_ever), "record")
            log.info("Every Eval Ever: %s in %s", records, self.every_eval_ever)
        if len(runs) > 1:
            self.compare(runs)
            return
        (run,) = runs
        stored = stored_results(run.directory)
        if stored is not None:
            self.show_stored(stored, run)
        else:
            self.show(run)
            self.upload(run)

    def upload(self, run: "Run") -> None:
        """Upload a run as a data set of two tables, if asked to; its card is the report."""
        import yaml

        from cola_jax.runs.run import TABLES

        if self.repository.push_to_hub is None:
            return
        configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in TABLES]
        fields = {"tags": ["chain-of-layers"], "configs": configs}
        head = f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n\n"
        report, card = self.page_in(run.directory).with_suffix(".md"), run.directory / "README.md"
        if not exists(card) or read_text(card).startswith(head):  # one of the user's own is kept
            write_whole(card, (head + read_text(report)).encode())
        self.repository.push(run.directory, "dataset")

    def show_stored(self, results: "Results", run: "Run") -> None:
        """Print the results of a command that makes no run, and write their page."""
        from cola_jax.deploy.verify.rows import check_rows
        from cola_jax.report.document import Document
        from cola_jax.report.page import write_page
        from cola_jax.runs.results import RESULTS

        flags = {"push-to-hub": self.repository.push_to_hub, "lm-eval": self.lm_eval}
        for flag, value in (flags | {"preference": self.preference}).items():
            if value is not None:
                raise InputError(f"--{flag} is for runs: leave it out.")
        check_rows(run.directory / RESULTS, results)
        with reading(run.directory / RESULTS):
            document = Document.of(results)
        page = self.page_in(run.directory)
        write_page(document, page)
        self.print_report(results.to_json(), document)
        self.write_markdown(document, page, whole=True)  # as the command wrote it

    def show(self, run: "Run") -> "Results":
        """Print the report of a run, write its page, and return its results."""
        from cola_jax.deploy.scan import scan_results
        from cola_jax.report.document import Document
        from cola_jax.report.figures import scan_figures
        from cola_jax.report.harness import harness_json
        from cola_jax.report.page import write_page, write_search_page
        from cola_jax.runs.results import BESIDE, RESULTS, write_results

        command = run.facts().command
        page = self.page_in(run.directory)
        if command != "search" and self.preference is not None:
            raise InputError("--preference is for searches: leave it out.")
        if command in BESIDE:
            raise InputError(
                f"{run.directory} has no results yet: run the same `cola {command}` again, which "
                "evaluates nothing twice."
            )
        is_scan = command == "scan"
        results = scan_results(run) if is_scan else run.summary(self.read_preference(run))
        write_results(results, run.directory / RESULTS)
        if self.lm_eval is not None:
            write_whole(self.lm_eval, json_text(harness_json(results)).encode())
        document = Document.of(results)
        if command == "search":
            write_search_page([run], {str(run.directory): results}, page)
        else:
            write_page(document, page, {"figures": scan_figures(results) if is_scan else []})
        if is_scan:
            write_whole(page.with_suffix(".csv"), results.to_csv().encode())
        self.print_report(results.to_json(), document)
        self.write_markdown(document, page)
        return results

    def compare(self, runs: "Sequence[Run]") -> None:
        """Print the report of several searches, and write one page about all."""
        from cola_jax.report.document import compared, run_names
        from cola_jax.report.page import write_search_page
        from cola_jax.runs.comparison import compare_runs
        from cola_jax.runs.results import RESULTS, Results, write_results

        preference, page = self.read_preference(runs[0]), self.page_in(Path())
        names = run_names(runs)
        changes = Results(compare_runs(runs, names, preference))
        every = {name: run.summary(preference) for name, run in zip(names, runs, strict=True)}
        for run, results in zip(runs, every.values(), strict=True):
            write_results(results, run.directory / RESULTS)
        write_search_page(runs, every, page, changes)
        content = {name: results.to_json() for name, results in every.items()}
        document = compared(every, changes)
        self.print_report({"runs": content, "changes": changes.to_json()}, document)
        self.write_markdown(document, page)

    def read_preference(self, run: "Run") -> "Preference | None":
        """Read the preference of another run for this one, if one is named."""
        from cola_jax.runs.results import read_preference

        if self.preference is None:
            return None
        return read_preference(self.preference, run.facts().settings)

    def page_in(self, folder: Any) -> "epath.Path":
        """Return where the page is written, by default in this folder."""
        return path_of(self.page or folder / "report.html")

    def print_report(self, content: Any, document: "Document") -> None:
        """Print results as JSON, or their report."""
        from cola_jax.report.document import terminal_report
        from cola_jax.report.terminal import visible

        if self.json:
            print_json(content)
        else:
            console.print(terminal_report(document, whole=self.all))
            for line in filter(None, document.next):  # whole, to be copied
                console.print(visible(line), soft_wrap=True, highlight=False)

    def write_markdown(
        self, document: "Document", page: "epath.Path", *, whole: bool = False
    ) -> None:
        """Write a report as Markdown beside its page, and log where they are."""
        from cola_jax.report.document import markdown_report

        file = page.with_suffix(".md")
        write_whole(
            file, markdown_report(document, whole=whole or self.all).encode(errors="replace")
        )
        log.info("report: %s, and as Markdown %s", page, file)


def check_page(page: str) -> None:
    """Raise InputError for a page that would replace another file, OSError where none can be."""
    check_file(page)
    if not page.endswith((".html", ".htm")):
        raise InputError(f"--page {page} is an HTML page: give a name that ends in .html.")


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """Write a value as JSON."""
    return readable_json(value, default=str, allow_nan=False)


def show_results(directories: Sequence[str], as_json: bool, prompts: int = 1) -> None:
    """Show the results of one run, or those of several tasks and one table over all of them.

    Of evaluations in several prompts, in directories one after the other, the tables over them.
    """
    from cola_jax.report.document import Document, several_tasks, terminal_report
    from cola_jax.runs.prompt_results import prompt_results
    from cola_jax.runs.results import RESULTS, write_results
    from cola_jax.runs.run import Run

    runs = [Run(directory) for directory in directories]
    if len(runs) == 1:
        Report((directories[0],), json=as_json).show(runs[0])
        return
    if prompts > 1:
        tasks = [runs[first : first + prompts] for first in range(0, len(runs), prompts)]
        every = [prompt_results(each) for each in tasks]
    elif as_json:
        every = [run.summary() for run in runs]
    else:
        every = [Report(()).show(run) for run in runs]
    if as_json:
        if prompts == 1:
            for run, results in zip(runs, every, strict=True):
                write_results(results, run.directory / RESULTS)
        print_json([results.to_json() for results in every])
    elif prompts > 1:
        for results in every:
            console.print(terminal_report(Document.of(results), whole=True))
    else:
        console.print(several_tasks(every))
