"""Claims: each published form read as its path, and refused where it is none of this model's."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from cola_jax.checkpoint import read_metadata
from cola_jax.deploy.export import export
from cola_jax.deploy.verify import claims
from cola_jax.deploy.verify.claims import read_claim
from cola_jax.errors import InputError
from cola_jax.extras.export_gguf import export_gguf
from cola_jax.formats.conversion import convert
from cola_jax.path import parse_path
from tests.formats import gguf_writer

NOWHERE = "/no/checkpoint"  # only claims that name a model read it
PATH = (0, 2, 2, 5, 4, 1, 4, 1)  # through six layers


def cases(name):
    return [json.loads(x) for x in Path(__file__).with_name(name).read_text().splitlines()]


def written(case, folder):
    """Write the file of a case, and return its claim and the file."""
    file = folder / "FILE"
    if "content" in case:
        file.write_text(case["content"])
    return case["claim"].replace("FILE", str(file)), file


@pytest.mark.parametrize("case", cases("claims.jsonl"), ids=lambda case: case["name"])
def test_read_claim_reads_published_forms(tmp_path, case, tiny_checkpoint):
    text, file = written(case, tmp_path)
    claim = read_claim(text, tiny_checkpoint, 8)  # of other layers: its name alone is read
    assert (claim.kind, claim.text, claim.path) == (case["kind"], text, parse_path(case["path"], 8))
    assert case["note"] in claim.note
    assert bool(claim.note) == bool(case["note"])
    assert claim.name == case.get("called", claim.name)
    has_file = "content" in case
    assert claim.digest == (hashlib.sha256(file.read_bytes()).hexdigest() if has_file else None)


@pytest.mark.parametrize("case", cases("refused.jsonl"), ids=lambda case: case["message"][:30])
def test_read_claim_refuses(tmp_path, case):
    with pytest.raises(ValueError, match=case["message"]):
        read_claim(written(case, tmp_path)[0], NOWHERE, 8)


def test_the_claim_of_static_is_the_path_that_was_found(tmp_path):
    file = tmp_path / "static.json"
    file.write_text(json.dumps({"path": "0-7", "found": "0-2,4-7"}))
    assert read_claim(str(file), NOWHERE, 8).path == (0, 1, 2, 4, 5, 6, 7)


def test_read_claim_takes_a_path_file_of_a_folder_or_a_repository(tmp_path, hub, monkeypatch):
    content = {"path": "0-2,4-7", "num_layers": 8}
    file = tmp_path / "found" / "path.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    hub.repositories["models/me/found"] = {"path.json": file.read_bytes(), "config.json": b"{}"}
    hub.repositories["models/me/model"] = {"config.json": b"{}"}
    monkeypatch.setattr(claims, "path_of_model", lambda model, directory: ((0, 1, 1), model))
    for text, name in ((str(file), "path.json"), (str(file.parent), "found"), ("me/found",) * 2):
        claim = read_claim(text, NOWHERE, 8)
        assert (claim.name, claim.text, claim.kind) == (name, text, "path")
        assert claim.path == (0, 1, 2, 4, 5, 6, 7)
        assert claim.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_claim("me/model", NOWHERE, 8).kind == "model"  # without a path.json
    hub.repositories["models/me/broken"] = {"path.json": b"{}"}
    with pytest.raises(InputError, match=r"path\.json: its format is unknown"):
        read_claim("me/broken", NOWHERE, 8)


@pytest.mark.parametrize("name", ["static.json", "merge.yaml", "polar.json", "polar"])
def test_read_claim_refuses_files_that_name_another_model(tiny_checkpoint, tmp_path, name):
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    metadata = read_metadata(base)
    metadata["origin"] = {"kind": "hub", "name": "someone/tiny", "revision": "0" * 40}
    (base / "cola.json").write_text(json.dumps(metadata))
    contents = {
        "static.json": {"path": "0-1,3-4", "model": metadata["digest"]},
        "merge.yaml": {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": "someone/tiny", "layer_range": [0, 3]}]}],
        },
        "polar.json": {"samples": [{"final_valid_transitions": [[0, 1]]}], "model": "someone/tiny"},
    }
    file = tmp_path / ("polar.json" if name == "polar" else name)
    claim, text = tmp_path / name, json.dumps(contents[file.name], indent=1)
    if name == "polar":
        claim.mkdir()
        file = claim / file.name
    file.write_text(text if name != "merge.yaml" else yaml.safe_dump(contents[name]))
    assert read_claim(str(claim), base, 5).path[0] == 0
    other = (
        file.read_text()
        .replace("someone/tiny", "else/large")
        .replace(metadata["digest"], "ab" * 32)
    )
    file.write_text(other)
    with pytest.raises(InputError, match=r"has paths of another model \((else/large|abab)"):
        read_claim(str(claim), base, 5)


def test_read_claim_counts_questions_over_a_directory(tmp_path):
    for level, paths in enumerate(([[0, 1]], [[0, 2], [0, 1, 2]], [[0, 2]])):
        folder = tmp_path / f"dart-math-diff-{level}"
        folder.mkdir()
        samples = {"samples": [{"final_valid_transitions": paths}]}
        (folder / "merged_mcts_samples.json").write_text(json.dumps(samples))
    claim = read_claim(str(tmp_path), NOWHERE, 4)
    assert (claim.path, claim.name) == ((0, 2), tmp_path.name)
    assert "2 of 3 questions" in claim.note
    file = folder / "merged_mcts_samples.json"
    alone = read_claim(str(file), NOWHERE, 4)
    assert (alone.path, alone.name, alone.text) == ((0, 2), file.name, str(file))
    shutil.move(folder, tmp_path / "moved")
    assert read_claim(str(tmp_path), NOWHERE, 4).digest != claim.digest
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json: it is not a result of PoLar or Dr\.LLM"):
        read_claim(str(tmp_path), NOWHERE, 4)


@pytest.fixture
def edited(pair, tmp_path):
    """Return a function that exports PATH, with tensors changed, and returns it and its base."""

    def export_path(variant="llama-gqa", change=lambda tensors: None, path=PATH):
        folder, base = tmp_path / "edited", pair(variant).checkpoint
        export(base, path, folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return str(folder), base

    return export_path


def test_read_claim_takes_models_of_the_hub(monkeypatch):
    monkeypatch.setattr(claims, "path_of_model", lambda model, directory: ((0, 1, 1), model))
    claim = read_claim("owner/name@main", NOWHERE, 2)
    assert (claim.kind, claim.path, claim.digest) == ("model", (0, 1, 1), "owner/name@main")


def test_read_claim_finds_the_path_of_a_gguf_file(tmp_path):
    gguf_writer.write(tmp_path / "base.gguf", gguf_writer.tiny_llama(), "Q8_0")
    export_gguf(tmp_path / "base.gguf", (0, 2, 2), tmp_path / "edited.gguf")
    convert(str(tmp_path / "base.gguf"), tmp_path / "base")
    assert read_claim(str(tmp_path / "edited.gguf"), tmp_path / "base", 3).path == (0, 2, 2)


def change_config(folder, **values):
    file = Path(folder, "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "gemma3", "qwen3-moe", "qwen3.5"])
def test_read_claim_finds_the_path_of_an_edited_model(edited, variant):
    folder, base = edited(variant)
    change_config(folder, rys_relayer={"layer_indices": PATH})  # RYS leaves it in its exports
    claim = read_claim(folder, base, 6)
    assert (claim.kind, claim.path, claim.name) == ("model", PATH, "edited")
    assert len(claim.digest) == 64


@pytest.mark.parametrize("variant", ["llama-biases", "qwen3-moe", "qwen3.5"])
def test_read_claim_finds_parts_that_zeros_leave_out(edited, variant):
    path = parse_path("0m,0,2a,2,5m,5a,3", 6)
    folder, base = edited(variant, path=path)
    assert read_claim(folder, base, 6).path == path


def test_read_claim_refuses_layers_with_another_window(edited):
    folder, base = edited("gemma3")
    full, window = "full_attention", "sliding_attention"
    change_config(folder, layer_types=[window] * 3 + [window] + [window] * 3 + [full])
    with pytest.raises(ValueError, match="layer 3 differs from layer 5 in attention window, rotar"):
        read_claim(folder, base, 6)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("model.layers.3.mlp.up_proj.weight", r"1 layer .*layer 3 .* 5 in mlp\.up_proj\.weight"),
        ("model.embed_tokens.weight", r"differs from .* in model\.embed_tokens\.weight"),
    ],
)
def test_read_claim_names_changed_tensors(edited, tensor, message):
    def change(tensors):
        tensors[tensor][0, 0] += 1

    folder, base = edited(change=change)
    with pytest.raises(ValueError, match=message):
        read_claim(folder, base, 6)


def test_read_claim_refuses_another_architecture(edited, tiny_checkpoint):
    with pytest.raises(ValueError, match="its vocab_size is 97, here it is 320"):
        read_claim(edited()[0], tiny_checkpoint, 5)


def test_read_claim_prefers_the_next_of_equal_layers(edited, source, tmp_path):
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if ".layers.1." in name]:
        tensors[name.replace(".1.", ".2.")] = tensors[name]
    save_file(tensors, source / "model.safetensors")
    convert(str(source), tmp_path / "base")
    export(tmp_path / "base", (0, 1, 2, 3, 3, 4, 5), tmp_path / "edited")
    assert read_claim(str(tmp_path / "edited"), tmp_path / "base", 6).path == (0, 1, 2, 3, 3, 4, 5)


def test_read_claim_compares_in_the_dtype_of_the_checkpoint(edited, source, tmp_path):
    convert(str(source), tmp_path / "rounded", dtype="bfloat16")
    for name, path in (("theirs", PATH), ("identity", range(6))):
        export(tmp_path / "rounded", tuple(path), tmp_path / name)
    theirs = str(tmp_path / "theirs")
    for dtype in ("bfloat16", "float32", "int8"):
        convert(str(tmp_path / "identity"), tmp_path / dtype, dtype=dtype)
    assert read_claim(theirs, tmp_path / "bfloat16", 6).path == PATH
    assert read_claim(theirs, tmp_path / "float32", 6).path == PATH
    with pytest.raises(ValueError, match=r"has layers of int8.*another --dtype"):
        read_claim(theirs, tmp_path / "int8", 6)
    exact, base = edited()
    with pytest.raises(ValueError, match=r"stored as float32, .* bfloat16, .* --dtype float32"):
        read_claim(exact, tmp_path / "bfloat16", 6)
    with pytest.raises(ValueError, match="converted with `cola convert --dtype bfloat16`"):
        read_claim(theirs, base, 6)
