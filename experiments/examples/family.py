"""Add a family of models: HyperCLOVA X, whose blocks are Granite's with norms of their outputs.

python experiments/examples/family.py MODEL
"""

import sys

import cola_jax
from cola_jax.formats.attributes import renamed
from cola_jax.formats.decoder import LLAMA
from cola_jax.formats.dense import LLAMA_ATTRIBUTES, MULTIPLIERS
from cola_jax.formats.families import FAMILIES
from cola_jax.formats.family import family
from cola_jax.formats.table import Row, make_table

# Llama's table of weights, and a row for each weight that Llama lacks
WEIGHTS = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_norm1.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_norm2.weight", "D -> D"),
    base=LLAMA,
)
# Llama's attributes, Granite's multipliers, and a row for each attribute that differs
FAMILIES["hyperclovax"] = family(
    "HyperCLOVAX",
    WEIGHTS,
    LLAMA_ATTRIBUTES,
    MULTIPLIERS,
    # logits are multiplied, where Granite divides them
    renamed(post_norms="use_post_norm", logit_scale="logits_scaling"),
)

model = cola_jax.load(sys.argv[1])
print(model)
