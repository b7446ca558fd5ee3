"""`cola generate`: texts along paths, printed or in a file that goes on where it was stopped."""

import contextlib
import json

import numpy as np
import pytest
from cola_jax.runs.texts import TextFile

import cola_jax
from cola_jax import checkpoint
from cola_jax.cli import main
from tests import tiny

PATHS = ("0-4", "0-1,3-4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.make_checkpoint(tmp_path_factory.mktemp("tiny")))


def run(model, *arguments):
    main(["generate", "--model", model, "--data", "1", "--max-new-tokens", "5", *arguments])


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": " ".join(tiny.WORDS[i : i + 3]), "id": f"p{i}"} for i in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_file_holds_what_generate_decodes(model, prompts, tmp_path):
    out = tmp_path / "texts.jsonl"
    run(model, "--prompts-file", prompts, "--paths", *PATHS, "--out", str(out), "--group", "2")
    lines = lines_of(out)
    assert [(line["id"], line["path"]) for line in lines] == [
        (f"p{i}", path) for i in range(5) for path in PATHS
    ]
    tokenizer, ours = cola_jax.load_tokenizer(model), cola_jax.load(model)
    ids = tokenizer(" ".join(tiny.WORDS[:3]), return_tensors="np").input_ids
    stop = cola_jax.Stop(cola_jax.checkpoint.stop_tokens(model), tokenizer=tokenizer)
    alone = cola_jax.generate(ours, ids, [[(0, 1, 2, 3, 4)]], max_new_tokens=5, stop=stop)
    tokens = alone.tokens[0, 0, : alone.length[0, 0]].tolist()
    assert lines[0]["tokens"] == tokens
    assert lines[0]["text"] == stop.text(tokens)
    assert lines[0]["finish"] == alone.finish[0, 0]
    assert lines[0]["logprob"] == pytest.approx(float(np.sum(alone.logprob)), abs=1e-4)


def test_half_a_file_goes_on(model, prompts, tmp_path):
    arguments = ("--prompts-file", prompts, "--paths", *PATHS, "--group", "2")
    whole, half = tmp_path / "whole.jsonl", tmp_path / "half.jsonl"
    run(model, *arguments, "--out", str(whole))
    half.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) // 2])  # ends within a line
    run(model, *arguments, "--out", str(half))
    assert lines_of(half) == lines_of(whole)
    before = whole.stat().st_mtime_ns
    run(model, *arguments, "--out", str(whole))  # nothing is left
    assert whole.stat().st_mtime_ns == before


def test_prompts_are_printed_without_a_file(model, capsys):
    run(model, "--prompt", "sun moon", "[bold]ice[/bold]", "--chat")
    said = capsys.readouterr().out
    assert said.count("0-4") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there are no prompts"),
        (("--prompt", "sun", "--max-new-tokens", "300"), "prompt 0: a prompt of 3 tokens and 300"),
        (("--prompt", "sun", "--max-new-tokens", "0"), "max_new_tokens must be at least 1"),
        (("--prompt", "sun", "--group", "0"), "a group needs at least 1 prompt"),
        (("--prompt", "sun", "--paths", "0-9"), "0..4"),
        (("--prompt", "sun", "--random", "-3"), "random paths is at least 0, it is -3"),
        (("--prompt", "sun", "--max-length", "3"), "a longest path of 3 layers limits no path"),
        (("--prompt", "a\udc80"), "prompt 0 has half a character"),
        (("--prompt", "sun", "--stop", ""), "an empty stop string"),
        (("--prompts-file", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_bad_arguments(model, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        run(model, *arguments)
    assert error.value.code == 1
    assert message in capsys.readouterr().err


def test_bad_files(model, prompts, tmp_path, capsys):
    out = tmp_path / "texts.jsonl"
    run(model, "--prompts-file", prompts, "--out", str(out))
    with pytest.raises(SystemExit):
        run(model, "--prompts-file", prompts, "--out", str(out), "--stop", "x")
    assert "made from another model, prompts or settings" in capsys.readouterr().err
    for text in ("nothing of ours\n", '{"precious": [1, 2]}', '{"id'):
        out.write_text(text)
        with contextlib.ExitStack() as stack:
            if text != '{"id':  # which a kill may leave of a line
                match = "texts.jsonl:1 is no line that `cola generate` wrote"
                stack.enter_context(pytest.raises(ValueError, match=match))
            stack.enter_context(TextFile(out, {}))
        assert out.read_text() == (text if text != '{"id' else "")
    rows = tmp_path / "rows.jsonl"
    for text, message in (('{"prompt": 3}', "must be a text"), ('{"id": 1}', "must be a text")):
        rows.write_text(text + "\n")
        with pytest.raises(SystemExit):
            run(model, "--prompts-file", str(rows))
        assert message in capsys.readouterr().err
    rows.write_text('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n')
    with pytest.raises(SystemExit):
        run(model, "--prompts-file", str(rows))
    assert "occurs twice" in capsys.readouterr().err
    rows.write_text('{"prompt": "a"}\n')
    with pytest.raises(SystemExit):
        run(model, "--prompt", "sun", "moon", "--prompts-file", str(rows))
    assert "two prompts have the id '1'" in capsys.readouterr().err
    rows.write_text('{"prompt": "a\\ud800"}\n')
    with pytest.raises(SystemExit):
        run(model, "--prompts-file", str(rows))
    assert "rows.jsonl:1: '\\ud800' is half a character" in capsys.readouterr().err


def test_a_file_is_written_by_one_process_at_a_time(tmp_path):
    out = tmp_path / "new" / "texts.jsonl"  # the folder is made
    with (
        TextFile(out, {}) as file,
        pytest.raises(ValueError, match="another process writes to"),
        TextFile(out, {}),
    ):
        pass
    with TextFile(out, {}) as again:
        again.append([{"id": "a", "path": "0-4"}])
    with file:
        assert file.done == {("a", "0-4")}


def test_the_same_weights_under_another_config_are_another_model(model):
    metadata = checkpoint.read_metadata(model)
    other = metadata | {"config": metadata["config"] | {"norm_eps": 0.5}}
    assert checkpoint.identity(metadata) == checkpoint.identity(json.loads(json.dumps(metadata)))
    assert checkpoint.identity(other) != checkpoint.identity(metadata)
