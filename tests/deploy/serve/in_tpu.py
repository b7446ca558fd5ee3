"""Compare the JAX models of tpu-inference along paths with `run_path`, on a CPU.

`python -m tests.deploy.serve.in_tpu FOLDER` runs where vllm-tpu is installed, on what `cases` has
written. Everything is tpu-inference's own: the config, the weights, a prefill and decode steps with
paged keys and values; but the kernel of its attention, which needs a TPU, is replaced by the
reference that it is tested against there. Prints the worst differences, and fails above BOUND.
"""

# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tpu_inference.distributed import jax_parallel_state
from tpu_inference.kernels.ragged_paged_attention.v3 import kernel_hd64
from tpu_inference.layers.common import attention_interface
from tpu_inference.layers.common.attention_metadata import AttentionMetadata
from tpu_inference.layers.jax.quantization import get_tpu_quantization_config
from tpu_inference.models.common import model_loader
from tpu_inference.runner.kv_cache import get_kv_cache_shape_with_mesh
from tpu_inference.utils import to_jax_dtype
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs

from cola_jax.deploy.serve import plugin

BOUND = 1e-4
LENGTH = 64
PAGE = 16
PAGES = LENGTH // PAGE


def reference_attention(
    mesh: Any, *arrays: jax.Array | None, sm_scale: float, **defaults: Any
) -> tuple[jax.Array, jax.Array]:
    """Attend as the kernel for heads of 64 does."""
    *inputs, sinks = arrays
    assert sinks is None
    return kernel_hd64.ref_ragged_paged_attention_hd64(*inputs, sm_scale=sm_scale)


def make_config(folder: Path, overrides: dict[str, Any]) -> VllmConfig:
    """Return the config of an engine that serves a path."""
    arguments = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=LENGTH,
        hf_overrides=overrides,
    )
    config = arguments.create_engine_config()
    config.model_config.dtype = to_jax_dtype(config.model_config.dtype)
    config.quant_config = get_tpu_quantization_config(config)
    return config


def run(model: Any, caches: list[jax.Array], ids: list[int], start: int) -> np.ndarray:
    """Run the next tokens of one sequence; return their log-probabilities [T, V]."""
    end = start + len(ids)
    metadata = AttentionMetadata(
        input_positions=jnp.arange(start, end),
        block_tables=jnp.arange(PAGES),
        seq_lens=jnp.array([end]),
        query_start_loc=jnp.array([0, len(ids)]),
        request_distribution=jnp.array([0, 0, 1]),
    )
    caches[:], hidden, *_ = model(caches, jnp.array(ids), metadata)
    return np.asarray(jax.nn.log_softmax(model.compute_logits(hidden)))


def check_case(folder: Path, ids: list[int], case: dict[str, Any], mesh: jax.sharding.Mesh) -> None:
    """Compare the log-probabilities of a prompt and of decoded tokens, along one path."""
    config = make_config(folder, case["overrides"])
    path = case["overrides"]["cola_path"]
    model_config = config.model_config
    model_class = model_loader._get_model_architecture(model_config.hf_config)
    with set_current_vllm_config(config):
        model = model_loader._get_nnx_model(model_class, config, jax.random.key(0), mesh)
    heads = model_config.get_total_num_kv_heads()
    shape = get_kv_cache_shape_with_mesh(
        mesh, PAGES, PAGE, heads, model_config.get_head_size(), jnp.float32
    )
    num_caches = model_config.get_num_layers(config.parallel_config)
    assert num_caches == len(path)
    with jax.set_mesh(mesh):
        caches = [jnp.zeros(shape) for _ in range(num_caches)]
        logprobs = run(model, caches, ids, 0)
        found = logprobs[np.arange(len(ids) - 1), ids[1:]].tolist()
        tokens: list[int] = []
        for position in range(len(case["tokens"])):
            tokens.append(int(logprobs[-1].argmax()))
            found.append(float(logprobs[-1].max()))
            logprobs = run(model, caches, tokens[-1:], len(ids) + position)
    error = np.abs(np.subtract(found, case["logprobs"])).max()
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"{folder.name} {path}: {error:.1e}, {size:,} parameters", flush=True)
    assert tokens == case["tokens"]
    assert error < BOUND


def main(folders: list[Path]) -> None:
    """Compare all cases of all folders."""
    plugin.register()
    attention_interface.sharded_ragged_paged_attention = reference_attention
    (device, *_) = jax.devices()
    jax_parallel_state.init_pp_distributed_environment("127.0.0.1", 0, 1, device, need_pp=False)
    mesh = jax.sharding.Mesh(np.array([[device]]), ("data", "model"))
    for folder in folders:
        content = json.loads((folder / "expected.json").read_text())
        for case in content["cases"]:
            check_case(folder, content["ids"], case, mesh)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
