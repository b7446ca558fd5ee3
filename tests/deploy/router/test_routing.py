"""`Router`: every row gets its own paths, whatever it shares a batch with."""

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.deploy.router.designs import make_design
from cola_jax.deploy.router.routing import load_router, make_router
from cola_jax.prompts import Prompts
from cola_jax.scoring.encode import pack

ROWS = [[5, 9, 2, 7, 11], list(range(3, 43)), [8, 1, 6, 6, 2, 9, 30]]


@pytest.mark.parametrize("name", ["drllm", pytest.param("polar", marks=pytest.mark.slow)])
def test_paths_of_a_row_do_not_depend_on_the_batch(name, pair):
    model = pair("llama-gqa").ours
    design = make_design(name, model.config.num_layers, model.config.width)
    router = make_router(design, jax.jit(design.init)(jax.random.key(3)), model)
    packed = Prompts.stack([pack(row, [[4, 4, 7], [9, 2]])[0] for row in ROWS])
    together = router.paths(packed, beams=2)
    assert all(len(set(paths)) == 2 for paths in together)
    alone = [router.paths(np.array([row]), beams=2)[0] for row in ROWS]
    assert together == alone
    width = max(map(len, ROWS))
    padded = {
        "input_ids": [[0] * (width - len(row)) + row for row in ROWS],
        "attention_mask": [[0] * (width - len(row)) + [1] * len(row) for row in ROWS],
    }
    assert router.paths(padded, beams=2) == together
    decoded = cola_jax.generate(model, padded, together, max_new_tokens=2)
    assert decoded.length.tolist() == [[2, 2]] * 3


def test_load_router_names_what_is_no_router(tmp_path, pair):
    model = pair("llama-gqa").ours
    with pytest.raises(ValueError, match=r"has no router\.json: train a router"):
        load_router(tmp_path, model)
    (tmp_path / "router.json").write_text("{}")
    with pytest.raises(ValueError, match=r"router\.json cannot be read \(layout: Field req"):
        load_router(tmp_path, model)
    (tmp_path / "router.json").write_text('{"layout": 99}')
    with pytest.raises(ValueError, match="layout 99, but this version reads 2"):
        load_router(tmp_path, model)
