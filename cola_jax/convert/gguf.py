"""Reading GGUF files; quantised tensors are dequantised one at a time."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from cola_jax.config import ModelConfig
from cola_jax.convert.families import read_config
from cola_jax.convert.gguf_architectures import ARCHITECTURES, HEAD
from cola_jax.convert.gguf_tokenizer import write_tokenizer
from cola_jax.convert.source import Source
from cola_jax.convert.table import check

TYPES = {
    GGMLQuantizationType[name]
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K")
}
ROPE_DIVISORS = "rope_freqs.weight"
STOP_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


def open_gguf(file: Path) -> Source:
    """Opens a GGUF file.

    Raises ValueError for another architecture, keys or tensor types that are not handled,
    tensors that do not match, and files that are damaged or cut short.
    """
    reader = read_file(file)
    metadata = read_metadata(file, reader)
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{file} has architecture {name!r}; {', '.join(ARCHITECTURES)} files can be read. "
            "Convert the model from its safetensors instead."
        )
    tensors = GgufTensors(file, reader)
    config = gguf_config(file, metadata, tensors)
    rows = (*ARCHITECTURES[name].rows, *(() if config.tied else (HEAD,)))
    check(
        tensors, rows, config, ignored=lambda name: name == ROPE_DIVISORS and len(config.ropes) == 1
    )
    return Source(
        config=config,
        rows=rows,
        tensors=tensors,
        dtype=np.dtype(np.float32),  # what dequantised values are
        write_tokenizer=lambda target: write_tokenizer(metadata, target),
        origin={"kind": "gguf", "name": str(file.resolve()), "revision": None},
        stop_tokens=tuple(sorted({metadata[key] for key in STOP_KEYS if key in metadata})),
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
    parts = ("general.architecture", "tokenizer.", *(f"{name}." for name in ARCHITECTURES))
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
    name = metadata["general.architecture"]
    prefix, architecture = f"{name}.", ARCHITECTURES[name]
    own = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    if unknown := sorted(set(own) - set(architecture.keys)):
        raise ValueError(f"{file} has keys that are not handled: {[prefix + k for k in unknown]}.")
    if "token_embd.weight" not in tensors.shapes:
        raise ValueError(f"{file} has no token_embd.weight: it holds no whole model.")
    # null rather than left out: a family's defaults are not for files that say all they mean
    values = {hf: own.get(key) for key, hf in architecture.keys.items() if hf}
    values |= {
        "model_type": architecture.model_type,
        "vocab_size": tensors.shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in tensors.shapes,
    }
    # the format's type has no exact decimal for 1e-5; seven digits are what float32 holds
    eps = own.get("attention.layer_norm_rms_epsilon", 1e-5)
    values["rms_norm_eps"] = float(f"{eps:.7g}")
    scaling = own.get("rope.scaling.type", "none")
    if scaling != "none":
        values["rope_scaling"] = {"type": scaling, "factor": own.get("rope.scaling.factor", 1.0)}
    config = architecture.finish(read_config(values)[0])
    head = config.head_dim
    if {own.get("rope.dimension_count", head), own.get("attention.value_length", head)} != {head}:
        raise ValueError(f"{file} has heads of {head}, of which only a part is rotated or a value.")
    if ROPE_DIVISORS not in tensors.shapes or len(config.ropes) != 1:
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
