"""GGUF files: written here as llama.cpp writes them, and compared with transformers."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

import cola_jax
from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.convert import convert
from cola_jax.convert.gguf import GgufTensors, open_gguf, read_file
from cola_jax.convert.gguf_architectures import scale_queries
from cola_jax.path import pad_path
from tests import oracle

QUANTISED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")
MODEL = {"intermediate_size": 64, "num_hidden_layers": 3, "rms_norm_eps": 1e-5}  # blocks of 32
PATHS = {"identity": (0, 1, 2), "mixed": (2, 0, 0, 1)}

# their names, as llama.cpp's convert_hf_to_gguf.py maps them
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
GEMMA_NAMES = NAMES | {
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}
TEXTS = (
    "Hello world, 12345 tokens!",
    "def f(x):\n    return x ** 2  # squared\n",
    "  leading and   inner spaces\t\n\n",
    "naïve café — 東京 🙂 Ω",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<s>not special at the start</s>",
    "",
)


def tiny(**changes):
    """A random Llama and its tensors by llama.cpp's names, queries and keys permuted."""
    model = oracle.random_model("llama", **{**MODEL, **changes})
    config = model.config
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if ".q_proj." in name:
            values = permute(values, config.num_attention_heads)
        if ".k_proj." in name:
            values = permute(values, config.num_key_value_heads)
        tensors[name] = values
    return model, tensors


