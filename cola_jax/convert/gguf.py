"""Reading GGUF files of the Llama architecture; quantised tensors are dequantised one at a time."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from cola_jax.config import ModelConfig
from cola_jax.convert.families import read_config
from cola_jax.convert.source import Source
from cola_jax.convert.table import Row, check

TYPES = {
    GGMLQuantizationType[name]
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
}
# Queries and keys are stored with the two halves of each head interleaved, for rope on pairs.
TABLE = (
    Row("embedding", "token_embd.weight", "V D -> V D"),
    Row("attention_norm", "blk.{i}.attn_norm.weight", "D -> D"),
    Row("q", "blk.{i}.attn_q.weight", "(N h two) D -> D N (two h)"),
    Row("k", "blk.{i}.attn_k.weight", "(K h two) D -> D K (two h)"),
    Row("v", "blk.{i}.attn_v.weight", "(K H) D -> D K H"),
    Row("o", "blk.{i}.attn_output.weight", "D (N H) -> N H D"),
    Row("mlp_norm", "blk.{i}.ffn_norm.weight", "D -> D"),
    Row("gate", "blk.{i}.ffn_gate.weight", "F D -> D F"),
    Row("up", "blk.{i}.ffn_up.weight", "F D -> D F"),
    Row("down", "blk.{i}.ffn_down.weight", "D F -> F D"),
    Row("norm", "output_norm.weight", "D -> D"),
)
HEAD = Row("head", "output.weight", "V D -> D V")
ROPE_DIVISORS = "rope_freqs.weight"

# The architecture's own keys, as a Hugging Face config spells them; None where it has no say.
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
    "vocab_size": None,
    "rope.dimension_count": None,
    "attention.value_length": None,
    "rope.scaling.type": None,
    "rope.scaling.factor": None,
    "rope.scaling.original_context_length": None,
    "rope.scaling.finetuned": None,
}
TOKENIZER_KEYS = {
    "ggml.model": "tokenizer_type",
    "ggml.pre": "pre_tokenizer_type",
    "ggml.tokens": "tokens",
    "ggml.scores": "scores",
    "ggml.token_type": "token_type",
    "ggml.merges": "merges",
    "ggml.bos_token_id": "bos_token_id",
    "ggml.eos_token_id": "eos_token_id",
    "ggml.unknown_token_id": "unk_token_id",
    "ggml.padding_token_id": "pad_token_id",
    "ggml.add_space_prefix": "add_prefix_space",
}


def open_gguf(file: Path) -> Source:
    """Opens a GGUF file.

    Raises ValueError for another architecture, keys or tensor types that are not handled,
    tensors that do not match, and files that are damaged or cut short.
    """
    reader = read_file(file)
    metadata = read_metadata(file, reader)
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ValueError(
            f"{file} has architecture {architecture!r}; only 'llama' files can be read. Convert "
            "the model from its safetensors instead."
        )
    tensors = GgufTensors(file, reader)
    config = gguf_config(file, metadata, tensors)
    rows = (*TABLE, *(() if config.tied else (HEAD,)))
    check(tensors, rows, config, ignored=lambda name: name == ROPE_DIVISORS)
    return Source(
        config=config,
        rows=rows,
        tensors=tensors,
        dtype=np.dtype(np.float32),  # what dequantised values are
        write_tokenizer=lambda target: write_tokenizer(metadata, target),
        origin={"kind": "gguf", "name": str(file.resolve()), "revision": None},
    )


def read_file(file: Path) -> GGUFReader:
    """Opens the file with the gguf package; ValueError for whatever it stumbles over."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist.")
    try:
        return GGUFReader(str(file))
    except Exception as error:  # a damaged header surfaces as any of half a dozen types
        raise ValueError(
            f"{file} is not a GGUF file, or is damaged or cut short ({error}): fetch it again."
        ) from error


def read_metadata(file: Path, reader: GGUFReader) -> dict[str, Any]:
    """Reads the fields that matter here, others may be large; ValueError for damaged ones."""
    parts = ("general.architecture", "llama.", "tokenizer.")
    try:
        fields = {n: f.contents() for n, f in reader.fields.items() if n.startswith(parts)}
        tokens = fields.get("tokenizer.ggml.tokens", [])
        ids = [
            v for n, v in fields.items() if n.startswith("tokenizer.") and n.endswith("_token_id")
        ]
        if tokens and ("tokenizer.ggml.model" not in fields or max(ids, default=0) >= len(tokens)):
            raise ValueError("the tokenizer's kind is missing, or a special token has no text")
    except Exception as error:  # a damaged string or array surfaces as one of many types
        raise ValueError(f"{file} has damaged metadata ({error}): fetch it again.") from error
    return fields


