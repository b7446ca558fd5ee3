"""`cola export`: formats, defaults and refusals."""

import json

import pytest
import yaml

from cola_jax.checkpoint import read_metadata
from cola_jax.cli.main import main
from cola_jax.formats.conversion import convert
from tests.formats.gguf_writer import tiny_llama, write


def export(model, path, out, *flags):
    main(["export", "--model", str(model), "--path", str(path), "--out", str(out), *flags])


def refused(capsys, *arguments):
    """Runs an export that must fail, and returns its error."""
    with pytest.raises(SystemExit) as error:
        export(*arguments)
    assert error.value.code == 1
    return capsys.readouterr().err


def test_export_writes_the_command_and_the_effect(tiny_checkpoint, tmp_path, capsys):
    measured = {"task": "sums", "n": 9, "before": 0.5, "after": 0.5, "difference": 0.0}
    values = {"path": "0-1,3-4", "effect": measured | {"interval": [-0.1, 0.1]}}
    file = tmp_path / "static.json"
    file.write_text(json.dumps(values))
    export(tiny_checkpoint, file, tmp_path / "out", "--effect", str(file))
    said = capsys.readouterr().out
    assert "path 0-1,3-4, 4 layers of 5, " in said
    card = (tmp_path / "out" / "README.md").read_text()
    command = f"cola export --model {tiny_checkpoint} --path {file} --output {tmp_path / 'out'}"
    assert f"{command} --effect {file}\n" in card
    assert "| sums | 9 |" in card
    file.write_text(json.dumps(values | {"model": "xyz"}))
    export(tiny_checkpoint, file, tmp_path / "other")
    assert "static.json is of another checkpoint ('xyz', here it is" in capsys.readouterr().err
    again = (tiny_checkpoint, "0-1,3-4", tmp_path / "third", "--effect", str(file))
    assert "does not belong to this export: its model is xyz" in refused(capsys, *again)


def test_export_writes_a_recipe_of_the_source(tiny_checkpoint, tmp_path):
    export(tiny_checkpoint, "0-4,4", tmp_path / "one.yaml", "--format", "mergekit")
    recipe = yaml.safe_load((tmp_path / "one.yaml").read_text())
    name = read_metadata(tiny_checkpoint)["origin"]["name"]
    assert recipe["slices"][0]["sources"][0]["model"] == name
    flags = ("--format", "mergekit", "--source", "someone/tiny")
    export(tiny_checkpoint, "0-4,4", tmp_path / "two.yaml", *flags)
    assert "model: someone/tiny" in (tmp_path / "two.yaml").read_text()


def test_export_takes_any_name(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    export(tiny_checkpoint, "0-4", "~/one.yaml", "--format", "mergekit")
    export(tiny_checkpoint, "0-4", "~no such user", "--format", "mergekit", "--source", "x")
    assert {file.name for file in tmp_path.iterdir()} == {"one.yaml", "~no such user"}


def test_export_copies_the_gguf_file_that_was_converted(tmp_path, capsys):
    source = tmp_path / "tiny.gguf"
    write(source, tiny_llama(), "Q4_0")
    convert(str(source), tmp_path / "ours")
    export(tmp_path / "ours", "0,2", tmp_path / "out.gguf", "--format", "gguf")
    assert (tmp_path / "out.gguf").stat().st_size < source.stat().st_size
    flags = (tmp_path / "ours", "0,2", tmp_path / "out.yaml", "--format", "mergekit")
    assert "give --source the Hub id or directory" in refused(capsys, *flags)
    source.unlink()
    flags = (tmp_path / "ours", "0,2", tmp_path / "new.gguf", "--format", "gguf")
    assert "tiny.gguf, which is not a GGUF file that exists here" in refused(capsys, *flags)


def test_export_refuses_bad_input(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for arguments, message in (
        (("0-5", tmp_path / "out"), "names layer 5, but the model has layers 0..4"),
        (("0-4", tmp_path / "full"), "exists already and is not empty"),
        (("0-4", tiny_checkpoint / "out"), "is inside the source"),
        (("0-4", tmp_path / "out", "--share"), "path 0-4 runs no layer twice"),
        (("0-4", tmp_path / "out", "--source", "x"), "--source is for --format mergekit and gguf"),
        (
            ("0-4", tmp_path / "out", "--format", "gguf"),
            "is not a GGUF file that exists here: give --source",
        ),
        (("0-4", tmp_path / "out", "--format", "gguf", "--share"), "--share cannot be had in GGUF"),
        (
            ("0-4", tmp_path / "out", "--format", "mergekit", "--share"),
            "a mergekit recipe holds no weights",
        ),
        (
            ("0-4", tmp_path / "out", "--format", "mergekit", "--effect", "x.json"),
            "--effect is for the model card",
        ),
    ):
        assert message in refused(capsys, tiny_checkpoint, *arguments)
    assert {entry.name for entry in tmp_path.iterdir()} == {"full"}
    for inside in (tiny_checkpoint, tiny_checkpoint / "new.yaml"):
        flags = (tiny_checkpoint, "0-4", inside, "--format", "mergekit")
        assert "choose a destination elsewhere" in refused(capsys, *flags)
