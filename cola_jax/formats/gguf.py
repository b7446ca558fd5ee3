"""Read GGUF files: the config, tensors dequantised one by one, the tokenizer."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, ExpertGatingFuncType, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, did_you_mean, reading, shown
from cola_jax.formats.families import read_config
from cola_jax.formats.gguf_architectures import (
    ARCHITECTURES,
    KEYS,
    ROPE_DIVISORS,
    Architecture,
    gguf_rows,
    head_width,
)
from cola_jax.formats.gguf_header import Tensor, read_header
from cola_jax.formats.table import Source, check, local_origin, unused_names
from cola_jax.params import Int8

# transformers splits so by default; SmolLM splits digits, which its merges do not join either
SPLIT_AS_GPT2 = (None, "default", "gpt-2", "smollm")
BLOCKS = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0  # that int8 weights can keep
SHORT = "rope_factors_short.weight"  # of longrope
LONG = "rope_factors_long.weight"
SCALINGS = {  # of ropes, with the attributes of rope.scaling that each has
    "none": {},
    "linear": {"factor": "factor"},
    "yarn": {
        **{"factor": "factor", "original_context_length": "original_max_position_embeddings"},
        **{"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"},
    },
}
REPAIR = "Download it again, or convert the model from its safetensors."
STOP_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


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
                f"architecture {shown(name)} is not supported"
                f"{did_you_mean(str(name), ARCHITECTURES)}. Supported: {', '.join(ARCHITECTURES)}."
            )
        tensors = GgufTensors(file, stored)
        config = gguf_config(name, metadata, tensors)
        check_tokenizer(metadata, config.vocab_size)
        rows = gguf_rows(name, config)
        license = metadata.get("general.license")
        # layers that predict further tokens are not run
        further = range(config.num_layers, metadata[f"{name}.block_count"])
        has_divisors = config.ropes[0].divisors or config.ropes[0].rotated_share < 1
        others = {*unused_names(rows, config), *((ROPE_DIVISORS, SHORT, LONG) * bool(has_divisors))}
        check(
            tensors, rows, config, lambda name: name in others or layer_of_tensor(name) in further
        )
        return Source(
            config=config,
            rows=rows,
            tensors=tensors,
            dtype=np.dtype(np.float32),  # the dtype of dequantised values
            write_tokenizer=lambda target: write_gguf_tokenizer(file, metadata, target),
            origin=local_origin("gguf", file, license),
            stop_tokens=tuple(sorted({metadata[key] for key in STOP_KEYS if key in metadata})),
            q8={
                name: functools.partial(tensors.read_q8, name)
                for name, tensor in stored.items()
                if tensor.kind in BLOCKS
            },
        )


def layer_of_tensor(name: str) -> int | None:
    """Return the layer of a tensor, None for one that is of no layer."""
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else None


def gguf_config(name: str, metadata: Mapping[str, Any], tensors: "GgufTensors") -> ModelConfig:
    """Build the config by translating the keys to a Hugging Face config and reading that."""
    start = f"{name}."
    fields = {k[len(start) :]: shortest(v) for k, v in metadata.items() if k.startswith(start)}
    if unknown := sorted(set(fields) - {*KEYS, *ARCHITECTURES[name].keys}):
        raise InputError(f"it has keys that are not handled: {[start + k for k in unknown]}.")
    if "token_embd.weight" not in tensors.shapes:
        raise InputError("it has no token_embd.weight: it is not a complete model.")
    config = read_config(translate(ARCHITECTURES[name], fields, tensors))[0]
    window = "_swa" if "attention.key_length_swa" in fields else ""  # of the model's own kind
    widths = {
        f"rope.dimension_count{window}": config.kinds[0].rotary_width,
        f"attention.value_length{window}": config.kinds[0].head_dim,
    }
    if any(fields.get(key, width) != width for key, width in widths.items()):
        raise InputError(
            "it rotates only a part of each head, or has values of another width than its heads "
            f"({config.kinds[0].head_dim})."
        )
    if ROPE_DIVISORS not in tensors.shapes or len(config.ropes) != 1:
        return config
    rope = dataclasses.replace(config.ropes[0], divisors=tuple(tensors.values(ROPE_DIVISORS)))
    return dataclasses.replace(config, ropes=(rope,))


def shortest(value: Any) -> Any:
    """Return a float32 as the shortest number that it can be: 1e-5 for 9.99999974738e-06."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value))) if isinstance(value, float) else value


