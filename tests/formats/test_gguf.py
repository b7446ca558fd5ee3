"""GGUF files as llama.cpp writes them, compared with transformers."""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

import cola_jax
from cola_jax import checkpoint
from cola_jax.formats.conversion import convert
from cola_jax.formats.gguf import GgufTensors, open_gguf
from cola_jax.formats.gguf_architectures import ARCHITECTURES
from cola_jax.formats.gguf_header import read_header
from cola_jax.path import pad_path
from tests import oracle
from tests.formats.gguf_writer import (
    FAMILIES,
    GEMMA_KEYS,
    KINDS,
    TEMPLATE,
    TEXTS,
    add_byte_level,
    add_sentencepiece,
    finish,
    set_parameters,
    tiny,
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


@pytest.mark.parametrize("name", FAMILIES)
def test_open_gguf_reads_what_transformers_reads(tmp_path, name):
    """Or as it was made: of gpt-oss and Gemma 4, transformers reads a part of the keys alone."""
    made, file = tiny(name, vocab_size=300), tmp_path / "tiny.gguf"
    architecture = "gemma4" if name.startswith("gemma4") else name
    keys = FAMILIES[name][2]
    write(file, made, keys=keys, metadata=[add_byte_level], architecture=architecture)
    model = made.model
    if architecture not in ("gpt-oss", "gemma4"):
        theirs = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=file.name, dtype="float32"
        )
        theirs.config.__dict__.pop("quantization_config", None)  # models with it cannot be saved
        model.load_state_dict(theirs.state_dict())
        model.config = theirs.config
    assert_same(oracle.convert_in_memory(file), model, tmp_path / "theirs")


def assert_same(ours, model, folder):
    """Config and weights are those of a model of transformers, whose epsilon has more digits."""
    model.save_pretrained(folder)
    theirs = oracle.convert_in_memory(folder)
    assert theirs.config.norm_eps == pytest.approx(ours.config.norm_eps, rel=1e-6)
    config = dataclasses.replace(theirs.config, norm_eps=ours.config.norm_eps)
    assert ours.config == config
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, ours, theirs.replace(config=config))


FACTORS = {name: np.float32(oracle.LONGROPE[f"{name}_factor"]) for name in ("short", "long")}


@pytest.mark.parametrize(
    ("name", "rope", "keys", "extra"),
    [
        (
            "qwen3",
            oracle.YARN,
            {
                **{"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
                **{"rope.scaling.yarn_beta_fast": 1.4, "rope.scaling.yarn_beta_slow": 0.3},
                "rope.scaling.original_context_length": 16,
            },
            [],
        ),
        (
            "phi3",
            {**oracle.LONGROPE, "partial_rotary_factor": 0.75},
            {
                **{"rope.scaling.attn_factor": 2.0, "rope.dimension_count": 6},
                "rope.scaling.original_context_length": 4,
            },
            [(f"rope_factors_{name}.weight", values) for name, values in FACTORS.items()],
        ),
    ],
    ids=["yarn", "longrope"],
)
def test_open_gguf_reads_stretched_ropes(tmp_path, name, rope, keys, extra):
    """These are compared with the model as it was made: transformers reads neither."""
    sizes = {"original_max_position_embeddings": 4, "max_position_embeddings": 256}
    made = tiny(name, rope_parameters=rope, **(sizes if name == "phi3" else {}))
    keys = FAMILIES[name][2] | keys
    write(tmp_path / "tiny.gguf", made, keys=keys, extra=extra, architecture=name)
    assert_same(oracle.convert_in_memory(tmp_path / "tiny.gguf"), made.model, tmp_path / "theirs")


def test_query_scale_knows_the_27b():
    """Its heads are 128 wide, and attention is scaled as for 5376 / 32 = 168."""
    sizes = {"embedding_length": 5376, "attention.head_count": 32, "attention.key_length": 128}
    for layers, scalar in ((48, 128), (62, 168)):
        fields = {**sizes, "block_count": layers}
        assert ARCHITECTURES["gemma3"].derive(fields, None) == {"query_pre_attn_scalar": scalar}


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


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ2_XS"])
def test_read_dequantises_kinds_that_gguf_cannot_quantise(tmp_path, kind):
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
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


DOUBLE = {"extra": [("x", np.ones(8))]}


def factors(count):
    return {"extra": [("rope_freqs.weight", np.ones(count, np.float32))]}


@pytest.mark.parametrize(
    ("architecture", "keys", "more", "message"),
    [
        (
            "qwen3vl",
            {},
            {},
            r"a\.gguf: architecture 'qwen3vl' .*\(did you mean qwen3\w*\?\)",
        ),
        ("qwen3vl", {}, {}, r"Supported: llama, qwen2, .* from its safetensors"),
        ("llama", {"expert_count": 8}, {}, r"keys that are not handled: \['llama\.expert_count'\]"),
        ("llama", LINEAR_KEYS | {"rope.scaling.type": "longrope"}, {}, "rope type 'longrope'"),
        ("llama", {"rope.dimension_count": 4}, {}, "rotates only a part of each head"),
        ("llama", {"attention.value_length": 16}, {}, r"of another width than its heads \(8\)"),
        ("llama", {"block_count": 4}, {}, r"missing blk\.3\.attn_k\.weight"),
        ("llama", {}, DOUBLE, r"tensors of type \['F64'\]; \['BF16', 'F16', .*are supported"),
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


def test_open_gguf_refuses_experts_that_are_routed_otherwise(tmp_path):
    keys = FAMILIES["minimax-m2"][2] | {"expert_gating_func": 1}
    write(tmp_path / "a.gguf", tiny("minimax-m2"), keys=keys, architecture="minimax-m2")
    with pytest.raises(ValueError, match="scoring_func = 'softmax'"):
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
