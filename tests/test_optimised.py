"""A process that compiles as users do; tests/environment.py asks for less optimised programs."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cola_jax.path import pad_path
from tests import oracle

SCRIPT = """
import sys
import numpy as np
import cola_jax
from cola_jax.prompts import readings

checkpoint, arrays = sys.argv[1:]
expected = np.load(arrays)
model, ids, paths = cola_jax.load(checkpoint), expected["ids"], expected["paths"]

def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()

length = ids.shape[1]
out = cola_jax.run_paths(model, ids, [paths] * len(ids))  # reads the next tokens
made = cola_jax.generate(model, ids, [paths] * len(ids), max_new_tokens=4)
for c, logits in enumerate(expected["logits"]):
    wanted = readings(logits[:, :-1], ids[:, 1:])
    assert_close(out.logprob[:, c], wanted.logprob)
    assert_close(out.rival[:, c], wanted.rival)
    assert (out.token[:, c] == wanted.token).all()
    text = np.concatenate([ids, made.tokens[:, c]], axis=1)
    whole = np.asarray(cola_jax.run_path(model, text, paths[c]))
    assert_close(whole[:, :length], logits)
    assert (whole[:, length - 1 : -1].argmax(-1) == made.tokens[:, c]).all()
"""


@pytest.mark.slow
def test_optimised_programs_match_transformers(pair, tmp_path):
    models, ids = pair("qwen2-moe-window"), oracle.random_ids(2)
    paths = [oracle.PATHS[kind] for kind in ("skip", "block repeat", "reordered")]
    logits = [oracle.logits(models.theirs, ids, path) for path in paths]
    padded = np.stack([pad_path(path, 10) for path in paths])
    np.savez(tmp_path / "expected.npz", ids=ids, paths=padded, logits=logits)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}  # each compiles programs of its own
    environment.pop("XLA_FLAGS", None)
    arguments = [sys.executable, "-c", SCRIPT, models.checkpoint, tmp_path / "expected.npz"]
    subprocess.run(arguments, env=environment, check=True)
