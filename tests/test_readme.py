"""The README and the pages: their Python runs, their command lines parse."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from cola_jax.cli import parse
from cola_jax.commands.demo import QUESTIONS
from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    ROOT / page
    for page in (
        *("README.md", "convert/README.md", "cola_jax/tasks/README.md"),
        *("experiments/scaling.md", "experiments/speed.md"),
    )
)


def commands() -> list[str]:
    lines = [line for page in PAGES for line in page.read_text().splitlines()]
    names = "convert|search|evaluate|generate|report|benchmark"
    return [line for line in lines if re.match(rf"cola ({names})", line)]


def test_pages_show_every_command():
    shown = {line.split()[1] for line in commands()}
    assert shown == {"convert", "search", "evaluate", "generate", "report", "benchmark"}


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_parse(line):
    parse(shlex.split(line)[1:])


def test_readme_python_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    checkpoint = tiny.make_checkpoint(tmp_path, layers=30)
    checkpoint.rename(tmp_path / "smollm2")
    shutil.copyfile(QUESTIONS, tmp_path / "questions.jsonl")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 150