def permute(weights, heads):
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def unpermute(weights, heads):
    return (
        weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def their_name(name, names):
    if name in names:
        return names[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{names[rest]}"


def write(file, config, tensors, kind="F32", keys=(), extra=(), add=(), architecture="llama"):
    """Writes a GGUF file; returns what its tensors dequantise to.

    `keys` come on top, or are left out when None; so do `extra` tensors; `add` writes metadata.
    """
    writer = GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_file_type(0)
    for write_more in add:
        write_more(writer)
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    values = {"rope.freq_base": config.rope_parameters.get("rope_theta")} | values | dict(keys)
    names = GEMMA_NAMES if architecture == "gemma3" else NAMES
    for key, value in values.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    exact = {}
    for name, tensor in tensors.items():
        # llama.cpp keeps vectors in float32 whatever the rest is
        chosen = GGMLQuantizationType["F32" if tensor.ndim == 1 else kind]
        stored = quantize(tensor, chosen)
        writer.add_tensor(their_name(name, names), stored, raw_dtype=chosen)
        exact[name] = dequantize(stored, chosen).reshape(tensor.shape)
    for name, tensor in extra:
        writer.add_tensor(name, tensor)
    finish(writer)
    return exact


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def put(model, tensors):
    """Gives the transformers model the values that a file holds."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = tensors[name]
            for part, count in heads.items():
                if f".{part}." in name:
                    values = unpermute(values, count)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def assert_parity(file, model, tmp_path):
    convert(str(file), tmp_path / "made")
    ours, ids = cola_jax.load(tmp_path / "made"), oracle.random_ids(2)
    for path in PATHS.values():
        theirs = oracle.logits(model, ids, path)
        logits = cola_jax.run_path(ours, ids, pad_path(path, 4))
        assert oracle.relative_error(logits, theirs) < oracle.TOLERANCE
    return ours


@pytest.mark.parametrize("kind", QUANTISED)
def test_logits_are_those_of_the_dequantised_weights(tmp_path, kind):
    model, tensors = tiny(tie_word_embeddings=kind == "Q8_0")
    exact = write(tmp_path / "tiny.gguf", model.config, tensors, kind)
    put(model, exact)
    ours = assert_parity(tmp_path / "tiny.gguf", model, tmp_path)
    assert (ours.head is None) == model.config.tie_word_embeddings
    assert ours.embedding.dtype == np.float32
    assert ours.config.norm_eps == 1e-5


KINDS = ["sliding_attention"] * 5 + ["full_attention"]
GEMMA_KEYS = {
    **{"attention.key_length": 12, "attention.value_length": 12, "attention.sliding_window": 5},
    **{"rope.freq_base": 1e6, "rope.dimension_count": None, "vocab_size": None},
}


def tiny_gemma(**changes):
    """A random Gemma 3 of seven layers and its tensors as llama.cpp stores them."""
    facts = {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 12}
    facts |= {"num_hidden_layers": 7, "layer_types": [*KINDS, KINDS[0]], "rms_norm_eps": 1e-6}
    model = oracle.random_model("gemma3_text", **facts, tie_word_embeddings=True, **changes)
    tensors = {n: x.numpy() for n, x in model.state_dict().items() if n != "lm_head.weight"}
    return model, {n: x + 1 if n.endswith("norm.weight") else x for n, x in tensors.items()}


@pytest.mark.parametrize("linear", [False, True])
def test_gemma_is_read(tmp_path, linear):
    ropes = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in KINDS[-2:]}
    ropes["full_attention"] = {"rope_type": "default", "rope_theta": 1e6}
    keys = dict(GEMMA_KEYS)
    if linear:
        ropes["full_attention"] |= {"rope_type": "linear", "factor": 2.5}
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}
    model, tensors = tiny_gemma(rope_parameters=ropes)
    write(tmp_path / "tiny.gguf", model.config, tensors, keys=keys, architecture="gemma3")
    convert(str(tmp_path / "tiny.gguf"), tmp_path / "made")
    ours, ids = cola_jax.load(tmp_path / "made"), oracle.random_ids(2)
    for path in ((*range(7),), (6, 5, 1, 1)):
        logits = cola_jax.run_path(ours, ids, pad_path(path, 7))
        assert oracle.relative_error(logits, oracle.logits(model, ids, path)) < oracle.TOLERANCE


def test_both_sources_of_gemma_give_one_checkpoint(tmp_path):
    model, tensors = tiny_gemma()
    model.save_pretrained(tmp_path / "theirs")
    write(tmp_path / "tiny.gguf", model.config, tensors, keys=GEMMA_KEYS, architecture="gemma3")
    for source in ("theirs", "tiny.gguf"):
        convert(str(tmp_path / source), tmp_path / f"{source}-made")
    one, other = (cola_jax.load(tmp_path / f"{s}-made") for s in ("theirs", "tiny.gguf"))
    assert one.config == other.config
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-7)  # 1 added and taken away again


def test_gemma_keys_that_would_be_misread_are_refused(tmp_path):
    model, tensors = tiny_gemma()
    factors = [("rope_freqs.weight", np.ones(6, np.float32))]
    for change, extra, message in (
        ({"attention.sliding_window": None}, (), "sliding_attention, but there is no window"),
        ({"attention.head_count": None}, (), "num_attention_heads must be a positive number"),
        ({"final_logit_softcapping": 30.0}, (), r"not handled: \['gemma3\.final_logit_softcapp"),
        ({}, factors, r"unmapped rope_freqs\.weight"),
    ):
        keys = GEMMA_KEYS | change
        file = tmp_path / "tiny.gguf"
        write(file, model.config, tensors, keys=keys, extra=extra, architecture="gemma3")
        with pytest.raises(ValueError, match=message):
            open_gguf(file)


def test_the_27b_scales_queries_by_its_width():
    """Its heads are 128 wide, and attention is scaled as for 5376 / 32 = 168."""
    one_layer = {"vocab_size": 9, "num_layers": 1, "width": 5376, "num_heads": 32}
    facts = {"num_kv_heads": 16, "head_dim": 128, "mlp_width": 4, "context": 9, "norm_eps": 1e-6}
    config = ModelConfig(
        **one_layer, **facts, ropes=(), layer_ropes=(0,), windows=(None,), tied=True
    )
    assert scale_queries(config).query_scale == 1
    layers = {"num_layers": 62, "layer_ropes": (0,) * 62, "windows": (None,) * 62}
    largest = dataclasses.replace(config, **layers)
    assert scale_queries(largest).query_scale == (128 / 168) ** 0.5


def test_permuting_back_is_the_inverse():
    weights = np.arange(8 * 3.0).reshape(8, 3)
    np.testing.assert_array_equal(unpermute(permute(weights, 2), 2), weights)


def test_a_head_width_of_its_own_is_read(tmp_path):
    model, tensors = tiny(head_dim=12)
    keys = {"attention.key_length": 12, "attention.value_length": 12}
    write(tmp_path / "tiny.gguf", model.config, tensors, keys=keys)
    assert_parity(tmp_path / "tiny.gguf", model, tmp_path)


def llama3_factors(rope, head_dim):
    """`rope_freqs.weight` as llama.cpp's convert_hf_to_gguf.py generates it."""
    frequencies = 1.0 / rope["rope_theta"] ** (
        np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    )
    factor, low, high = (rope[k] for k in ("factor", "low_freq_factor", "high_freq_factor"))
    original = rope["original_max_position_embeddings"]
    factors = []
    for wavelength in 2 * np.pi / frequencies:
        if wavelength < original / high:
            factors.append(1)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def test_rope_factors_are_llama3_rope(tmp_path):
    model, tensors = tiny(rope_parameters=oracle.LLAMA3)
    factors = llama3_factors(oracle.LLAMA3, 8)
    assert factors[0] == 1
    assert 1 < factors[1] < 8
    assert factors[3] == 8
    extra = [("rope_freqs.weight", factors)]
    write(tmp_path / "tiny.gguf", model.config, tensors, extra=extra)
    assert_parity(tmp_path / "tiny.gguf", model, tmp_path)


def test_linear_rope_is_read(tmp_path):
    model, tensors = tiny(rope_parameters=oracle.LINEAR)
    keys = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}
    write(tmp_path / "tiny.gguf", model.config, tensors, keys=keys)
    assert_parity(tmp_path / "tiny.gguf", model, tmp_path)


def test_linear_rope_and_factors_add_up(tmp_path):
    """llama.cpp applies both where a file has both."""
    model, tensors = tiny()
    keys = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    extra = [("rope_freqs.weight", np.array([1, 2, 4, 8], np.float32))]
    write(tmp_path / "tiny.gguf", model.config, tensors, keys=keys, extra=extra)
    frequencies = open_gguf(tmp_path / "tiny.gguf").config.ropes[0].frequencies(8)
    plain = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(frequencies, plain / 2 / [1, 2, 4, 8], rtol=1e-6)


def blocks_q4_k(raw):
    """`dequantize_row_q4_K` of ggml-quants.c, block by block."""
    out = []
    for block in raw.reshape(-1, 144):
        d, dmin = block[:4].view(np.float16).astype(np.float32)
        scales, qs = block[4:16].astype(int), block[16:]
        for j in range(8):
            if j < 4:
                scale, low = scales[j] & 63, scales[j + 4] & 63
            else:
                scale = (scales[j + 4] & 0xF) | ((scales[j - 4] >> 6) << 4)
                low = (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4)
            bytes_ = qs[32 * (j // 2) : 32 * (j // 2) + 32]
            nibbles = bytes_ & 0xF if j % 2 == 0 else bytes_ >> 4
            out.append(d * np.float32(scale) * nibbles - dmin * np.float32(low))
    return np.concatenate(out)


def blocks_q6_k(raw):
    """`dequantize_row_q6_K` of ggml-quants.c, value by value."""
    out = []
    for block in raw.reshape(-1, 210):
        ql, qh = block[:128].astype(int), block[128:192].astype(int)
        scales, d = block[192:208].view(np.int8), block[208:].view(np.float16)[0]
        y = np.zeros(256, np.float32)
        for n in range(2):
            low, high, scale = ql[64 * n :], qh[32 * n :], scales[8 * n :]
            for i in range(32):
                quants = (
                    (low[i] & 0xF) | ((high[i] & 3) << 4),
                    (low[i + 32] & 0xF) | (((high[i] >> 2) & 3) << 4),
                    (low[i] >> 4) | (((high[i] >> 4) & 3) << 4),
                    (low[i + 32] >> 4) | (((high[i] >> 6) & 3) << 4),
                )
                for part, q in enumerate(quants):
                    weight = np.float32(d) * np.float32(scale[i // 16 + 2 * part])
                    y[128 * n + 32 * part + i] = weight * np.float32(q - 32)
        out.append(y)
    return np.concatenate(out)


@pytest.mark.parametrize(
    ("kind", "size", "halves", "reference"),
    [("Q4_K", 144, (0, 2), blocks_q4_k), ("Q6_K", 210, (208,), blocks_q6_k)],
)
def test_blocks_of_256_are_read_as_ggml_reads_them(tmp_path, kind, size, halves, reference):
    generator = np.random.default_rng(0)
    raw = generator.integers(0, 256, (3, 2, size), np.uint8)  # three rows of two blocks
    for start in halves:  # random bits would make scales that are not finite
        scale = generator.normal(size=(3, 2, 1)).astype(np.float16)
        raw[..., start : start + 2] = scale.view(np.uint8)
    writer = GGUFWriter(tmp_path / "blocks.gguf", "llama")
    writer.add_tensor("x", raw.reshape(3, -1), raw_dtype=GGMLQuantizationType[kind])
    finish(writer)
    tensors = GgufTensors(tmp_path / "blocks.gguf", read_file(tmp_path / "blocks.gguf"))
    assert tensors.shapes["x"] == (3, 512)
    found = tensors.read("x")
    np.testing.assert_allclose(found, reference(raw).reshape(3, 512), rtol=1e-6, atol=1e-4)


def byte_level(vocab_size=300):
    """A byte-level BPE vocabulary and its merges, trained on the texts above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [token for token, _ in vocabulary], [" ".join(merge) for merge in merges]


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


def add_byte_level(writer, **flags):
    tokens, merges = byte_level()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))  # control tokens come first
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in flags.items():
        getattr(writer, f"add_{name}")(value)


def add_sentencepiece(writer, **flags):
    """A vocabulary of pieces with scores, bytes as a fallback, and no merges."""
    pieces = ["▁", "e", "l", "o", "H", "w", "r", "d", "lo", "el", "▁w", "or", "▁wor", "ld", "Hel"]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + pieces
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, value in flags.items():
        getattr(writer, f"add_{name}")(value)


def test_stop_tokens_are_those_of_the_file(tmp_path):
    model, tensors = tiny()
    for flags, expected in (({}, (2,)), ({"eot_token_id": 7}, (2, 7)), ({"eot_token_id": 2}, (2,))):
        write(
            tmp_path / "tiny.gguf",
            model.config,
            tensors,
            add=[lambda w, flags=flags: add_byte_level(w, **flags)],
        )
        convert(str(tmp_path / "tiny.gguf"), tmp_path / "made", overwrite=True)
        assert checkpoint.stop_tokens(tmp_path / "made") == expected


@pytest.mark.parametrize(
    ("add", "flags"),
    [
        (add_byte_level, {}),
        (add_byte_level, {"add_bos_token": True}),
        (add_byte_level, {"add_bos_token": False}),
        (add_byte_level, {"add_bos_token": True, "add_eos_token": True}),
        (add_sentencepiece, {}),
        (add_sentencepiece, {"add_bos_token": False}),
        (add_sentencepiece, {"add_eos_token": True}),
    ],
)
def test_token_ids_are_those_of_transformers(tmp_path, add, flags):
    model, tensors = tiny()
    write(tmp_path / "tiny.gguf", model.config, tensors, add=[lambda w: add(w, **flags)])
    convert(str(tmp_path / "tiny.gguf"), tmp_path / "made")
    ours = cola_jax.load_tokenizer(tmp_path / "made")
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


def test_a_file_without_tokenizer_converts(tmp_path):
    model, tensors = tiny()
    write(tmp_path / "tiny.gguf", model.config, tensors)
    metadata = convert(str(tmp_path / "tiny.gguf"), tmp_path / "made")
    name = str(tmp_path / "tiny.gguf")
    assert metadata["origin"] == {"kind": "gguf", "name": name, "revision": None}
    with pytest.raises(ValueError, match="has no tokenizer"):
        cola_jax.load_tokenizer(tmp_path / "made")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a sound file."""
    model, tensors = tiny()
    file = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    write(file, model.config, tensors)
    return file.read_bytes()


@pytest.mark.parametrize("share", [0, 0.0001, 0.005, 0.02, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, whole, share):
    file = tmp_path / "short.gguf"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"short\.gguf is not a GGUF file, or is damaged or cut"):
        open_gguf(file)


@pytest.mark.parametrize("head", [b"", b"GGUF"])
def test_garbage_is_refused(tmp_path, head):
    file = tmp_path / "garbage.gguf"
    file.write_bytes(head + np.random.default_rng(0).bytes(4096))
    with pytest.raises(ValueError, match="is not a GGUF file, or is damaged"):
        open_gguf(file)


def test_a_missing_file_is_said_to_be(tmp_path):
    with pytest.raises(ValueError, match=r"none\.gguf does not exist"):
        open_gguf(tmp_path / "none.gguf")


def test_another_architecture_is_refused(tmp_path):
    model, tensors = tiny()
    write(tmp_path / "other.gguf", model.config, tensors, architecture="gemma2")
    with pytest.raises(
        ValueError, match=r"architecture 'gemma2'; llama, gemma3 files.*safetensors instead"
    ):
        open_gguf(tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"expert_count": 8}, r"keys that are not handled: \['llama\.expert_count'\]"),
        ({"attention.sliding_window": 4}, r"llama\.attention\.sliding_window"),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "rope type 'yarn'"),
        ({"rope.dimension_count": 4}, "only a part is rotated"),
        ({"attention.value_length": 16}, "only a part is rotated or a value"),
        ({"attention.head_count": None}, "num_attention_heads must be a positive number"),
        ({"block_count": 4}, r"missing blk\.3\.attn_k\.weight"),
        ({"block_count": 2}, r"unmapped blk\.2\.attn_k\.weight"),
        (
            {"feed_forward_length": 32},
            r"blk\.0\.ffn_down\.weight is \(32, 64\) and should be \(32, 32",
        ),
    ],
)
def test_keys_that_would_be_misread_are_refused(tmp_path, keys, message):
    model, tensors = tiny()
    write(tmp_path / "tiny.gguf", model.config, tensors, keys=keys)
    with pytest.raises(ValueError, match=message):
        open_gguf(tmp_path / "tiny.gguf")


def test_other_tensors_are_refused(tmp_path):
    model, tensors = tiny()
    extra = [("blk.0.attn_q.bias", np.zeros(32, np.float32))]
    write(tmp_path / "bias.gguf", model.config, tensors, extra=extra)
    with pytest.raises(ValueError, match=r"unmapped blk\.0\.attn_q\.bias"):
        open_gguf(tmp_path / "bias.gguf")
    extra = [("rope_freqs.weight", np.ones(7, np.float32))]
    write(tmp_path / "rope.gguf", model.config, tensors, extra=extra)
    with pytest.raises(ValueError, match=r"rope_freqs\.weight has 7 values for heads of 8"):
        open_gguf(tmp_path / "rope.gguf")
    without = {name: x for name, x in tensors.items() if "embed" not in name}
    write(tmp_path / "part.gguf", model.config, without)
    with pytest.raises(ValueError, match=r"has no token_embd\.weight: it holds no whole model"):
        open_gguf(tmp_path / "part.gguf")


def test_other_tensor_types_are_refused(tmp_path):
    model, tensors = tiny()
    write(tmp_path / "tiny.gguf", model.config, tensors, "Q5_1")
    with pytest.raises(ValueError, match=r"tensors of type \['Q5_1'\]; \['BF16', .*can be read"):
        open_gguf(tmp_path / "tiny.gguf")


FOLDER = os.environ.get("COLA_TEST_MODELS")
MODELS = {  # file, and the paths of oracle that run through it
    "SmolLM2-135M-Instruct.Q4_1.gguf": oracle.SMOLLM_PATHS,
    "gemma-3-270m-q4_k_m.gguf": oracle.GEMMA_PATHS,
}
MORE_TEXTS = (
    *("1234567890 3.14159 1,000,000", "안녕하세요 мир שלום", "a\u0301 ﬁ\u200b\r\n"),
    "<start_of_turn>user\nHi<end_of_turn>\n",
)


@pytest.fixture(scope="module", params=MODELS)
def real(request, tmp_path_factory):
    """A real model's file, and what it was converted to."""
    if not FOLDER or not (Path(FOLDER) / request.param).exists():
        pytest.skip(f"set COLA_TEST_MODELS to a folder with {request.param}")
    made = tmp_path_factory.mktemp("real") / "made"
    convert(str(Path(FOLDER) / request.param), made)
    return request.param, made


@pytest.mark.slow
def test_real_logits_are_those_of_transformers(real):
    pytest.importorskip("accelerate")  # transformers wants it for GGUF files
    file, made = real
    ours, tokenizer = cola_jax.load(made), cola_jax.load_tokenizer(made)
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=file, dtype=torch.float32)
    ids = np.array([tokenizer("The capital of France is Paris, and that of Japan is").input_ids])
    for name, path in MODELS[file].items():
        expected = oracle.logits(theirs, ids, path)
        assert oracle.relative_error(cola_jax.run_path(ours, ids, path), expected) < 1e-4, name


@pytest.mark.slow
def test_real_token_ids_are_those_of_transformers(real):
    file, made = real
    ours = cola_jax.load_tokenizer(made)
    theirs = AutoTokenizer.from_pretrained(FOLDER, gguf_file=file)
    for text in (*TEXTS, *MORE_TEXTS):
        assert ours(text).input_ids == theirs(text).input_ids, text
    assert checkpoint.stop_tokens(made) == (theirs.eos_token_id,)
    assert ours.chat_template == theirs.chat_template
    if theirs.chat_template is None:
        return
    chat = [{"role": "user", "content": "What is 12 * 12?"}]
    for prompt in (True, False):
        options = {"tokenize": False, "add_generation_prompt": prompt}
        assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(
            chat, **options
        )
