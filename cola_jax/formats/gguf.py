"""Read GGUF files: the supported architectures, tensors dequantised one by one, the tokenizer."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, reading, shown
from cola_jax.formats.families import read_config
from cola_jax.formats.gguf_header import Tensor, read_header
from cola_jax.formats.table import (
    Q8_BLOCK,
    Row,
    Source,
    Table,
    check,
    make_table,
    origin_of,
    rows_of,
)
from cola_jax.params import Int8

TYPES = {
    GGMLQuantizationType[name]
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K")
}
# transformers splits so by default; SmolLM splits digits, which its merges do not join either
SPLIT_AS_GPT2 = (None, "default", "gpt-2", "smollm")
ROPE_DIVISORS = "rope_freqs.weight"
REPAIR = "Download it again, or convert the model from its safetensors."
STOP_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


class Architecture(NamedTuple):
    """How to read a `general.architecture`, whose name is also the prefix of its keys."""

    model_type: str  # of the Hugging Face config that the keys are translated to
    table: Table
    keys: Mapping[str, str | None]  # to attributes of such a config; None for keys without one
    finish: Callable[[ModelConfig], ModelConfig] = lambda config: config  # for facts without key


LLAMA = make_table(
    Row("embedding", "token_embd.weight", "V D -> V D"),
    Row("norm", "output_norm.weight", "D -> D"),
    Row("head", "output.weight", "V D -> D V"),
    # the two halves of each head are interleaved, for rope on adjacent pairs
    Row("q", "blk.{i}.attn_q.weight", "(N h two) D -> D N (two h)"),
    Row("k", "blk.{i}.attn_k.weight", "(K h two) D -> D K (two h)"),
    Row("v", "blk.{i}.attn_v.weight", "(K H) D -> D K H"),
    Row("o", "blk.{i}.attn_output.weight", "D (N H) -> N H D"),
    Row("attention_norm", "blk.{i}.attn_norm.weight", "D -> D"),
    Row("mlp_norm", "blk.{i}.ffn_norm.weight", "D -> D"),
    Row("gate", "blk.{i}.ffn_gate.weight", "F D -> D F"),
    Row("up", "blk.{i}.ffn_up.weight", "F D -> D F"),
    Row("down", "blk.{i}.ffn_down.weight", "D F -> F D"),
)
GEMMA3 = make_table(
    Row("q", "blk.{i}.attn_q.weight", "(N H) D -> D N H"),
    Row("k", "blk.{i}.attn_k.weight", "(K H) D -> D K H"),
    # norms are stored with the 1 that the model adds to them
    Row("norm", "output_norm.weight", "D -> D", -1.0),
    Row("q_norm", "blk.{i}.attn_q_norm.weight", "H -> H", -1.0),
    Row("k_norm", "blk.{i}.attn_k_norm.weight", "H -> H", -1.0),
    Row("attention_norm", "blk.{i}.attn_norm.weight", "D -> D", -1.0),
    Row("attention_post_norm", "blk.{i}.post_attention_norm.weight", "D -> D", -1.0),
    Row("mlp_norm", "blk.{i}.ffn_norm.weight", "D -> D", -1.0),
    Row("mlp_post_norm", "blk.{i}.post_ffw_norm.weight", "D -> D", -1.0),
    base=LLAMA,
)

KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    **dict.fromkeys(("vocab_size", "attention.value_length", "rope.dimension_count")),
    **dict.fromkeys(("rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned")),
    "rope.scaling.original_context_length": None,
}
GEMMA3_KEYS = {
    **KEYS,
    "attention.sliding_window": "sliding_window",
    "rope.freq_base_swa": "rope_local_base_freq",
}
GEMMA3_27B = 62  # its number of layers, by which llama.cpp recognises it


def scale_queries(config: ModelConfig) -> ModelConfig:
    """Set the query scale, which Gemma 3 files do not hold."""
    if config.num_layers != GEMMA3_27B:
        return dataclasses.replace(config, query_scale=1.0)
    per_head = config.width // config.num_heads
    return dataclasses.replace(config, query_scale=(config.head_dim / per_head) ** 0.5)


ARCHITECTURES = {
    "llama": Architecture("llama", LLAMA, KEYS),
    "gemma3": Architecture("gemma3_text", GEMMA3, GEMMA3_KEYS, scale_queries),
}


def read_file(file: Path) -> GGUFReader:
    """Open a file with the gguf package, which trusts the header: it is checked before."""
    read_header(file)
    with reading(file, "It is damaged, or not read by this version of gguf: download it again."):
        return GGUFReader(str(file))


def open_gguf(file: Path) -> Source:
    """Open a GGUF file; InputError where it is damaged or not supported."""
    metadata, stored = read_header(file)
    with reading(file, REPAIR):
        name = metadata.get("general.architecture")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise InputError(
                f"architecture {shown(name)} is not supported. Supported: "
                f"{', '.join(ARCHITECTURES)}."
            )
        tensors = GgufTensors(file, stored)
        config = gguf_config(name, metadata, tensors)
        check_tokenizer(metadata, config.vocab_size)
        rows = rows_of(ARCHITECTURES[name].table, config)
        has_divisors, license = len(config.ropes) == 1, metadata.get("general.license")
        check(tensors, rows, config, lambda name: has_divisors and name == ROPE_DIVISORS)
        return Source(
            config=config,
            rows=rows,
            tensors=tensors,
            dtype=np.dtype(np.float32),  # the dtype of dequantised values
            write_tokenizer=lambda target: write_tokenizer(file, metadata, target),
            origin=origin_of("gguf", file, license),
            stop_tokens=tuple(sorted({metadata[key] for key in STOP_KEYS if key in metadata})),
            q8={
                name: functools.partial(tensors.read_q8, name)
                for name, tensor in stored.items()
                if tensor.kind == GGMLQuantizationType.Q8_0
            },
        )


def gguf_config(name: str, metadata: Mapping[str, Any], tensors: "GgufTensors") -> ModelConfig:
    """Build the config by translating the keys to a Hugging Face config and reading that."""
    prefix, architecture = f"{name}.", ARCHITECTURES[name]
    fields = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    if unknown := sorted(set(fields) - set(architecture.keys)):
        raise InputError(f"it has keys that are not handled: {[prefix + k for k in unknown]}.")
    if "token_embd.weight" not in tensors.shapes:
        raise InputError("it has no token_embd.weight: it is not a complete model.")
    # other missing keys become null, as a family's defaults do not apply to GGUF files
    values = {
        theirs: fields.get(key)
        for key, theirs in architecture.keys.items()
        if theirs and (key in fields or not theirs.startswith("rope_"))
    }
    values |= {
        "model_type": architecture.model_type,
        "vocab_size": tensors.shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in tensors.shapes,
    }
    # stored as float32, which holds seven digits: 1e-5 would read as 9.99999974738e-06
    eps = fields.get("attention.layer_norm_rms_epsilon", 1e-5)
    values["rms_norm_eps"] = float(f"{eps:.7g}") if isinstance(eps, float) else eps
    scaling = fields.get("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise InputError(f"rope type {shown(scaling)} is not supported in GGUF files.")
    if scaling == "linear":
        factor = fields.get("rope.scaling.factor", 1.0)
        values["rope_scaling"] = {"rope_type": scaling, "factor": factor}
    config = architecture.finish(read_config(values)[0])
    head = config.head_dim
    if any(fields.get(k, head) != head for k in ("rope.dimension_count", "attention.value_length")):
        raise InputError(
            "it rotates only a part of each head, or has values of another width than its heads "
            f"({head})."
        )
    if ROPE_DIVISORS not in tensors.shapes or len(config.ropes) != 1:
        return config
    divisors = tuple(float(x) for x in tensors.read(ROPE_DIVISORS).reshape(-1))
    rope = dataclasses.replace(config.ropes[0], divisors=divisors)
    return dataclasses.replace(config, ropes=(rope,))


def check_tokenizer(metadata: Mapping[str, Any], vocab_size: int) -> None:
    """Raise InputError for token ids, and a number of tokens, that the model does not embed."""
    for name, value in metadata.items():
        is_id = name.startswith("tokenizer.") and name.endswith("_token_id")
        if is_id and (type(value) is not int or not 0 <= value < vocab_size):
            raise InputError(f"{name} must be a token id below {vocab_size}, got {shown(value)}.")
    if (count := len(metadata.get("tokenizer.ggml.tokens", []))) > vocab_size:
        raise InputError(f"it has {count:,} tokens for {vocab_size:,} embeddings.")


class GgufTensors:
    """The tensors of a GGUF file by name, as float32."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]):
        self.place, self.tensors = file, tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        unsupported = {tensor.kind.name for tensor in tensors.values() if tensor.kind not in TYPES}
        if unsupported:
            raise InputError(
                f"it has tensors of type {sorted(unsupported)}; "
                f"{sorted(kind.name for kind in TYPES)} are supported."
            )

    def read(self, name: str) -> np.ndarray:
        """Dequantise one tensor."""
        kind, shape, *_ = self.tensors[name]
        return dequantize(self.read_bytes(name), kind).reshape(shape)

    def read_q8(self, name: str) -> Int8:
        """Read a tensor of Q8_0 as it is: a float16 and 32 values, one block after the other."""
        shape = self.tensors[name].shape
        raw = self.read_bytes(name).reshape(-1, 2 + Q8_BLOCK)
        scale, values = raw[:, :2].copy().view("<f2"), raw[:, 2:].view(np.int8)
        return Int8(values.reshape(shape), scale.reshape(*shape[:-1], -1))

    def read_bytes(self, name: str) -> np.ndarray:
        """Read one tensor as it is stored."""
        _, _, start, nbytes = self.tensors[name]
        return np.fromfile(self.place, np.uint8, nbytes, offset=start)


