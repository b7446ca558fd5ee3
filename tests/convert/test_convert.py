"""Conversion: bit-exact, all or nothing, and a table that reads the same in both directions."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

import cola_jax
from cola_jax.convert import convert
from cola_jax.convert.convert import open_source
from cola_jax.convert.table import expected, places, split_axes
from cola_jax.params import axis_sizes
from tests import oracle

WEIGHTS = "model.safetensors"


def contents(folder):
    """Every file below a folder, with its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("variant", oracle.VARIANTS)
def test_tensors_come_back_to_the_bit(pair, variant):
    """Reads every pattern of the table backwards, and finds all that transformers wrote."""
    models = pair(variant)
    rows = open_source(str(models.folder), None).rows
    config, theirs = models.ours.config, load_file(models.folder / WEIGHTS)
    for row in rows:
        weight = getattr(models.ours.layers, row.ours, None)
        weight = np.asarray(getattr(models.ours, row.ours) if weight is None else weight)
        backwards = " -> ".join(reversed(row.pattern.split(" -> ")))
        letters = re.findall(r"[A-Za-z]+", row.pattern)
        sizes = {letter: axis_sizes(config)[letter] for letter in letters}
        for place, (name, _) in zip(places(row, config), expected(row, config), strict=True):
            back = rearrange(weight[place], backwards, **sizes)
            np.testing.assert_array_equal(back, theirs.pop(name).numpy(), err_msg=name)
    assert not theirs


def test_split_axes_reads_patterns():
    for pattern, axes in (
        ("(N H) D", [["N", "H"], ["D"]]),
        ("D (N h two)", [["D"], ["N", "h", "two"]]),
        ("V D", [["V"], ["D"]]),
    ):
        assert [axis.split() for axis in split_axes(pattern)] == axes


def test_metadata_says_what_was_converted(pair, source, tmp_path):
    metadata = convert(str(source), tmp_path / "made")
    assert json.loads((tmp_path / "made" / "cola.json").read_text()) == json.loads(
        json.dumps(metadata)
    )
    assert metadata["origin"] == {"kind": "directory", "name": str(source), "revision": None}
    assert metadata["dtype"] == "float32"
    assert re.fullmatch(r"[0-9a-f]{64}", metadata["digest"])
    again = convert(str(source), tmp_path / "again")
    assert again["digest"] == metadata["digest"]


def test_progress_reaches_the_total(source, tmp_path):
    calls = []
    convert(
        str(source), tmp_path / "made", on_progress=lambda done, total: calls.append([done, total])
    )
    parameters = sum(tensor.numel() for tensor in load_file(source / WEIGHTS).values())
    assert calls[-1] == [4 * parameters, 4 * parameters]
    assert calls == sorted(calls)
    assert len(calls) > 6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_rounds_as_torch_does(source, tmp_path, dtype):
    assert convert(str(source), tmp_path / "made", dtype=dtype)["dtype"] == dtype
    model = cola_jax.load(tmp_path / "made")
    theirs = load_file(source / WEIGHTS)
    assert model.embedding.dtype == jnp.dtype(dtype)
    for ours, name, pattern in (
        (model.layers.down[3], "model.layers.3.mlp.down_proj.weight", "D F -> F D"),
        (model.embedding, "model.embed_tokens.weight", "V D -> V D"),
    ):
        rounded = theirs[name].to(getattr(torch, dtype)).float().numpy()
        np.testing.assert_array_equal(np.asarray(ours, np.float32), rearrange(rounded, pattern))


def test_the_dtype_of_the_source_is_kept(pair, source, tmp_path):
    tensors = load_file(source / WEIGHTS)
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(halves, source / WEIGHTS, {"format": "pt"})
    assert convert(str(source), tmp_path / "made")["dtype"] == "bfloat16"
    model = cola_jax.load(tmp_path / "made")
    exact = halves["model.norm.weight"].float().numpy()
    np.testing.assert_array_equal(np.asarray(model.norm, np.float32), exact)
    wide = convert(str(source), tmp_path / "wide", dtype="float32")
    assert wide["dtype"] == "float32"


