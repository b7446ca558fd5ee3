"""cola-jax: Chain-of-Layers in JAX.

Searches, for each input of a pretrained LLM, which of its layers to run, skip or loop.
"""

from cola_jax.checkpoint import load, load_tokenizer
from cola_jax.config import ModelConfig
from cola_jax.execute import Generated, Stop, generate, run_path, run_paths
from cola_jax.params import Model
from cola_jax.path import format_path, parse_path
from cola_jax.prompts import Prompts, Readings
from cola_jax.search import search

__all__ = [
    "Generated",
    "Model",
    "ModelConfig",
    "Prompts",
    "Readings",
    "Stop",
    "format_path",
    "generate",
    "load",
    "load_tokenizer",
    "parse_path",
    "run_path",
    "run_paths",
    "search",
]
