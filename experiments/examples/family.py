"""Add a family of models: Seed-OSS, whose blocks are Llama's with other biases.

python experiments/examples/family.py MODEL
"""

import sys

import cola_jax
from cola_jax.config import ModelConfig
from cola_jax.formats import llama
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.hf_config import FAMILIES, Family


def read_seed_oss(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `seed_oss`, with the defaults of `SeedOssConfig`."""
    attributes.set_defaults(num_key_value_heads=8, head_dim=128)
    attributes.get("residual_dropout")  # for training: read, so that it is not refused
    return ModelConfig(
        **llama.read_decoder(attributes, context=524288),
        qkv_bias=attributes.boolean("attention_bias", True),
        output_bias=attributes.boolean("attention_out_bias", False),
        mlp_bias=attributes.boolean("mlp_bias", False),
    )


# the table of weights is Llama's, which has a row for each bias; a new one is a tuple of `Row`
FAMILIES["seed_oss"] = Family("SeedOss", read_seed_oss, llama.rows, ())

model = cola_jax.load(sys.argv[1])
print(model)