def test_an_existing_destination_is_refused_and_kept(source, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (made / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="made exists already: pass --overwrite to replace it"):
        convert(str(source), made)
    assert contents(made) == {"thesis.txt": b"years of work"}


def test_overwrite_replaces_the_whole_destination(source, tmp_path):
    made = tmp_path / "made"
    first = convert(str(source), made)
    (made / "old.txt").write_text("left from before")
    second = convert(str(source), made, dtype="bfloat16", overwrite=True)
    assert not (made / "old.txt").exists()
    assert second["digest"] != first["digest"]
    assert cola_jax.load(made).embedding.dtype == jnp.bfloat16
    assert {entry.name for entry in tmp_path.iterdir()} == {"source", "made"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_everything_as_it_was(source, tmp_path, overwrite):
    made = tmp_path / "made"
    if overwrite:
        convert(str(source), made)
    before = contents(tmp_path)
    tensors = load_file(source / WEIGHTS)
    tensors["model.layers.5.mlp.down_proj.weight"][3, 4] = float("nan")  # found when half done
    before["source/model.safetensors"] = save(tensors, source)
    with pytest.raises(ValueError, match=r"layers\.5\.mlp\.down_proj\.weight.*not finite"):
        convert(str(source), made, overwrite=overwrite)
    assert contents(tmp_path) == before
    assert (
        {entry.name for entry in tmp_path.iterdir()} == {"source", "made"}
        if overwrite
        else {"source"}
    )


def test_a_destination_that_cannot_be_replaced_is_kept(source, tmp_path, monkeypatch):
    made = tmp_path / "made"
    convert(str(source), made)
    before = contents(made)
    rename = Path.rename

    def fail_for_the_new_one(self, target):
        if self.name.endswith(".partial"):
            raise OSError("disk on fire")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="disk on fire"):
        convert(str(source), made, overwrite=True)
    assert contents(made) == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"source", "made"}


def save(tensors, folder):
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return (folder / WEIGHTS).read_bytes()


def test_a_failure_leaves_no_folders_behind(source, tmp_path):
    (source / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        convert(str(source), tmp_path / "a" / "b" / "made")
    assert not (tmp_path / "a").exists()


def test_an_interruption_leaves_nothing_behind(source, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(source), tmp_path / "made", on_progress=interrupt)
    assert {entry.name for entry in tmp_path.iterdir()} == {"source"}


def test_values_that_overflow_the_dtype_are_refused(source, tmp_path):
    tensors = load_file(source / WEIGHTS)
    tensors["model.norm.weight"][0] = 1e5
    save(tensors, source)
    with pytest.raises(
        ValueError, match=r"model\.norm\.weight.*not finite in float16.*another --dt"
    ):
        convert(str(source), tmp_path / "made", dtype="float16")
    convert(str(source), tmp_path / "made", dtype="bfloat16")


def test_requests_that_make_no_sense_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float32, bfloat16, float16"):
        convert(str(source), tmp_path / "made", dtype="int8")
    with pytest.raises(ValueError, match="--revision belongs to a Hub id"):
        convert(str(source), tmp_path / "made", revision="main")
    for name in ("no such place", "a/b/c", "../up"):
        with pytest.raises(
            ValueError, match=r"is neither an existing directory, nor a \.gguf file"
        ):
            convert(name, tmp_path / "made")
    with pytest.raises(ValueError, match=r"gone\.gguf does not exist"):
        convert(str(tmp_path / "gone.gguf"), tmp_path / "made")


def test_a_destination_that_cannot_be_written_is_an_os_error(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        convert(str(source), tmp_path / "file" / "made")


def test_overwrite_spares_what_is_no_checkpoint(source, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no checkpoint of ours"):
        convert(str(source), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "draft.txt").read_text() == "years of work"


def test_an_origin_can_be_named(source, tmp_path):
    assert convert(str(source), tmp_path / "made", origin="a wheel")["origin"]["name"] == "a wheel"
