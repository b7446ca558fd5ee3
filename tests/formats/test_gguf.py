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
from cola_jax.config import ModelConfig, Rope
from cola_jax.formats.conversion import convert, locate
from cola_jax.formats.gguf import GgufTensors, open_gguf, scale_queries
from cola_jax.formats.gguf_header import read_header
from cola_jax.formats.table import stack
from cola_jax.params import assemble
from cola_jax.path import pad_path
from tests import oracle
from tests.formats.gguf_writer import (
    GEMMA_KEYS,
    KINDS,
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
GEMMA_PATHS = (tuple(range(7)), (6, 5, 1, 1))


@pytest.fixture(scope="module")
def llama():
    """A tiny Llama that no test changes."""
    return tiny_llama()


@pytest.fixture(scope="module")
def gemma():
    """A tiny Gemma that no test changes."""
    return tiny_gemma()


def model_of(source):
    """Converts a source without writing it to disk."""
    opened = locate(str(source)).open()
    weights = dict(stack(opened))
    return assemble(opened.config, weights)


def assert_parity(file, model, paths=LLAMA_PATHS):
    ours, ids = model_of(file), oracle.random_ids(2)
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


@pytest.mark.parametrize("linear", [False, True])
def test_open_gguf_reads_gemma(tmp_path, linear):
    ropes = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in KINDS[-2:]}
    ropes["full_attention"] = {"rope_type": "default", "rope_theta": 1e6}
    keys = dict(GEMMA_KEYS)
    if linear:
        ropes["full_attention"] |= {"rope_type": "linear", "factor": 2.5}
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}
    gemma = tiny_gemma(rope_parameters=ropes)
    write(tmp_path / "tiny.gguf", gemma, keys=keys, architecture="gemma3")
    assert_parity(tmp_path / "tiny.gguf", gemma.model, GEMMA_PATHS)


def test_open_gguf_refuses_gemma_keys_that_it_would_misread(tmp_path, gemma):
    factors = [("rope_freqs.weight", np.ones(6, np.float32))]
    for change, extra, message in (
        ({"attention.sliding_window": None}, (), "sliding_attention, but there is no window"),
        ({"final_logit_softcapping": 30.0}, (), r"not handled: \['gemma3\.final_logit_softcapp"),
        ({}, factors, r"unmapped rope_freqs\.weight"),
    ):
        file = tmp_path / "tiny.gguf"
        write(file, gemma, keys=GEMMA_KEYS | change, extra=extra, architecture="gemma3")
        with pytest.raises(ValueError, match=message):
            open_gguf(file)


def test_scale_queries_knows_the_27b():
    """Its heads are 128 wide, and attention is scaled as for 5376 / 32 = 168."""
    sizes = {"vocab_size": 9, "num_layers": 1, "width": 5376, "num_heads": 32, "num_kv_heads": 16}
    sizes |= {"head_dim": 128, "mlp_width": 4, "context": 9, "norm_eps": 1e-6}
    config = ModelConfig(**sizes, ropes=(Rope(1e4),), layer_ropes=(0,), windows=(None,), tied=True)
    assert scale_queries(config).query_scale == 1
    layers = {"num_layers": 62, "layer_ropes": (0,) * 62, "windows": (None,) * 62}
    largest = dataclasses.replace(config, **layers)
    assert scale_queries(largest).query_scale == (128 / 168) ** 0.5


