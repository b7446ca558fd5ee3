"""`--write-out`: the first prompts of a task in each wording, from the tokenizer alone."""

import json
import shutil

import pytest

from cola_jax.cli.main import main
from tests import tiny


@pytest.fixture
def source(tiny_checkpoint, tmp_path, monkeypatch):
    """A model that is not converted, and has no weights."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "source"
    skipped = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(tiny_checkpoint.parent / "theirs", folder, ignore=skipped)
    return str(folder)


@pytest.fixture
def written(source, tmp_path, capsys):
    """Run a command with `--write-out`, and return its standard output; nothing is written."""

    def run(name, *flags):
        before = sorted(tmp_path.rglob("*"))
        main([name, "--model", source, *map(str, flags), "--write-out"])
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().out

    return run


@pytest.fixture
def task(tmp_path):
    return tiny.write_questions(tmp_path / "task.jsonl", 5)


def test_write_out_shows_prompts_and_reads(written, task, tmp_path):
    out = written("evaluate", "--task", task, "--output", tmp_path / "run")
    assert out.count("\nquestion q") == 3
    assert "  | <s>Question: which of the the?\n  | Answer:\n" in out
    assert "\n  'the' (gold)  15: ':' -> ' the'\n" in out
    out = written("evaluate", "--task", task, "--output", "r", "--limit", 4, "--json")
    (record,) = json.loads(out)
    assert len(record["questions"]) == 4
    words = tiny.tokenizer()
    for question, shown in zip(tiny.questions(4), record["questions"], strict=True):
        assert shown["prompt"] == f"<s>Question: {question.text}\nAnswer:"
        assert shown["tokens"] == len(words(shown["prompt"], add_special_tokens=False).input_ids)
        for j, each in enumerate(shown["continuations"]):
            text = "".join(read["target"] for read in each["reads"])
            assert (text, each["option"]) == (f" {question.options[j]}", question.options[j])
            assert each["gold"] == (j == question.answer)
            assert each["reads"][0]["position"] == shown["tokens"] - 1
            tokens = [read["token"] for read in each["reads"]]
            assert tokens == [":", *(read["target"] for read in each["reads"][:-1])]


def test_write_out_shows_each_wording(written, task):
    shots = "--shots-file", task, "--num-fewshot", 1, "--limit", 2
    out = written("verify", "0-3", "--task", task, "--output", "r", "--prompts", 3, *shots)
    assert [out.count(f"prompt {n} of 3 to measure in") for n in (1, 2, 3)] == [1, 1, 1]
    assert out.count("question q0, ") == 3
    assert "drawn as measure 0, seed 0" in out
    listed = "--scorer", "letter", "--limit", 1
    out = written("static", "--task", task, "--output", "r", *listed)
    assert "each question in one of 4 prompts to choose by" in out
    assert "prompt 8 of 8 to measure in" in out
    out = written("search", "--task", task, "--output", "r", "--limit", 1, "--prompts", 3)
    assert [out.count(f"wording {n} of 3 to ask again in") for n in (1, 2, 3)] == [1, 1, 1]
    assert "user: which of the" in out


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("scan", ["--output", "r"]),
        ("menu", ["--output", "r", "--runs", "elsewhere"]),
        ("distill", ["--output", "r", "--run", "elsewhere"]),
        ("benchmark", []),
    ],
)
def test_write_out_of_each_command(written, task, name, flags):
    assert "| Answer:" in written(name, "--task", task, *flags)


def test_write_out_shows_where_decoding_begins(written):
    flags = "--task", "arithmetic", "--scorer", "generation", "--output", "r", "--limit", 1
    out = written("evaluate", *flags)
    assert "decoded after it: gold '9', up to 12 tokens, a stop token or '\\n'" in out


def test_write_out_escapes_hostile_rows(written, tmp_path):
    row = {"question": "\x1b[31m\u202e\nread:", "options": ["\x07a", "b"], "answer": "B"}
    (tmp_path / "hostile.jsonl").write_text(json.dumps(row))
    out = written("evaluate", "--task", tmp_path / "hostile.jsonl", "--output", "r")
    assert "  | <s>Question: \\x1b[31m\\u202e\n  | read:\n" in out
    assert all(x.isprintable() for x in out.replace("\n", ""))


def test_write_out_refuses_what_the_command_refuses(source, task, refused):
    flags = ["--model", source, "--task", task, "--output", "r", "--write-out"]
    assert "has 5 other wordings, but 9" in refused("verify", "0-3", *flags, "--prompts", "9")
    assert "without decoys" in refused("search", *flags, "--decoys", "run")
