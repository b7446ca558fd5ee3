"""Leaves out each layer in turn and tabulates what that does to a model's answers.

python experiments/examples/ablation.py [MODEL]
"""

import sys

import cola_jax

MODEL = sys.argv[1] if sys.argv[1:] else "HuggingFaceTB/SmolLM2-135M-Instruct"
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Russia": "Moscow",
    "Spain": "Madrid",
    "Greece": "Athens",
    "Cuba": "Havana",
}

questions = [
    cola_jax.Question(country, f"What is the capital of {country}?", (*CAPITALS.values(),), answer)
    for answer, country in enumerate(CAPITALS)
]
model = cola_jax.load(MODEL)
layers = model.config.num_layers
whole = [*range(layers)]
without = [whole[:layer] + whole[layer + 1 :] for layer in whole]

results = cola_jax.evaluate(model, questions, [whole, *without], scorer="options")
means = results.to_pandas().groupby("path", sort=False)[["correct", "margin"]].mean()
table = means.set_axis(["none", *whole]).rename_axis("left out")
print(table.to_string(float_format="%.2f"))
