"""Add a family of models: Seed-OSS, whose blocks are Llama's with other biases.

python experiments/examples/family.py MODEL
"""

import sys

import cola_jax
from cola_jax.config import ModelConfig
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.families import FAMILIES, LLAMA, Family, read_decoder


def read_seed_oss(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `seed_oss`."""
    attributes.get("residual_dropout")  # for training: read, so that it is not refused
    return ModelConfig(
        **read_decoder(attributes),
        qkv_bias=attributes.get("attention_bias"),
        output_bias=attributes.get("attention_out_bias"),
        mlp_bias=attributes.get("mlp_bias"),
    )


# the table of weights is Llama's, which has a row for each bias
FAMILIES["seed_oss"] = Family("SeedOss", read_seed_oss, LLAMA)

model = cola_jax.load(sys.argv[1])
print(model)
