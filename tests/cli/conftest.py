import re
from collections.abc import Callable

import pytest

from cola_jax.cli.main import main

GIVEN = ["--model", "m", "--task", "arc_easy", "--output", "o"]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; return the only line that says why."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments)])
        assert end.value.code == 1
        out, error = capsys.readouterr()
        progress = re.compile(
            r"loading |.*: (question|prompt) from |warning: .* has one prompt|found paths are asked"
        )
        (line,) = (line for line in error.splitlines() if not progress.match(line))
        assert out == ""
        assert line.startswith("error: ")
        return line

    return run
