"""The pages: blocks run or say what they need, commands parse, and links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from cola_jax.cli.commands import COMMANDS, parse
from experiments.pages import RUN, blocks_of

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = (".github", "cola_jax", "convert", "experiments", "tests")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
)
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OUTPUTS = {"text", "json", "yaml", "mermaid"}  # languages of blocks that are not run
ELSEWHERE = re.compile(  # what a fresh machine does not have
    r"arc_easy|mmlu|gsm8k|gs://|s3://|OWNER/NAME|FOLDER_|FILE|\.jsonl|gemma|llama-"
    r"|--model [\w-]+/|gcloud|sky jobs|git clone|pip install|lm-eval|lm_eval|torch"
    r"|from peft|experiments\."
)


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
    assert shown == set(COMMANDS) - {"demo"}  # which the first command of the README runs


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


@pytest.mark.slow
def test_readme_python_runs(tmp_path, monkeypatch, capsys):
    """With nothing prepared: it downloads its model."""
    (block,) = (block for block in blocks_of(README) if block.language == "python")
    monkeypatch.setenv("COLA_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, "README.md", "exec"), {})
    assert "0-5,8-29" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_say_what_they_need(page):
    """Beside what the README's first command leaves; `experiments.pages` runs all others."""
    for block in blocks_of(page):
        assert block.language in {*RUN, *OUTPUTS}, block.text
        if block.language in RUN and not block.needs:
            assert not ELSEWHERE.search(block.text), block.text
