"""Exported GGUF files: the same bytes under new names, read back as run_path runs the original."""

import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter

import cola_jax
from cola_jax.errors import InputError
from cola_jax.extras.export_gguf import check_places, export_gguf, field_value
from cola_jax.formats.conversion import convert
from cola_jax.path import parse_path
from tests import oracle
from tests.formats.gguf_writer import (
    FAMILIES,
    GEMMA_KEYS,
    add_byte_level,
    finish,
    tiny,
    tiny_gemma,
    tiny_llama,
)
from tests.formats.gguf_writer import write as write_gguf

PATH = (0, 1, 1, 2, 0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    file = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_gguf(file, tiny_llama(vocab_size=300), "Q4_0", metadata=[add_byte_level])
    return file


def assert_reads_back_as_path(source, out, path):
    """Weights, attributes and logits of the export are those of the path, bit for bit."""
    original, exported = map(oracle.convert_in_memory, (source, out))
    assert exported.config.windows == tuple(original.config.windows[i] for i in path)
    assert exported.config.layer_ropes == tuple(original.config.layer_ropes[i] for i in path)
    layers = jax.tree.map(lambda x: x[np.array(path)], original.layers)
    along = original.replace(config=exported.config, layers=layers)
    jax.tree.map(np.testing.assert_array_equal, along, exported)
    ids = np.arange(24).reshape(2, 12)
    logits = cola_jax.run_path(exported, ids, range(len(path)))
    np.testing.assert_array_equal(logits, cola_jax.run_path(original, ids, path))


def test_export_gguf_copies_bytes_and_reads_back_as_run_path(llama, tmp_path):
    export_gguf(llama, PATH, tmp_path / "out.gguf")
    assert_reads_back_as_path(llama, tmp_path / "out.gguf", PATH)
    before, after = GGUFReader(llama), GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor for tensor in before.tensors}
    count = sum(name.startswith("blk.0.") for name in tensors)
    assert len(after.tensors) == len(PATH) * count + len(tensors) - 3 * count
    for tensor in after.tensors:
        source = re.sub(r"^blk\.(\d+)", lambda match: f"blk.{PATH[int(match[1])]}", tensor.name)
        assert tensor.tensor_type == tensors[source].tensor_type
        np.testing.assert_array_equal(tensor.data, tensors[source].data)
    for name, field in before.fields.items():
        if name not in ("llama.block_count", "GGUF.kv_count", "GGUF.tensor_count"):
            assert after.fields[name].types == field.types
            assert after.fields[name].contents() == field.contents()
    assert field_value(after, "llama.block_count") == 5
    assert field_value(after, "cola.path") == "0,1,1,2,0"


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_export_gguf_leaves_out_parts_by_zeros(tmp_path, kind):
    write_gguf(tmp_path / "in.gguf", tiny_llama(vocab_size=300), kind, metadata=[add_byte_level])
    path = parse_path("0m,1,1a,2m,0", 3)
    export_gguf(tmp_path / "in.gguf", path, tmp_path / "out.gguf")
    original, exported = map(
        oracle.convert_in_memory, (tmp_path / "in.gguf", tmp_path / "out.gguf")
    )
    ids = np.arange(24).reshape(2, 12)
    logits = cola_jax.run_path(exported, ids, range(5))
    expected = cola_jax.run_path(original, ids, path)
    assert oracle.relative_error(logits, expected) < oracle.TOLERANCE
    names = {
        tensor.name for tensor in GGUFReader(tmp_path / "out.gguf").tensors if not tensor.data.any()
    }
    assert names == {
        f"blk.{i}.{name}.weight"
        for i, name in ((0, "attn_output"), (2, "ffn_down"), (3, "attn_output"))
    }
    with pytest.raises(InputError, match="adds a share of the update of a layer"):
        export_gguf(tmp_path / "in.gguf", parse_path("0,1*0.5", 3), tmp_path / "damped.gguf")


def test_export_gguf_moves_lists_of_layers(tmp_path):
    writer = GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_block_count(3)
    writer.add_custom_alignment(64)
    writer.add_string("cola.path", "0-2")  # of an earlier export
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, "another")
    writer.add_key_value(
        "llama.attention.head_count_kv", [2, 4, 1], GGUFValueType.ARRAY, GGUFValueType.UINT32
    )
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])  # as many, but not of layers
    writer.add_tensor("blk.0.x", np.zeros(1, np.float32))
    writer.add_tensor("blk.1.x", np.ones(1, np.float32))
    finish(writer)
    export_gguf(tmp_path / "in.gguf", (1, 1, 0, 1), tmp_path / "out.gguf")
    reader = GGUFReader(tmp_path / "out.gguf")
    for name, value in {
        "llama.attention.head_count_kv": [4, 4, 2, 4],
        "tokenizer.ggml.tokens": ["a", "b", "c"],
        "cola.path": "1,1,0-1",
        "general.license": "apache-2.0",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Tiny",
    }.items():
        assert field_value(reader, name) == value
    assert [float(tensor.data[0]) for tensor in reader.tensors] == [1, 1, 0, 1]
    assert [tensor.data_offset % 64 for tensor in reader.tensors] == [0] * 4
    with pytest.raises(ValueError, match=r"in\.gguf has no tensors of layer 2"):
        export_gguf(tmp_path / "in.gguf", (0, 2), tmp_path / "new.gguf")


