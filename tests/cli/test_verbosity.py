"""`--verbose` and `--quiet`: what is said on standard error, beside results."""

import json

import pytest
from rich.table import Table
from rich.text import Text

from cola_jax.cli import verbosity
from cola_jax.cli.flags import checkpoint_of
from cola_jax.cli.main import main
from tests import tiny


@pytest.fixture
def given(tiny_checkpoint, tmp_path):
    task = tiny.write_questions(tmp_path / "task.jsonl", 3)
    flags = ["--model", str(tiny_checkpoint), "--task", str(task), "--data", "1"]
    return ["evaluate", *flags, "--output", str(tmp_path / "run")]


@pytest.fixture(autouse=True)
def restored():
    checkpoint_of.cache_clear()  # what is loaded is said once for each model
    yield
    verbosity.choose()


def test_quiet_prints_results_alone(given, capsys):
    main([*given, "--quiet", "--json"])
    out, error = capsys.readouterr()
    assert json.loads(out)["results"]
    assert error == ""


def test_quiet_prints_warnings_and_errors(given, capsys, refused):
    verbosity.choose(quiet=True)
    verbosity.log.info("nothing")
    verbosity.log.warning("a [bold] word")
    assert capsys.readouterr().err == "warning: a [bold] word\n"
    error = refused(*given, "--quiet", "--paths", "0-9")
    assert error.startswith("error: path '0-9' names layer 9")


def test_control_characters_never_reach_the_terminal(capsys):
    table = Table("a\x1b[31mtask", title="a\x9btitle")
    table.add_row("two\nlines")
    for value in (table, "a\x1b]0;title\x07", Text("a\x1b[2J\ttab")):
        verbosity.console.print(value)
        verbosity.errors.print(value)
    for shown in capsys.readouterr():
        assert "\\x1b[31m" in shown
        assert "tab" in shown
        assert not {"\x1b", "\x07", "\x9b"} & {*shown}


def test_verbose_prints_what_helps_to_find_a_mistake(given, capsys):
    main([*given, "--verbose"])
    said = capsys.readouterr().err
    for part in (
        "cola-jax 0",
        "; Python 3.",
        "configuration:\n  model: ",
        f"\nloading {given[2]}\n",
        f"checkpoint: {given[2]}\n",
        "devices: ",
        "3 evaluations in ",
    ):
        assert part in said
    with pytest.raises(SystemExit):
        main([*given, "-v", "--paths", "0-9"])
    said = capsys.readouterr().err
    assert "Traceback (most recent call last):" in said
    assert said.splitlines()[-1].startswith("error: path '0-9'")


def test_normal_shows_the_model_and_the_speed(given, capsys):
    main(given)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("loading ")
    assert any(line.startswith("3 evaluations in ") for line in lines)
    assert not any(line.startswith(("devices", "configuration")) for line in lines)
