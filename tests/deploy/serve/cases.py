"""Write tiny models with paths, and what `run_path` says of them, for vLLM's own environment.

`python -m tests.deploy.serve.cases FOLDER` runs where JAX and transformers are; `in_vllm.py` then
compares, where vLLM is. Heads are 64 wide, the least that vLLM's attention on a CPU takes in
all families.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cola_jax import generate, run_path
from cola_jax.deploy.engine_commands import vllm_overrides
from tests import oracle

TOKENS = 24
NEW_TOKENS = 8
PATHS = (
    (0, 2, 5),
    (0, 1, 1, 2, 3, 2, 3, 2, 3, 4),
    (3, 0, 5, 1, 4, 2),
)
WIDE = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "intermediate_size": 96,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 3
# what vLLM's class of a family has as a constant, or looks for under another name
IN_VLLM = {
    "gpt-oss": {
        **{"layer_types": ALTERNATING, "swiglu_limit": 7.0},
        "rope_parameters": oracle.YARN | {"truncate": True},
    },
    "minimax-m2": {"scoring_func": "sigmoid", "rotary_dim": 32},
    "ministral3": {"rope_parameters": oracle.PLAIN},
    "olmoe": {"rms_norm_eps": 1e-5},
    **{
        name: {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
        for name in ("qwen3-next", "qwen3.5", "qwen3.5-moe", "olmo-hybrid")
    },
}


def write_case(variant: str, folder: Path) -> None:
    """Write the model of a variant of the oracle, wider, and `expected.json` beside it."""
    family, fields = oracle.VARIANTS[variant]
    config = {**fields, **WIDE, **IN_VLLM.get(variant, {})}
    if config.get("sliding_window"):
        config["sliding_window"] = 16  # vLLM's blocks on a CPU
    hf_model = oracle.random_model(family, **config)
    hf_model.save_pretrained(folder)
    model = oracle.convert_in_memory(folder)
    ids = np.random.default_rng(0).integers(0, WIDE["vocab_size"], TOKENS).tolist()
    cases = [expected(model, ids, path) for path in PATHS]
    (folder / "expected.json").write_text(json.dumps({"ids": ids, "cases": cases}))


def expected(model: Any, ids: list[int], path: tuple[int, ...]) -> dict[str, Any]:
    """Return what vLLM gets and what it shall return, of one prompt along one path."""
    logits = run_path(model, [ids], path)[0]
    logprobs = jax.nn.log_softmax(logits)[np.arange(len(ids) - 1), np.array(ids[1:])]
    decoded = generate(model, [ids], [path], max_new_tokens=NEW_TOKENS)
    return {
        "overrides": vllm_overrides(model.config, path),
        "prompt_logprobs": np.asarray(logprobs).tolist(),
        "tokens": np.asarray(decoded.tokens).reshape(-1).tolist(),
        "logprobs": np.asarray(decoded.logprob).reshape(-1).tolist(),
    }


if __name__ == "__main__":
    for variant in sys.argv[2:]:
        write_case(variant, Path(sys.argv[1]) / variant)
