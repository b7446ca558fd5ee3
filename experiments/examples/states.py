"""Prints what a model would say after each of its layers: the logit lens.

python experiments/examples/states.py [MODEL]
"""

import sys

import jax
import numpy as np
import pandas as pd

import cola_jax
from cola_jax.model import unembed

MODEL = sys.argv[1] if sys.argv[1:] else "HuggingFaceTB/SmolLM2-135M-Instruct"
PROMPT = "The capital of France is"

model, tokenizer = cola_jax.load(MODEL), cola_jax.load_tokenizer(MODEL)
path = range(model.config.num_layers)  # any other path as well
logits, states = cola_jax.run_path(model, PROMPT, path, return_states=True)
last = states[:, 0, -1:]  # [P + 1, B, T, D] -> [P + 1, 1, D]: the embedding, and after each layer
probability = np.asarray(jax.nn.softmax(unembed(model, last))[:, 0])  # [P + 1, V]
answer = int(logits[0, -1].argmax())

table = pd.DataFrame(
    {
        "token": [repr(tokenizer.decode([token])) for token in probability.argmax(-1)],
        "p(token)": probability.max(-1),
        f"p({tokenizer.decode([answer])!r})": probability[:, answer],
        "norm": np.linalg.norm(last[:, 0], axis=-1),
    },
    index=pd.Index(["embedding", *path], name="after layer"),
)
print(table.to_string(float_format="%.3f"))
