from collections.abc import Callable, Iterator

import pytest

from cola_jax.cli.commands import parse
from cola_jax.cli.main import main
from cola_jax.cli.parser import RARE, flag_values

Refused = Callable[..., str]
GIVEN = ["--model", "m", "--task", "arc_easy", "--output", "o"]
POSITIONAL = {"convert": ("source", "destination"), "report": ("run-directories",)}
NEEDED = {  # by the commands, beside those of `GIVEN`
    **{"convert": ["a", "b"], "report": ["r"], "cache": [], "tasks": [], "demo": []},
    **{"menu": [*GIVEN, "--runs", "r"], "distill": [*GIVEN, "--run", "r"]},
    "generate": ["--model", "m"],
    "export": ["--model", "m", "--path", "0-4", "--output", "o"],
}


def every_flag(command: str) -> Iterator[tuple[str, bool]]:
    """Yield the name of each flag of a command, and whether it is rare."""
    parsed = parse([command, *NEEDED.get(command, GIVEN)])
    for name, _ in flag_values(parsed):
        if name not in POSITIONAL.get(command, ()):
            yield name, name in RARE or name.startswith("rules.")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail; return the only line that says why."""

    def run(*arguments: object, status: int = 1) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments)])
        assert end.value.code == status
        out, error = capsys.readouterr()
        lines = [line for line in error.splitlines() if not line.startswith("loading ")]
        assert out == ""
        assert len(lines) == 1, error
        assert lines[0].startswith("error: ")
        return lines[0]

    return run