def test_export_gguf_keeps_kinds_of_attention_in_place(tmp_path):
    source, out, path = tmp_path / "in.gguf", tmp_path / "out.gguf", (0, 6, 1, 1, 4, 5, 3)
    write_gguf(source, tiny_gemma(), keys=GEMMA_KEYS, architecture="gemma3")
    export_gguf(source, path, out)
    assert_reads_back_as_path(source, out, path)
    message = r"path 0,2-6 cannot be written as GGUF: in gemma3 files one layer in 6 has full .*"
    with pytest.raises(ValueError, match=message + "layer 5 would run at place 4"):
        export_gguf(source, (0, 2, 3, 4, 5, 6), tmp_path / "other.gguf")
    full = tuple(range(62))  # of the 27B model
    check_places(full, "gemma3", 62, 6)
    for path, layers in ((full[:54], 62), (full, 68)):
        with pytest.raises(ValueError, match="scales the queries of gemma3 files of 62 layers"):
            check_places(path, "gemma3", layers, 6)


def test_export_gguf_leaves_out_layers_for_further_tokens(tmp_path):
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    keys = FAMILIES["qwen35"][2] | {"block_count": 5, "nextn_predict_layers": 1}
    extra = [("blk.4.nextn.eh_proj.weight", np.ones((32, 64), np.float32))]
    write_gguf(source, tiny("qwen35"), keys=keys, extra=extra, architecture="qwen35")
    export_gguf(source, (2, 2, 1, 3, 0), out)
    original, exported = map(oracle.convert_in_memory, (source, out))
    assert exported.config.layer_kinds == (1, 1, 1, 0, 1)
    for kind, layers in enumerate(([0], [2, 2, 1, 0])):
        along = jax.tree.map(lambda x, i=layers: x[np.array(i)], original.layers[kind])
        jax.tree.map(np.testing.assert_array_equal, along, exported.layers[kind])
    with pytest.raises(ValueError, match=r"qwen35 files one layer in 4 .*layer 3 would run at"):
        export_gguf(source, (0, 1, 3), tmp_path / "other.gguf")
    with pytest.raises(ValueError, match=r"layer ids \[4\], but the model has layers 0\.\.3"):
        export_gguf(source, (0, 1, 2, 3, 4), tmp_path / "other.gguf")


def test_export_gguf_refuses_bad_input(llama, tmp_path):
    (tmp_path / "out.gguf").write_text("mine")
    for source, path, out, message in (
        (llama, PATH, "out.gguf", r"out\.gguf exists already"),
        (llama, (0, 3), "new.gguf", r"layer ids \[3\], but the model has layers 0\.\.2"),
        (tmp_path / "none.gguf", PATH, "new.gguf", r"none\.gguf does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            export_gguf(source, path, tmp_path / out)
    for keys, message in (
        ({"architecture": "gemma3n"}, "architecture 'gemma3n', whose layers .* by their place"),
        ({"split": 3}, "is one of several files of a model"),
    ):
        writer = GGUFWriter(tmp_path / "bad.gguf", keys.get("architecture", "llama"))
        writer.add_uint16("split.count", keys.get("split", 1))
        finish(writer)
        with pytest.raises(ValueError, match=message):
            export_gguf(tmp_path / "bad.gguf", PATH, tmp_path / "new.gguf")
    assert not (tmp_path / "new.gguf").exists()


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """The model of `llama` with another up-projection in its second layer."""
    model = tiny_llama(vocab_size=300)
    with torch.no_grad():
        model.model.model.layers[1].mlp.up_proj.weight.mul_(-2)
    file = tmp_path_factory.mktemp("another") / "another.gguf"
    write_gguf(file, model, "Q4_0", metadata=[add_byte_level])
    return file


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_export_gguf_refuses_a_file_with_other_layers(llama, another, tmp_path, dtype):
    convert(str(llama), tmp_path / "ours", dtype=dtype)
    message = (
        r"another\.gguf is not the file that .*ours was converted from: .*ffn_up.*\(layers 1\)"
    )
    with pytest.raises(InputError, match=message):
        export_gguf(another, PATH, tmp_path / "out.gguf", tmp_path / "ours")
    assert not (tmp_path / "out.gguf").exists()
    export_gguf(llama, PATH, tmp_path / "out.gguf", tmp_path / "ours")
    assert_reads_back_as_path(llama, tmp_path / "out.gguf", PATH)


def test_export_gguf_takes_a_file_with_the_weights_of_a_hugging_face_model(tmp_path):
    model = tiny_llama(vocab_size=300)
    write_gguf(tmp_path / "same.gguf", model)
    model.model.save_pretrained(tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "ours")
    export_gguf(tmp_path / "same.gguf", PATH, tmp_path / "out.gguf", tmp_path / "ours")
    write_gguf(tmp_path / "wider.gguf", tiny_llama(vocab_size=301))
    with pytest.raises(InputError, match="its vocab_size is 301, here it is 300"):
        export_gguf(tmp_path / "wider.gguf", PATH, tmp_path / "no.gguf", tmp_path / "ours")


FOLDER = os.environ.get("COLA_TEST_MODELS")
MODELS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": (*range(8), 6, 7, *range(9, 30)),
    "gemma-3-270m-q4_k_m.gguf": (*range(12), *range(6, 18)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_export_gguf_of_real_files_reads_back_as_run_path(name, tmp_path):
    if not FOLDER or not (Path(FOLDER) / name).exists():
        pytest.skip(f"set COLA_TEST_MODELS to a folder with {name}")
    export_gguf(Path(FOLDER) / name, MODELS[name], tmp_path / "out.gguf")
    assert_reads_back_as_path(Path(FOLDER) / name, tmp_path / "out.gguf", MODELS[name])