def write_tokenizer(file: Path, metadata: Mapping[str, Any], target: Path) -> None:
    """Write the tokenizer and its chat template in transformers' format, if the file has one.

    `convert_gguf_tokenizer` needs no torch, unlike `AutoTokenizer.from_pretrained(gguf_file=...)`;
    it is not a public interface, so a test compares the ids of the two.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import gguf_tokenizer_mapping as theirs

    keys = theirs.GGUF_TOKENIZER_MAPPING["tokenizer"]
    fields = {key.removeprefix("tokenizer."): value for key, value in metadata.items()}
    vocabulary = {name: fields[key] for key, name in keys.items() if key in fields}
    if "tokens" not in vocabulary:
        return
    kind, split = vocabulary.get("tokenizer_type"), vocabulary.get("pre_tokenizer_type")
    known = (*SPLIT_AS_GPT2, *getattr(theirs, "GGUF_PRE_TOKENIZER_SPLITS", (split,)))
    if kind == "gpt2" and split not in known:
        raise InputError(
            f"{file} splits texts as {shown(split)} (tokenizer.ggml.pre), which transformers does "
            "not know: its tokens would differ. Convert the model from its safetensors instead."
        )
    with reading(f"the tokenizer of {file}", REPAIR):
        backend, _ = theirs.convert_gguf_tokenizer(metadata["general.architecture"], vocabulary)
        special = {
            f"{name}_token": vocabulary["tokens"][vocabulary[f"{name}_token_id"]]
            for name in ("bos", "eos", "unk", "pad")
            if f"{name}_token_id" in vocabulary
        }
        # llama.cpp adds BOS to a sentencepiece vocabulary by default
        bos = fields.get("ggml.add_bos_token", kind == "llama")
        eos = fields.get("ggml.add_eos_token", False)
        first = special.get("bos_token") if bos else None
        add_ends(backend, first, special.get("eos_token") if eos else None)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
        tokenizer.chat_template = fields.get("chat_template")
        tokenizer.save_pretrained(target)


def add_ends(backend: Any, first: str | None, last: str | None) -> None:
    """Make the tokenizer put these tokens before and after every text."""
    from tokenizers.processors import TemplateProcessing

    ends = [token for token in (first, last) if token is not None]
    if ends:
        backend.post_processor = TemplateProcessing(
            single=[*ends[: first is not None], "$A", *ends[first is not None :]],
            special_tokens=[(token, backend.token_to_id(token)) for token in ends],
        )
