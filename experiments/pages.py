"""Run the commands and blocks of the pages: `python -m experiments.pages README.md ...`.

The blocks of a page run in order and unchanged, in a copy of the checkout with the run that the
README's first command leaves. A block whose first line is `# needs ...` is listed instead; a block
of YAML whose first line is a comment with a file's name is that file. Fails if a block fails.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tyro

from cola_jax.report.tables import markdown_table
from cola_jax.runs.tries import PLACE

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDS = re.compile(r"# needs ([^:\n]*)(.*)")
FILE = re.compile(r"# ([\w.]+\.yaml)\n")
RUN = {"": ("bash", "-e"), "python": (sys.executable,)}  # by language, with the file of a block
DEMO = "cola-demo"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page, or the cells of a notebook that need nothing else."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def needs(self) -> str:
        """What the first line says that the block needs, up to a colon, or nothing."""
        match = NEEDS.match(self.text)
        return match[1].strip() if match else ""


@dataclasses.dataclass(frozen=True)
class Pages:
    """Run the blocks of pages, and print the seconds of each."""

    pages: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Pages and notebooks; all of the checkout by default."""
    have: tuple[str, ...] = ()
    """Needs that are met here, such as torch: blocks that need one of these alone run too."""


def tracked_files() -> list[Path]:
    """Return the files of the checkout, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def all_pages() -> list[Path]:
    """Return the pages and notebooks of the checkout, the README first."""
    pages = [file for file in tracked_files() if file.suffix in (".md", ".ipynb")]
    return sorted(pages, key=lambda page: (page != Path("README.md"), page))


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order; those of a notebook are its cells of code."""
    content = (ROOT / page).read_text()
    if page.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(content)["cells"]):
            if cell["cell_type"] == "code":
                yield Block(page, number, "python", "".join(cell["source"]) + "\n")
        return
    for match in FENCE.finditer(content):
        line = content.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2])


def join_cells(cells: list[Block]) -> Block:
    """Return the cells of a notebook as one block, as they share their names."""
    return dataclasses.replace(cells[0], text="\n".join(cell.text for cell in cells))


def run_block(block: Block, folder: Path) -> tuple[float, str]:
    """Run a block in a folder; return its seconds, and the end of its output where it fails."""
    script = folder / ".block"
    script.write_text(block.text)
    scripts = os.path.dirname(sys.executable)
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    # no page tries a claim again that a user, or another page, has tried
    environment[PLACE] = str(folder / ".tries.jsonl")
    start = time.perf_counter()
    done = subprocess.run(
        [*RUN[block.language], script.name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    return seconds, done.stdout[-2000:] if done.returncode else ""


def run_page(page: Path, start: Path, folder: Path, have: tuple[str, ...]) -> Iterator[list[str]]:
    """Run the blocks of a page in a copy of `start`; yield a row for each."""
    shutil.copytree(start, folder)
    blocks = list(blocks_of(page))
    ready = [block for block in blocks if not block.needs or block.needs in have]
    if page.suffix == ".ipynb":
        blocks = [block for block in blocks if block not in ready] + [join_cells(ready)]
    for block in blocks:
        first = next((x for x in block.text.splitlines() if not x.startswith("#")), "")
        row = [f"{page}:{block.line}", first[:60]]
        if match := FILE.match(block.text):
            (folder / match[1]).write_text(block.text)
        if block.language not in RUN:
            continue
        if block.needs and block.needs not in have:
            yield [*row, "", block.text.splitlines()[0][2:]]
            continue
        seconds, error = run_block(block, folder)
        print(f"{page}:{block.line}: {seconds:.0f} s\n{error}", file=sys.stderr, flush=True)
        yield [*row, f"{seconds:.0f}", "FAILED" if error else "ran"]


def main(options: Pages) -> int:
    """Run the pages and print the table of their blocks; return 1 where one failed."""
    with tempfile.TemporaryDirectory(prefix="cola-pages-") as name:
        start = Path(name) / "start"
        for file in tracked_files():
            (start / file.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, start / file)
        demo = Block(Path("README.md"), 0, "", "cola demo\n")  # the end of its first command
        seconds, error = run_block(demo, start)
        rows = [["README.md", "cola demo", f"{seconds:.0f}", "FAILED" if error else "ran"]]
        print(error, file=sys.stderr)
        for number, page in enumerate(options.pages or all_pages()):
            rows += run_page(page, start, Path(name) / str(number), options.have)
    print(*markdown_table(["block", "begins", "seconds", "outcome"], rows), sep="\n")
    return int(any(row[-1] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Pages, description=__doc__)))