def translate(
    architecture: Architecture, fields: Mapping[str, Any], tensors: "GgufTensors"
) -> dict[str, Any]:
    """Return the Hugging Face config of a model with these keys, without their prefix."""
    keys = {**KEYS, **architecture.keys}
    # missing keys become null, as a family's defaults do not apply to GGUF files
    names = (theirs for theirs in keys.values() if theirs and not theirs.startswith("rope_"))
    values: dict[str, Any] = {**dict.fromkeys(names), **architecture.facts}
    values |= {theirs: fields[key] for key, theirs in keys.items() if theirs and key in fields}
    derived = architecture.derive(fields, tensors)
    scaling = {**values.get("rope_scaling", {}), **read_scaling(fields)}
    if SHORT in tensors.shapes and "original_max_position_embeddings" in values:
        factors = {"short_factor": tensors.values(SHORT), "long_factor": tensors.values(LONG)}
        scale = fields.get("rope.scaling.attn_factor")
        scaling = {"rope_type": "longrope", "attention_factor": scale, **factors}
    if "sliding_window" in values:  # 0 in files of Phi-4, which has none
        values["sliding_window"] = values["sliding_window"] or None
    if "scoring_func" in values:
        values["scoring_func"] = ExpertGatingFuncType(values["scoring_func"]).name.lower()
    if "rope_parameters" in derived:
        del values["rope_theta"]
    else:
        values["rope_scaling"] = scaling
    values |= {
        "model_type": architecture.model_type,
        "vocab_size": tensors.shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in tensors.shapes,
        "rms_norm_eps": fields.get("attention.layer_norm_rms_epsilon", 1e-5),
        "head_dim": head_width(fields),
    }
    return values | derived


def read_scaling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read how a rope is stretched, as `rope_scaling` of a Hugging Face config."""
    kind = fields.get("rope.scaling.type", "none")
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise InputError(f"rope type {shown(kind)} is not supported in GGUF files.")
    given = {name: fields.get(f"rope.scaling.{key}") for key, name in SCALINGS[kind].items()}
    given = {name: value for name, value in given.items() if value is not None}
    return {"rope_type": "default" if kind == "none" else kind, **given}


def check_tokenizer(metadata: Mapping[str, Any], vocab_size: int) -> None:
    """Raise InputError for token ids, and a number of tokens, that the model does not embed."""
    for name, value in metadata.items():
        is_id = name.startswith("tokenizer.") and name.endswith("_token_id")
        if is_id and (type(value) is not int or not 0 <= value < vocab_size):
            raise InputError(f"{name} must be a token id below {vocab_size}, got {shown(value)}.")
    if (count := len(metadata.get("tokenizer.ggml.tokens", []))) > vocab_size:
        raise InputError(f"it has {count:,} tokens for {vocab_size:,} embeddings.")


@functools.cache
def is_dequantised(kind: GGMLQuantizationType) -> bool:
    """Return whether the gguf package dequantises tensors of a type."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


class GgufTensors:
    """The tensors of a GGUF file by name, as float32; outer axes of 1 do not count, as in ggml."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]):
        self.place = file
        self.tensors = tensors
        self.shapes = {name: trim(tensor.shape) for name, tensor in tensors.items()}
        unsupported = {x.kind.name for x in tensors.values() if not is_dequantised(x.kind)}
        if unsupported:
            known = (kind.name for kind in GGMLQuantizationType if is_dequantised(kind))
            raise InputError(
                f"it has tensors of type {sorted(unsupported)}; {sorted(known)} are supported."
            )

    def read(self, name: str) -> np.ndarray:
        """Dequantise one tensor."""
        values = dequantize(self.read_bytes(name), self.tensors[name].kind)
        if name.endswith(".ssm_a"):  # the negative of a rate whose logarithm the weight is
            values = np.log(-values)
        return values.reshape(self.shapes[name])

    def values(self, name: str) -> list[float]:
        """Dequantise a vector."""
        return self.read(name).reshape(-1).tolist()

    def read_q8(self, name: str) -> Int8:
        """Read a tensor in BLOCKS as it is: a float16 and 32 values, one block after the other."""
        shape = self.shapes[name]
        kind = self.tensors[name].kind
        raw = self.read_bytes(name).reshape(-1, GGML_QUANT_SIZES[kind][1])
        scale = raw[:, :2].copy().view("<f2")
        values = raw[:, 2:].view(np.int8)
        if kind == GGMLQuantizationType.Q4_0:  # the low halves of bytes come first, 0 is written 8
            values = np.concatenate([values & 15, values >> 4 & 15], axis=1) - np.int8(8)
        return Int8(values.reshape(shape), scale.reshape(*shape[:-1], -1))

    def read_bytes(self, name: str) -> np.ndarray:
        """Read one tensor as it is stored."""
        _, _, start, nbytes = self.tensors[name]
        return np.fromfile(self.place, np.uint8, nbytes, offset=start)


def trim(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without outer axes of 1."""
    return shape[next((axis for axis, size in enumerate(shape) if size != 1), -1) :]


def write_gguf_tokenizer(file: Path, metadata: Mapping[str, Any], target: Path) -> None:
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
    kind = vocabulary.get("tokenizer_type")
    split = vocabulary.get("pre_tokenizer_type")
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
