"""A checkpoint, a run and a trial of an earlier version belong together as they did.

`earlier/hybrid.tar.xz` has them by commit 6f5924a5: a Qwen3.5, whose second kind of layers restates
fields that the first has too, one path evaluated on twenty questions, and a claim tried.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import cola_jax
from cola_jax.checkpoint import digest_of, model_digest, read_metadata
from cola_jax.runs.run import Run

EARLIER = Path(__file__).parent / "earlier" / "hybrid.tar.xz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(EARLIER, folder, filter="data")
    return folder


def test_its_checkpoint_is_loaded_with_its_digest(folder):
    metadata = read_metadata(folder / "checkpoint")
    model = cola_jax.load(folder / "checkpoint")
    attention, delta_net = model.config.kinds
    assert [kind.convolution for kind in model.config.kinds] == [0, 2]
    assert (attention.output_gate, delta_net.output_gate) == (True, False)
    written = json.loads(json.dumps(model.config.to_json()))
    assert written == metadata["config"]
    assert digest_of(model) == metadata["digest"]
    assert model_digest(metadata | {"config": written}) == metadata["digest"]
    assert np.isfinite(cola_jax.run_path(model, np.array([[1, 2, 3]]), (0, 1, 3))).all()


def test_its_run_and_its_trial_are_of_its_model(folder):
    digest = read_metadata(folder / "checkpoint")["digest"]
    run = Run(folder / "run")
    assert run.settings()["model"] == digest
    assert len(run.questions()) == len(run.evaluations()) == 20
    for name in ("protocol", "verdicts"):
        content = json.loads((folder / "trial" / f"{name}.json").read_text())
        assert content["model"] == digest
