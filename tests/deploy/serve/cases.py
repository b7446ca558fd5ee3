"""Write tiny models with paths, and what `run_path` says of them, for vLLM's own environment.

`python -m tests.deploy.serve.cases FOLDER [VARIANT...]` runs where JAX and transformers are; then
`in_vllm.py` compares, where vLLM is. Heads are 64 wide, which vLLM's attention on a CPU takes in
all families.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cola_jax import run_path
from cola_jax.deploy.engine_commands import vllm_overrides
from cola_jax.deploy.export import export
from cola_jax.formats.conversion import convert
from cola_jax.path import parse_path
from tests import oracle

TOKENS = 24
NEW_TOKENS = 8
PATHS = (
    (0, 2, 5),
    (0, 1, 1, 2, 3, 2, 3, 2, 3, 4),
    (3, 0, 5, 1, 4, 2),
)
# parts before and after their layers, of layers that run in no other part, and in two
PARTS = parse_path("0m,0,1a,2,1,2m,4a,4m,5m", 6)
SHARES = parse_path("0m,0*0.5,1a,(1-2)*1.5,2m*0.25,4a*0.5,4m,5a", 6)
WIDE = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "intermediate_size": 96,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}
# families that vLLM runs otherwise than transformers on a CPU, or in bfloat16 alone: compared with
# vLLM's own run of a written copy; gpt-oss has windows at even places there
COPIED = {
    # its first layer has no experts, and can be written at the first place alone
    "ernie4-5-moe": ("float32", ((0, 2, 5), (0, 1, 1, 2, 3, 2, 3, 4), (0, 3, 5, 1, 4, 2))),
    "gpt-oss": ("float32", ((0, 3, 4, 5), (0, 1, 2, 1, 2, 3, 4, 5), (2, 1, 4, 5, 0, 3))),
    **dict.fromkeys(("qwen3-next", "qwen3.5", "qwen3.5-moe"), ("bfloat16", (*PATHS, PARTS))),
}
# one for each way in which vLLM's classes differ
FAMILIES = (
    *("llama-gqa", "qwen3", "gemma2", "gemma3", "mixtral", "qwen3-moe"),
    *("exaone4-window", "granite4-mamba", "olmo2"),
)
ALTERNATING = ["sliding_attention", "full_attention"] * 3
# what vLLM's class of a family has as a constant, or looks for under another name
IN_VLLM = {
    "gpt-oss": {
        **{"layer_types": ALTERNATING, "swiglu_limit": 7.0},
        "rope_parameters": oracle.YARN | {"truncate": True},
    },
    "minimax-m2": {"scoring_func": "sigmoid", "use_routing_bias": True, "rotary_dim": 32},
    "ministral3": {"rope_parameters": oracle.PLAIN},
    "olmoe": {"rms_norm_eps": 1e-5},
    **{
        name: {"linear_key_head_dim": 128, "linear_value_head_dim": 128}
        for name in ("qwen3-next", "qwen3.5", "qwen3.5-moe", "olmo-hybrid")
    },
}


def write_case(variant: str, folder: Path) -> None:
    """Write the model of a variant of the oracle, wider, and `expected.json` beside it."""
    family, fields = oracle.VARIANTS[variant]
    config = {**fields, **WIDE, **IN_VLLM.get(variant, {})}
    if config.get("sliding_window"):
        config["sliding_window"] = 16  # vLLM's blocks on a CPU
    oracle.random_model(family, **config).save_pretrained(folder)
    model = oracle.convert_in_memory(folder)
    ids = np.random.default_rng(0).integers(0, WIDE["vocab_size"], TOKENS).tolist()
    dtype, paths = COPIED.get(variant, ("float32", (*PATHS, PARTS, SHARES)))
    if variant in COPIED:
        right: list[dict[str, Any]] = [{"copy": name} for name in write_copies(folder, paths)]
    else:
        right = [expected(model, ids, path) for path in paths]
    cases = [
        {"overrides": vllm_overrides(model.config, path), **each}
        for path, each in zip(paths, right, strict=True)
    ]
    content = {"dtype": dtype, "ids": ids, "cases": cases}
    (folder / "expected.json").write_text(json.dumps(content))


def write_copies(folder: Path, paths: Sequence[tuple[int, ...]]) -> list[str]:
    """Write paths with copies of their layers; return the names of the folders inside."""
    names = [f"copy-{number}" for number in range(len(paths))]
    with tempfile.TemporaryDirectory() as place:
        convert(str(folder), checkpoint := Path(place) / "checkpoint")
        for path, name in zip(paths, names, strict=True):
            export(checkpoint, path, Path(place) / name)
            shutil.move(Path(place) / name, folder / name)
    return names


def expected(model: Any, ids: list[int], path: tuple[int, ...]) -> dict[str, Any]:
    """Return what vLLM shall say of one prompt along one path, and decode after it."""
    text = list(ids)
    for _ in range(NEW_TOKENS):
        text.append(int(logits(model, text, path)[len(text) - 1].argmax()))
    logprobs = jax.nn.log_softmax(logits(model, text, path))
    of_text = logprobs[np.arange(len(text) - 1), np.array(text[1:])]
    return {"tokens": text[len(ids) :], "logprobs": np.asarray(of_text).tolist()}


def logits(model: Any, text: list[int], path: tuple[int, ...]) -> jax.Array:
    """Return logits [T, V] by `run_path`; one length compiles once."""
    padded = text + [0] * (TOKENS + NEW_TOKENS - len(text))
    return run_path(model, np.array([padded]), path)[0]


if __name__ == "__main__":
    for variant in sys.argv[2:] or FAMILIES:
        write_case(variant, Path(sys.argv[1]) / variant)
