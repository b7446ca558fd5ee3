"""Count the lines of each capability in the ledger of `.github/CONTRIBUTING.md`.

    python -m experiments.ledger                # lines of source and tests by capability
    python -m experiments.ledger --since main~9 # lines added and deleted since a commit
    python -m experiments.ledger --write        # update the figures in the ledger

A file belongs to the row that names it, or else to the row that names the closest folder above it;
`tests/scoring/test_exact.py` belongs to the row of `cola_jax/scoring/exact.py`.
"""

import dataclasses
import re
import subprocess
from collections import Counter
from pathlib import Path, PurePosixPath

import tyro

from cola_jax.errors import InputError

LEDGER = Path(".github/CONTRIBUTING.md")
HEADING = "| capability |"
PLACE = re.compile(r"`([\w./]+)`")
COUNTED = (".py", ".pyi", ".js", ".css", ".html")  # code; pages and data are not counted


@dataclasses.dataclass(frozen=True)
class Flags:
    """Count the lines of each capability."""

    since: str | None = None
    """Commit: print the lines added and deleted since then instead."""
    write: bool = False
    """Write the present lines into the ledger."""


@dataclasses.dataclass
class Capability:
    """A row of the ledger."""

    name: str
    users: str
    places: list[str]  # files and folders

    def line(self, source: int, tests: int) -> str:
        """Return the row as Markdown."""
        places = " ".join(f"`{place}`" for place in self.places)
        return f"| {self.name} | {self.users} | {source:,} | {tests:,} | {places} |"


def read_ledger() -> list[Capability]:
    """Read the rows of the ledger."""
    lines = LEDGER.read_text().splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(HEADING)]
    capabilities = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, users, _, _, places = (cell.strip() for cell in line.strip("|").split("|"))
        capabilities.append(Capability(name, users, PLACE.findall(places)))
    return capabilities


def mirrored(file: str) -> str:
    """Return the source file whose tests a file has; other files are unchanged."""
    path = PurePosixPath(file)
    if path.parts[0] != "tests":
        return file
    return str(PurePosixPath("cola_jax", *path.parts[1:-1], path.name.removeprefix("test_")))


def find_capability(file: str, capabilities: list[Capability]) -> Capability:
    """Return the capability that a file belongs to; InputError where no row names it."""
    named = {place: row for row in capabilities for place in row.places}
    for path in (file, mirrored(file)):
        for place in (PurePosixPath(path), *PurePosixPath(path).parents):
            if str(place) in named:
                return named[str(place)]
    raise InputError(f"{file} is in no row of {LEDGER}: name it, or its folder, in one.")


def is_code(file: str) -> bool:
    """Tell whether the lines of a file are counted; generated pages are results."""
    return file.endswith(COUNTED) and "/results/" not in file


def git(*words: str) -> list[str]:
    """Return the lines that a command of git prints."""
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def count_lines(capabilities: list[Capability]) -> dict[str, tuple[int, int]]:
    """Count the lines of source and of tests by capability."""
    source: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for file in git("ls-files"):
        if is_code(file):
            counter = tests if file.startswith("tests/") else source
            lines = Path(file).read_text().count("\n")
            counter[find_capability(file, capabilities).name] += lines
    return {row.name: (source[row.name], tests[row.name]) for row in capabilities}


def count_changes(capabilities: list[Capability], since: str) -> dict[str, tuple[int, int]]:
    """Count the lines added and deleted since a commit, tests included, by capability."""
    added: Counter[str] = Counter()
    deleted: Counter[str] = Counter()
    for line in git("diff", "--numstat", "--no-renames", since, "HEAD"):
        more, fewer, file = line.split("\t")
        if is_code(file):
            name = find_capability(file, capabilities).name
            added[name] += int(more)
            deleted[name] += int(fewer)
    return {row.name: (added[row.name], deleted[row.name]) for row in capabilities}


def write_ledger(capabilities: list[Capability], lines: dict[str, tuple[int, int]]) -> None:
    """Write the lines of each capability into the ledger."""
    text = LEDGER.read_text()
    for row in capabilities:
        pattern = re.compile(rf"^\| {re.escape(row.name)} \|.*$", re.MULTILINE)
        text = pattern.sub(row.line(*lines[row.name]), text)
    LEDGER.write_text(text)


def main(flags: Flags) -> None:
    """Print the figures, or write them."""
    capabilities = read_ledger()
    if flags.since is None:
        columns = "source", "tests"
        figures = count_lines(capabilities)
    else:
        columns = "added", "deleted"
        figures = count_changes(capabilities, flags.since)
    if flags.write:
        write_ledger(capabilities, count_lines(capabilities))
    print(f"{'capability':<44}{columns[0]:>8}{columns[1]:>9}")
    for name, (first, second) in figures.items():
        print(f"{name:<44}{first:>8,}{second:>9,}")
    totals = [sum(pair[column] for pair in figures.values()) for column in (0, 1)]
    print(f"{'all':<44}{totals[0]:>8,}{totals[1]:>9,}")


if __name__ == "__main__":
    main(tyro.cli(Flags))
