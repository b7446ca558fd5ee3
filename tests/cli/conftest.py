from collections.abc import Callable

import pytest

from cola_jax.cli.main import main

Refused = Callable[..., str]
GIVEN = ["--model", "m", "--task", "arc_easy", "--output", "o"]


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
