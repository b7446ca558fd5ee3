"""`cola report`."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from cola_jax.commands.flags import console


@dataclasses.dataclass(frozen=True)
class Report:
    """Print what a run found, and write it as one HTML page that opens offline, and as Markdown."""

    run_directory: Positional[str]
    """What `cola search` or `cola evaluate` made."""
    page: Path | None = None
    """Where to write the page of a search, and beside it the same table as .md; report.html in the
    run directory by default."""
    polar: Path | None = None
    """Where to write the paths of each question as PoLar's merged_mcts_samples.json."""
    drllm: Path | None = None
    """Where to write the right paths of each question as a result file of Dr.LLM."""

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

    def show(self, draws: bool) -> None:
        """Prints the table, and writes the page if it draws."""
        from cola_jax import report
        from cola_jax.runs.directory import RunDirectory

        run = RunDirectory(self.run_directory)
        if run.manifest()["settings"].get("command") == "evaluate":
            if self.page is not None:
                raise ValueError("--page belongs to a search: an evaluation has no page.")
            console.print(report.paths_table(run))
            return
        summary = report.summarise(run)
        console.print(report.summary_table(summary))
        if not draws:
            console.print(
                f"for the page: pip install 'cola-jax[report]' && cola report {self.run_directory}",
                soft_wrap=True,
                markup=False,
            )
            return
        page = self.page or run.directory / "report.html"
        report.write_page(run, summary, page)
        report.write_markdown(run, summary, page.with_suffix(".md"))
        console.print(f"report: {page}, and as Markdown {page.with_suffix('.md')}", soft_wrap=True)
