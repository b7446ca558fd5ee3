"""The README and the pages: their Python runs, their commands parse, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from cola_jax.cli.commands import COMMANDS, parse
from tests import tiny

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = (".github", "cola_jax", "convert", "experiments", "tests")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
)
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.replace(" ", "-") for text in words}


def test_commands_of_the_pages_parse():
    # a backslash continues a line
    texts = (re.sub(r"\\\n\s*", "", page.read_text()) for page in PAGES)
    pattern = rf"cola ({'|'.join(COMMANDS)})( |$)"
    lines = [line for text in texts for line in text.splitlines() if re.match(pattern, line)]
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        if "--config" in arguments:  # a file of the user's
            place = arguments.index("--config")
            arguments[place : place + 2] = ["--model", "m", "--task", "t", "--output", "o"]
        parse(arguments)
    shown = {line.split()[1] for line in lines}
    assert shown == set(COMMANDS) - {"demo"}  # which the second line of the README shows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_files_of_a_page_exist(page):
    text = page.read_text()
    for link in LINK.findall(FENCE.sub("", text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert "://" in path or target.exists(), link
        assert "://" in path or not anchor or anchor in anchors(target), link
    for module in re.findall(r"-m (convert|experiments(?:\.[a-z]\w*)+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for name in re.findall(r"`([a-z_]+/[\w./]+\.(?:py|md|jsonl|csv))`", text):
        assert (ROOT / name).exists() or (ROOT / "cola_jax" / name).exists(), name


def test_readme_python_runs(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    checkpoint = tiny.make_checkpoint(tmp_path, layers=30)
    checkpoint.rename(tmp_path / "smollm2")
    tiny.write_questions(tmp_path / "questions.jsonl", 5)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + 5 + 4  # a table with its head, and a line for each of 4 questions


def test_pages_are_short():
    assert 600 <= len(README.read_text().split()) <= 700
    assert sum(len(page.read_text().split()) for page in PAGES) < 16_000
