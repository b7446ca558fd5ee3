"""The README and the pages: their Python runs, their command lines parse."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import cola_jax
from cola_jax.cli.commands import COMMANDS, parse
from cola_jax.scoring import encode_answers
from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    ROOT / page
    for page in (
        *("README.md", "convert/README.md", "cola_jax/tasks/README.md"),
        *("cola_jax/strategies/README.md", "experiments/README.md"),
        *("experiments/scaling.md", "experiments/speed.md", "cola_jax/deploy/README.md"),
        *("cola_jax/deploy/export.md", "cola_jax/deploy/lm_eval.md"),
        *("cola_jax/deploy/router/README.md", "cola_jax/formats/peers.md"),
        *("cola_jax/cli/README.md", "cola_jax/runs/README.md"),
    )
)


def commands() -> list[str]:
    # a backslash continues a line
    texts = (re.sub(r"\\\n\s*", "", page.read_text()) for page in PAGES)
    lines = [line for text in texts for line in text.splitlines()]
    names = "|".join(COMMANDS)
    return [line for line in lines if re.match(rf"cola ({names})( |$)", line)]


def test_pages_show_every_command():
    shown = {line.split()[1] for line in commands()}
    assert shown == set(COMMANDS) - {"demo"}  # which the second line of the README shows


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_parse(line):
    arguments = shlex.split(line)[1:]
    if "--config" in arguments:  # a file of the user's
        place = arguments.index("--config")
        arguments[place : place + 2] = ["--model", "m", "--task", "t", "--output", "o"]
    parse(arguments)


def test_readme_python_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    checkpoint = tiny.make_checkpoint(tmp_path, layers=30)
    checkpoint.rename(tmp_path / "smollm2")
    tiny.write_questions(tmp_path / "questions.jsonl", 5)
    monkeypatch.chdir(tmp_path)
    names, said = {}, []
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        said.append(capsys.readouterr().out.splitlines())
    searched, evaluated = said
    assert len(searched) == 4
    margins = np.array([re.findall(r"-?[\d.]+", line) for line in evaluated], float)
    assert margins.shape == (2, 2)
    # the path found for a question is at least as good for it as the other's
    assert (margins.diagonal() >= margins.min(axis=1)).all()


def test_readme_scorer_gives_a_difference_of_logits(tiny_checkpoint):
    code = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)[1]
    names = {"cola_jax": cola_jax, "encode_answers": encode_answers}
    exec(compile(code.partition("\ntext, names")[0], "README.md", "exec"), names)
    model = cola_jax.load(tiny_checkpoint)
    tokenizer = cola_jax.load_tokenizer(tiny_checkpoint)
    prompt, options, path = "the sun and the moon: the", (" rock", " water"), (0, 1, 1, 2, 3, 4)
    question = cola_jax.Question("q", prompt, options, 1)
    scorer = names["NameDifference"](tokenizer)
    found = cola_jax.evaluate(model, [question], [path], scorer=scorer).verdicts
    logits = cola_jax.run_path(model, tokenizer([prompt], return_tensors="np"), path)[0, -1]
    length = len(tokenizer(prompt).input_ids)
    wrong, right = (logits[tokenizer(prompt + option).input_ids[length]] for option in options)
    assert found.margin[0, 0] == pytest.approx(float(right - wrong), abs=1e-4)
    assert found.verdict[0, 0] == (right > wrong)


def test_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 150
