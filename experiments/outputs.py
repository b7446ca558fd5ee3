"""Whether two outputs of the same command of `cola` are the same."""

from collections.abc import Sequence
from pathlib import Path

from cola_jax.runs.run import MANIFEST, Run
from experiments.same_rows import differences

OUT = "{out}"  # stands for the output in a command, which is given --output otherwise
DATED = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax's, with times and folders


def with_output(command: Sequence[str], out: Path) -> tuple[str, ...]:
    """Returns a command that writes to `out`."""
    if OUT in command:
        return tuple(str(out) if word == OUT else word for word in command)
    return (*command, "--output", str(out))


def outputs(folder: Path) -> set[Path]:
    """Lists what lies in a folder, hidden files too, by relative path, but for rows of runs."""
    runs = [file.parent for file in folder.rglob(MANIFEST)]
    return {
        file.relative_to(folder)
        for file in folder.rglob("*")
        if not (file.suffix == ".parquet" and any(run in file.parents for run in runs))
    }


def same_output(whole: Path, other: Path) -> bool:
    """Whether runs have the same paths and verdicts; where there are no runs, all files."""
    runs = [file.parent.relative_to(whole) for file in whole.rglob(MANIFEST)]
    if not runs:
        return same_files(whole, other)
    pairs = [(Run(whole / run), Run(other / run)) for run in runs]
    return not any(differences(*pair) for pair in pairs)


def same_files(whole: Path, other: Path) -> bool:
    """Whether two folders have the same files with the same bytes, but for the folder's name."""
    files = outputs(whole)
    return files == outputs(other) and all(
        (whole / file).read_bytes().replace(bytes(whole), bytes(other))
        == (other / file).read_bytes()
        for file in files
        if (whole / file).is_file() and file.name not in DATED
    )
