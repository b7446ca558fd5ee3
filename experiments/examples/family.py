"""Add a family of models: HyperCLOVA X, whose blocks are Granite's with norms of their outputs.

python experiments/examples/family.py MODEL
"""

import sys
from typing import Any

import cola_jax
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.decoder import LLAMA
from cola_jax.formats.dense import read_granite
from cola_jax.formats.families import FAMILIES, Family
from cola_jax.formats.table import Row, make_table


def read_hyperclovax(attributes: Attributes) -> dict[str, Any]:
    """Read a config of model_type `hyperclovax`, which multiplies logits where Granite divides."""
    return dict(
        read_granite(attributes),
        post_norms=attributes.get("use_post_norm"),
        logit_scale=attributes.get("logits_scaling"),
    )


# Llama's table of weights, and a row for each weight that Llama lacks
TABLE = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_norm1.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_norm2.weight", "D -> D"),
    base=LLAMA,
)
FAMILIES["hyperclovax"] = Family("HyperCLOVAX", read_hyperclovax, TABLE)

model = cola_jax.load(sys.argv[1])
print(model)
