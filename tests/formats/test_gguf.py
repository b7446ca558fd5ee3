"""GGUF files as llama.cpp writes them, compared with transformers."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from transformers import AutoTokenizer

import cola_jax
from cola_jax import checkpoint
from cola_jax.formats.conversion import convert
from cola_jax.formats.gguf import GgufTensors, open_gguf, scale_queries
from cola_jax.formats.gguf_header import read_header
from cola_jax.path import pad_path
from tests import oracle
from tests.formats.gguf_writer import (
    GEMMA_KEYS,
    KINDS,
    TEMPLATE,
    TEXTS,
    add_byte_level,
    add_sentencepiece,
    finish,
    set_parameters,
    tiny_gemma,
    tiny_llama,
    write,
)

QUANTISED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")
LLAMA_PATHS = ((0, 1, 2), (2, 0, 0, 1))
LINEAR_KEYS = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}
GEMMA_PATHS = (tuple(range(7)), (6, 5, 1, 1))


@pytest.fixture(scope="module")
def llama():
    """A tiny Llama that no test changes."""
    return tiny_llama()


@pytest.fixture(scope="module")
def gemma():
    """A tiny Gemma that no test changes."""
    return tiny_gemma()


def assert_parity(file, model, paths=LLAMA_PATHS):
    ours, ids = oracle.convert_in_memory(file), oracle.random_ids(2)
    for path in paths:
        theirs = oracle.logits(model, ids, path)
        logits = cola_jax.run_path(ours, ids, pad_path(path, max(map(len, paths))))
        assert oracle.relative_error(logits, theirs) < oracle.TOLERANCE
    return ours


@pytest.mark.parametrize("kind", QUANTISED)
def test_open_gguf_dequantises_as_gguf_does(tmp_path, kind):
    llama = tiny_llama(tie_word_embeddings=kind == "Q8_0")
    exact = write(tmp_path / "tiny.gguf", llama, kind)
    set_parameters(llama.model, exact)
    ours = assert_parity(tmp_path / "tiny.gguf", llama.model)
    assert (ours.head is None) == llama.model.config.tie_word_embeddings
    assert ours.embedding.dtype == np.float32
    assert ours.config.norm_eps == 1e-5


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "linear", "factor": 2.5}])
def test_open_gguf_reads_gemma(tmp_path, scaling):
    ropes = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in KINDS[-2:]}
    ropes["full_attention"] |= {"rope_theta": 1e6} | scaling
    gemma = tiny_gemma(rope_parameters=ropes)
    keys = GEMMA_KEYS | (LINEAR_KEYS if scaling else {})
    write(tmp_path / "tiny.gguf", gemma, keys=keys, architecture="gemma3")
    assert_parity(tmp_path / "tiny.gguf", gemma.model, GEMMA_PATHS)


def test_scale_queries_knows_the_27b(pair):
    """Its heads are 128 wide, and attention is scaled as for 5376 / 32 = 168."""
    config = pair("gemma3").ours.config
    sizes = {"width": 5376, "num_heads": 32, "num_kv_heads": 16, "head_dim": 128}
    layers = {"num_layers": 62, "layer_ropes": (0,) * 62, "windows": (None,) * 62}
    assert scale_queries(dataclasses.replace(config, **sizes)).query_scale == 1
    largest = dataclasses.replace(config, **sizes, **layers)
    assert scale_queries(largest).query_scale == (128 / 168) ** 0.5


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"head_dim": 12}, {"attention.key_length": 12, "attention.value_length": 12}),
        ({"rope_parameters": oracle.LINEAR}, LINEAR_KEYS),
        ({"rope_parameters": oracle.LLAMA3}, {}),
    ],
    ids=["head width", "linear rope", "Llama 3"],
)
def test_open_gguf_reads_widths_and_ropes(tmp_path, changes, keys):
    llama, extra = tiny_llama(**changes), []
    if not keys:
        plain = oracle.LLAMA3["rope_theta"] ** (-np.arange(0, 8, 2, dtype=np.float32) / 8)
        divisors = plain / llama.model.model.rotary_emb.inv_freq.numpy()  # as llama.cpp stores them
        np.testing.assert_allclose(divisors[[0, 3]], [1, 8], rtol=1e-6)
        assert 1.1 < divisors[1] < 7.9
        extra = [("rope_freqs.weight", divisors.astype(np.float32))]
    write(tmp_path / "tiny.gguf", llama, keys=keys, extra=extra)
    assert_parity(tmp_path / "tiny.gguf", llama.model)


@pytest.mark.parametrize(("kind", "size"), [("Q4_K", 144), ("Q6_K", 210)])
def test_read_dequantises_kinds_that_gguf_cannot_quantise(tmp_path, kind, size):
    raw = np.random.default_rng(0).integers(0, 60, (3, 2 * size), np.uint8)  # rows of two blocks
    writer = GGUFWriter(tmp_path / "blocks.gguf", "llama")
    writer.add_tensor("x", raw, raw_dtype=GGMLQuantizationType[kind])
    finish(writer)
    file = tmp_path / "blocks.gguf"
    tensors = GgufTensors(file, read_header(file)[1])
    assert tensors.shapes["x"] == (3, 512)
    expected = dequantize(raw, GGMLQuantizationType[kind])
    np.testing.assert_array_equal(tensors.read("x"), expected)


def test_convert_writes_a_gguf_file(tmp_path, llama):
    """Without a tokenizer, which is optional."""
    file, made = tmp_path / "tiny.gguf", tmp_path / "made"
    write(file, llama)
    metadata = convert(str(file), made)
    origin = {"kind": "gguf", "name": str(file), "revision": None, "license": None}
    assert metadata["origin"] == origin
    assert metadata["pad_token"] is None
    with pytest.raises(ValueError, match="has no tokenizer"):
        cola_jax.load_tokenizer(made)
    loaded, ours = cola_jax.load(made), oracle.convert_in_memory(file)
    assert loaded.config == ours.config
    jax.tree.map(np.testing.assert_array_equal, loaded, ours)


def factors(count):
    return {"extra": [("rope_freqs.weight", np.ones(count, np.float32))]}


@pytest.mark.parametrize(
    ("architecture", "keys", "more", "message"),
    [
        ("gemma2", {}, {}, r"'gemma2' is not .*Supported: llama, gemma3\..*from its safetensors"),
        ("llama", {"expert_count": 8}, {}, r"keys that are not handled: \['llama\.expert_count'\]"),
        ("llama", LINEAR_KEYS | {"rope.scaling.type": "yarn"}, {}, "rope type 'yarn'"),
        ("llama", {"rope.dimension_count": 4}, {}, "rotates only a part of each head"),
        ("llama", {"attention.value_length": 16}, {}, r"of another width than its heads \(8\)"),
        ("llama", {"block_count": 4}, {}, r"missing blk\.3\.attn_k\.weight"),
        ("llama", {}, {"kind": "Q5_1"}, r"tensors of type \['Q5_1'\]; \['BF16', .*are supported"),
        ("llama", {}, factors(7), "a rope has 7 divisors for 8 channels"),
        ("gemma3", {"attention.sliding_window": None}, {}, "sliding_attention, but .* no window"),
        ("gemma3", {"final_logit_softcapping": 30.0}, {}, r"not handled: .*\.final_logit_softcapp"),
        ("gemma3", {}, factors(6), r"unmapped rope_freqs\.weight"),
    ],
)
def test_open_gguf_refuses_what_it_would_misread(
    tmp_path, llama, gemma, architecture, keys, more, message
):
    model, usual = (gemma, GEMMA_KEYS) if architecture == "gemma3" else (llama, {})
    write(tmp_path / "a.gguf", model, keys=usual | keys, architecture=architecture, **more)
    with pytest.raises(ValueError, match=message):
        open_gguf(tmp_path / "a.gguf")


def test_open_gguf_refuses_files_without_embeddings(tmp_path, llama):
    tensors = {name: x for name, x in llama.tensors.items() if "embed" not in name}
    write(tmp_path / "part.gguf", llama._replace(tensors=tensors))
    with pytest.raises(ValueError, match=r"has no token_embd\.weight: it is not a complete model"):
        open_gguf(tmp_path / "part.gguf")


@pytest.fixture(scope="module")
def words():
    """A tiny Llama with an embedding for each token of the tokenizers below."""
    return tiny_llama(vocab_size=300)


@pytest.mark.parametrize(
    ("flags", "expected"), [({}, (2,)), ({"eot_token_id": 7}, (2, 7)), ({"eot_token_id": 2}, (2,))]
)
def test_convert_records_stop_and_padding_tokens(tmp_path, words, flags, expected):
    write(tmp_path / "tiny.gguf", words, metadata=[lambda w: add_byte_level(w, **flags)])
    assert convert(str(tmp_path / "tiny.gguf"), tmp_path / "made")["pad_token"] == 2
    assert checkpoint.stop_tokens(tmp_path / "made") == expected


def test_write_tokenizer_refuses_an_unknown_split(tmp_path, words):
    def add(writer):
        add_byte_level(writer)
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "someones"

    write(tmp_path / "tiny.gguf", words, metadata=[add])
    with pytest.raises(ValueError, match=r"tiny\.gguf splits texts as 'someones'"):
        open_gguf(tmp_path / "tiny.gguf").write_tokenizer(tmp_path / "made")


def assert_like_transformers(ours, folder, file, texts=TEXTS):
    theirs = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    for text in texts:
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids, text
        assert ours.decode(ids) == theirs.decode(ids), text
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.chat_template == theirs.chat_template


@pytest.mark.parametrize(
    ("add", "flags"),
    [
        (add_byte_level, {}),
        (add_byte_level, {"add_bos_token": False}),
        (add_byte_level, {"add_bos_token": True, "add_eos_token": True}),
        (add_sentencepiece, {}),
        (add_sentencepiece, {"add_eos_token": True}),
    ],
)
def test_write_tokenizer_matches_transformers(tmp_path, words, add, flags):
    write(tmp_path / "tiny.gguf", words, metadata=[lambda w: add(w, **flags)])
    (tmp_path / "made").mkdir()
    open_gguf(tmp_path / "tiny.gguf").write_tokenizer(tmp_path / "made")
    ours = checkpoint.load_folder(tmp_path / "made", "tiny")
    assert_like_transformers(ours, tmp_path, "tiny.gguf")
    assert ours.chat_template == (TEMPLATE if add is add_byte_level else None)


FOLDER = os.environ.get("COLA_TEST_MODELS")
MODELS = ("SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf")
MORE_TEXTS = (
    *("1234567890 3.14159 1,000,000", "안녕하세요 мир שלום", "a\u0301 ﬁ\u200b\r\n"),
    "<start_of_turn>user\nHi<end_of_turn>\n",
)


@pytest.mark.slow
@pytest.mark.parametrize("file", MODELS)
def test_write_tokenizer_of_real_files_matches_transformers(tmp_path, file):
    """Their logits are compared by `python -m experiments.parity --models FOLDER`."""
    if not FOLDER or not (Path(FOLDER) / file).exists():
        pytest.skip(f"set COLA_TEST_MODELS to a folder with {file}")
    convert(str(Path(FOLDER) / file), tmp_path / "made")
    ours = cola_jax.load_tokenizer(tmp_path / "made")
    assert_like_transformers(ours, FOLDER, file, (*TEXTS, *MORE_TEXTS))
    assert checkpoint.stop_tokens(tmp_path / "made") == (ours.eos_token_id,)
