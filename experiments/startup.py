"""How long a command shows nothing: to its first line, its first evaluation, and its end.

`python -m experiments.startup --model smollm2 --task arc_easy.jsonl --package . --package OLD` runs
the search with each checkout, in turns, twice with one cache: the second time programs are
compiled already. Lastly a model of a Hub that cannot be reached is asked for.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from cola_jax.report.markdown import table

# the first evaluations are counted here, in every version; the command is that of the arguments
PROBE = """
import sys
from cola_jax.cli.main import main

def watch():
    from cola_jax.execute.metrics import Metrics
    plain, said = Metrics.add, []
    def add(self, **amounts):
        plain(self, **amounts)
        if amounts.get("evaluations") and not said:
            said.append(True)
            print("FIRST EVALUATION", file=sys.stderr, flush=True)
    Metrics.add = add

class Finder:  # patches Metrics once it is imported, so that nothing is imported earlier
    def find_spec(self, name, path=None, target=None):
        if name == "cola_jax.execute.worker":
            sys.meta_path.remove(self)
            watch()

sys.meta_path.insert(0, Finder())
main(sys.argv[1:])
"""


@dataclasses.dataclass(frozen=True)
class Startup:
    """Time the start of a command."""

    model: str
    """Converted model."""
    task: str
    """Task, such as a file of arc_easy."""
    package: tuple[Path, ...] = (Path(__file__).parent.parent,)
    """Checkouts to compare."""
    limit: int = 8
    """Questions."""
    simulations: int = 20
    """Simulations of a question."""
    rounds: int = 3
    """Pairs of a first and a second run of each checkout; medians are printed."""


def main(settings: Startup) -> None:
    search = ["search", "--model", settings.model, "--task", settings.task]
    search += ["--limit", str(settings.limit), "--simulations", str(settings.simulations)]
    absent = ["search", "--model", "someone/no-such-model", "--task", settings.task]
    taken: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for _ in range(settings.rounds):
        for package in settings.package:
            with tempfile.TemporaryDirectory(prefix="cola-startup-") as folder:
                for when in ("first", "second"):
                    out = ["--out", f"{folder}/{when}"]
                    times = run([*search, *out], package, folder)
                    taken.setdefault((str(package), when), []).append(times)
                times = run([*absent, "--out", f"{folder}/absent"], package, folder)
                taken.setdefault((str(package), "Hub out of reach"), []).append(times)
    rows = []
    for (package, when), times in taken.items():
        middle = [sorted(each)[len(each) // 2] for each in zip(*times, strict=True)]
        rows.append((package, when, *(f"{seconds:.1f} s" if seconds else "" for seconds in middle)))
    print("\n".join(table(("checkout", "time", "first line", "first evaluation", "end"), rows)))


def run(arguments: list[str], package: Path, cache: str) -> tuple[float, float, float]:
    """Runs a command; returns the seconds to its first line, its first evaluation and its end."""
    environment = os.environ | {
        "PYTHONPATH": str(package.resolve()),
        "XDG_CACHE_HOME": cache,
        "HF_ENDPOINT": "http://127.0.0.1:9",  # where nothing listens
    }
    for name in ("JAX_COMPILATION_CACHE_DIR", "COLA_CACHE"):
        environment.pop(name, None)
    begun, first, evaluation = time.perf_counter(), 0.0, 0.0
    command = [sys.executable, "-c", PROBE, *arguments]
    with subprocess.Popen(
        command, env=environment, cwd=cache, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.perf_counter() - begun
            first = first or now
            if line.startswith(b"FIRST EVALUATION"):
                evaluation = now
    return first, evaluation, time.perf_counter() - begun


if __name__ == "__main__":
    main(tyro.cli(Startup, description=__doc__))