def gguf_config(file: Path, metadata: Mapping[str, Any], tensors: "GgufTensors") -> ModelConfig:
    """Builds the config through the same reader as for Hugging Face files, so one place decides."""
    own = {k.removeprefix("llama."): v for k, v in metadata.items() if k.startswith("llama.")}
    if unknown := sorted(set(own) - set(KEYS)):
        raise ValueError(
            f"{file} has keys that are not handled: {[f'llama.{k}' for k in unknown]}."
        )
    if "token_embd.weight" not in tensors.shapes:
        raise ValueError(f"{file} has no token_embd.weight: it holds no whole model.")
    values = {hf: own[key] for key, hf in KEYS.items() if hf and key in own}
    values |= {
        "model_type": "llama",
        "vocab_size": tensors.shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in tensors.shapes,
    }
    # the format's type has no exact decimal for 1e-5; seven digits are what float32 holds
    values["rms_norm_eps"] = float(f"{values.get('rms_norm_eps', 1e-5):.7g}")
    scaling = own.get("rope.scaling.type", "none")
    if scaling != "none":
        values["rope_scaling"] = {"type": scaling, "factor": own.get("rope.scaling.factor", 1.0)}
    config, _ = read_config(values)
    head = config.head_dim
    if {own.get("rope.dimension_count", head), own.get("attention.value_length", head)} != {head}:
        raise ValueError(f"{file} has heads of {head}, of which only a part is rotated or a value.")
    if ROPE_DIVISORS not in tensors.shapes:
        return config
    divisors = tuple(float(x) for x in tensors.read(ROPE_DIVISORS))
    if len(divisors) != head // 2:
        raise ValueError(f"{file}: {ROPE_DIVISORS} has {len(divisors)} values for heads of {head}.")
    rope = dataclasses.replace(config.ropes[0], divisors=divisors)
    return dataclasses.replace(config, ropes=(rope,))


class GgufTensors:
    """The tensors of a GGUF file by name, as float32."""

    def __init__(self, file: Path, reader: GGUFReader):
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.shapes = {
            name: tuple(int(size) for size in reversed(tensor.shape))
            for name, tensor in self.tensors.items()
        }
        unsupported = {t.tensor_type.name for t in reader.tensors if t.tensor_type not in TYPES}
        if unsupported:
            raise ValueError(
                f"{file} has tensors of type {sorted(unsupported)}; "
                f"{sorted(kind.name for kind in TYPES)} can be read."
            )

    def read(self, name: str) -> np.ndarray:
        """Dequantises one tensor."""
        tensor = self.tensors[name]
        return dequantize(tensor.data, tensor.tensor_type).reshape(self.shapes[name])


def write_tokenizer(metadata: Mapping[str, Any], target: Path) -> None:
    """Rebuilds the tokenizer and its chat template from the file's metadata.

    `convert_gguf_tokenizer` needs no torch, unlike `AutoTokenizer.from_pretrained(gguf_file=...)`;
    it is no public interface, so a test compares the ids of the two.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    fields = {k.removeprefix("tokenizer."): v for k, v in metadata.items()}
    if "ggml.tokens" not in fields:
        return
    vocabulary = {ours: fields[key] for key, ours in TOKENIZER_KEYS.items() if key in fields}
    backend, _ = convert_gguf_tokenizer("llama", vocabulary)
    special = {
        f"{name}_token": vocabulary["tokens"][vocabulary[f"{name}_token_id"]]
        for name in ("bos", "eos", "unk", "pad")
        if f"{name}_token_id" in vocabulary
    }
    # llama.cpp adds BOS to a sentencepiece vocabulary that does not say otherwise
    bos = fields.get("ggml.add_bos_token", vocabulary["tokenizer_type"] == "llama")
    eos = fields.get("ggml.add_eos_token", False)
    first = special.get("bos_token") if bos else None
    last = special.get("eos_token") if eos else None
    add_ends(backend, first, last)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = fields.get("chat_template")
    tokenizer.save_pretrained(target)


def add_ends(backend: Any, first: str | None, last: str | None) -> None:
    """Makes the tokenizer begin and end every text with these tokens."""
    from tokenizers.processors import TemplateProcessing

    ends = [token for token in (first, last) if token is not None]
    if ends:
        backend.post_processor = TemplateProcessing(
            single=[*ends[: first is not None], "$A", *ends[first is not None :]],
            special_tokens=[(token, backend.token_to_id(token)) for token in ends],
        )