def test_open_gguf_reads_llama3_rope_factors(tmp_path):
    llama = tiny_llama(rope_parameters=oracle.LLAMA3)
    plain = oracle.LLAMA3["rope_theta"] ** (-np.arange(0, 8, 2, dtype=np.float32) / 8)
    factors = plain / llama.model.model.rotary_emb.inv_freq.numpy()  # as llama.cpp stores them
    np.testing.assert_allclose(factors[[0, 3]], [1, 8], rtol=1e-6)
    assert 1.1 < factors[1] < 7.9
    write(tmp_path / "tiny.gguf", llama, extra=[("rope_freqs.weight", factors.astype(np.float32))])
    assert_parity(tmp_path / "tiny.gguf", llama.model)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"head_dim": 12}, {"attention.key_length": 12, "attention.value_length": 12}),
        (
            {"rope_parameters": oracle.LINEAR},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5},
        ),
    ],
    ids=["head width", "linear rope"],
)
def test_open_gguf_reads_optional_keys(tmp_path, changes, keys):
    llama = tiny_llama(**changes)
    write(tmp_path / "tiny.gguf", llama, keys=keys)
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
    write(tmp_path / "tiny.gguf", llama)
    metadata = convert(str(tmp_path / "tiny.gguf"), tmp_path / "made")
    name = str(tmp_path / "tiny.gguf")
    assert metadata["origin"] == {"kind": "gguf", "name": name, "revision": None, "license": None}
    assert metadata["pad_token"] is None
    with pytest.raises(ValueError, match="has no tokenizer"):
        cola_jax.load_tokenizer(tmp_path / "made")
    loaded, ours = cola_jax.load(tmp_path / "made"), model_of(tmp_path / "tiny.gguf")
    assert loaded.config == ours.config
    jax.tree.map(np.testing.assert_array_equal, loaded, ours)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, llama):
    """The bytes of an intact file."""
    file = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    write(file, llama)
    return file.read_bytes()


@pytest.mark.parametrize("share", [0, 0.02, 0.999])
def test_open_gguf_refuses_truncated_files(tmp_path, whole, share):
    file = tmp_path / "short.gguf"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        ValueError, match=r"short\.gguf.*It is damaged or truncated: download it again"
    ):
        open_gguf(file)


def test_open_gguf_refuses_another_architecture(tmp_path, llama):
    write(tmp_path / "other.gguf", llama, architecture="gemma2")
    message = r"architecture 'gemma2' is not .*Supported: llama, gemma3\..*from its safetensors"
    with pytest.raises(ValueError, match=message):
        open_gguf(tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"expert_count": 8}, r"keys that are not handled: \['llama\.expert_count'\]"),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "rope type 'yarn'"),
        ({"rope.dimension_count": 4}, "rotates only a part of each head"),
        ({"attention.value_length": 16}, r"values of another width than its heads \(8\)"),
        ({"block_count": 4}, r"missing blk\.3\.attn_k\.weight"),
    ],
)
def test_open_gguf_refuses_keys_that_it_would_misread(tmp_path, llama, keys, message):
    write(tmp_path / "tiny.gguf", llama, keys=keys)
    with pytest.raises(ValueError, match=message):
        open_gguf(tmp_path / "tiny.gguf")


def test_open_gguf_refuses_other_tensors(tmp_path, llama):
    write(tmp_path / "type.gguf", llama, "Q5_1")
    with pytest.raises(ValueError, match=r"tensors of type \['Q5_1'\]; \['BF16', .*are supported"):
        open_gguf(tmp_path / "type.gguf")
    factors = [("rope_freqs.weight", np.ones(7, np.float32))]
    write(tmp_path / "rope.gguf", llama, extra=factors)
    with pytest.raises(ValueError, match="a rope has 7 divisors for heads of 8"):
        open_gguf(tmp_path / "rope.gguf")
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
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text).input_ids, text
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids), text
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.chat_template == theirs.chat_template
    if theirs.chat_template:
        chat = [{"role": "user", "content": "Hello"}]
        assert (
            ours.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nHello<|im_end|>\n"
        )


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
    theirs = AutoTokenizer.from_pretrained(FOLDER, gguf_file=file)
    for text in (*TEXTS, *MORE_TEXTS):
        assert ours(text).input_ids == theirs(text).input_ids, text
    assert checkpoint.stop_tokens(tmp_path / "made") == (theirs.eos_token_id,)
    assert ours.chat_template == theirs.chat_template
