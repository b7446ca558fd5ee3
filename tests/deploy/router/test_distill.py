"""`distill` and `cola distill`: from a run to a router that other code loads."""

import dataclasses
import json
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.cli.main import main
from cola_jax.deploy.router import load_router, tracking
from cola_jax.deploy.router.checkpoint import (
    read_record,
    refuse_foreign,
    router_digest,
    save_weights,
)
from cola_jax.deploy.router.designs import make_design
from cola_jax.deploy.router.distill import DistillConfig, distill
from cola_jax.deploy.router.train import TrainingConfig
from cola_jax.errors import InputError
from cola_jax.prompts import Prompts
from tests.deploy.router.conftest import PATHS

L, D = 5, 32
CONFIG = DistillConfig("all", 0.3, TrainingConfig(epochs=4, batch_size=6), save_every=7)


@pytest.fixture(scope="module")
def trained(setting, tmp_path_factory):
    """Routers of both designs, by name, with where they are."""
    session, routers = setting.session(), {}
    for name in ("drllm", "polar"):
        folder = str(tmp_path_factory.mktemp(name) / "router")
        design = make_design(name, L, D)
        routers[name] = folder, distill(session, setting.run, folder, design, CONFIG, beams=2)
    return routers


@pytest.mark.parametrize("name", ["drllm", "polar"])
def test_distill_learns_from_the_correct_paths_of_a_run(name, trained, setting):
    folder, distilled = trained[name]
    examples = distilled.examples
    assert set(examples.paths[: examples.training]) == set(PATHS[:3])
    assert examples.left_out["questions without a correct path"] == 8
    assert examples.left_out["paths not expressible"] == 8
    losses = distilled.losses
    assert losses[-4:].mean() < losses[:4].mean()
    said = json.loads(Path(folder, "metrics.json").read_text())
    held = len(examples.paths) - examples.training
    assert said["held_out"]["questions"] == said["collapse"]["questions"] == held
    assert said["final_loss"] == pytest.approx(float(losses[-1]))
    assert sum(map(sum, said["layers"]["confusion"])) == held * L


@pytest.mark.parametrize("name", ["drllm", "polar"])
def test_a_loaded_router_names_the_same_paths(name, trained, setting):
    folder, distilled = trained[name]
    session = setting.session()
    router = load_router(folder, session.model)
    some = distilled.examples.question[distilled.examples.training :]
    prompts = Prompts.stack([session.encoded[i].prompts for i in some])
    paths = router.paths(prompts, beams=2)
    assert paths == distilled.routed.paths
    assert all(len(own) == len(set(own)) == 2 for own in paths)
    assert [own[:1] for own in paths] == router.paths(prompts)
    readings = cola_jax.run_paths(session.model, prompts, paths)  # each row on its own paths
    assert readings.finite.all()
    with pytest.raises(ValueError, match="at least 1 path is named, not 0"):
        router.paths(prompts, beams=0)


def test_load_router_takes_one_model_in_any_dtype(trained, setting, pair):
    folder, _ = trained["polar"]
    load_router(folder, cola_jax.load(setting.model, dtype="bfloat16"))
    with pytest.raises(InputError, match=r"its num_layers is 5, here it is 6.*train a router for"):
        load_router(folder, pair("llama-gqa").ours)


def change(folder, copy, **changed):
    """Copies a router, and changes fields of its record."""
    shutil.copytree(folder, copy)
    record = read_record(copy)
    (copy / "router.json").write_text(json.dumps(record | changed))
    return record


def test_load_router_refuses_another_model_and_other_weights(trained, setting, tmp_path):
    (folder, distilled), model = trained["polar"], cola_jax.load(setting.model)
    record = read_record(folder)
    change(folder, tmp_path / "a", model=record["model"] | {"identity": "another"})
    with pytest.raises(InputError, match="does not belong to this model: its identity is another"):
        load_router(tmp_path / "a", model)
    change(folder, tmp_path / "b")
    assert router_digest(tmp_path / "b") == router_digest(folder)
    params = jax.tree.map(lambda x: x + 1, distilled.router.params)
    save_weights(tmp_path / "b", params)
    assert router_digest(tmp_path / "b") != router_digest(folder)
    (tmp_path / "b" / "router.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"router\.json does not belong to .*: its weights is"):
        load_router(tmp_path / "b", model)
    change(folder, tmp_path / "c", weights=None)
    with pytest.raises(InputError, match="did not finish"):
        load_router(tmp_path / "c", model)


@pytest.mark.parametrize("field", ["golds", "options"])
def test_distill_refuses_a_task_that_changed_since_the_run(setting, tmp_path, field):
    rows = [json.loads(line) for line in Path(setting.task).read_text().splitlines()]
    choices = rows[3]["choices"]
    if field == "golds":
        others = [label for label in choices["label"] if label != rows[3]["answerKey"]]
        rows[3]["answerKey"] = others[0]
    else:
        choices["text"][0] += "s"
    file = tmp_path / "task.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    session = dataclasses.replace(setting, task=str(file)).session()
    with pytest.raises(InputError, match=f"does not belong to.*1 of 24 {field} have changed"):
        distill(session, setting.run, str(tmp_path / "router"), make_design("drllm", L, D), CONFIG)
    assert not (tmp_path / "router").exists()


def test_distill_resumes_to_the_same_loss(trained, setting, tmp_path):
    whole = trained["polar"][1]  # which has dropout
    session, design = setting.session(), make_design("polar", L, D)
    done = []

    def kill(epoch, epochs, loss):
        done.append(epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    out = str(tmp_path / "router")
    with pytest.raises(KeyboardInterrupt):
        distill(session, setting.run, out, design, CONFIG, report=kill)
    with pytest.raises(ValueError, match="did not finish: re-run the same command"):
        load_router(out, session.model)
    resumed = distill(session, setting.run, out, design, CONFIG, beams=2)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, resumed.router.params, whole.router.params)
    assert resumed.routed.paths == whole.routed.paths
    other = dataclasses.replace(CONFIG, validation=0.4)
    with pytest.raises(ValueError, match=r"settings\.validation: 0\.3 there, 0\.4 here"):
        distill(session, setting.run, out, design, other)


def command(setting, out, *more):
    flags = ("--model", setting.model, "--task", setting.task, "--run", setting.run, "--data", "1")
    main(["distill", *flags, "--out", str(out), "--epochs", "1", "--validation", "0.3", *more])


def test_cola_distill_prints_what_a_router_is_worth(setting, tmp_path, capsys, monkeypatch):
    losses: list[float] = []
    writer = types.SimpleNamespace(
        add_text=lambda name, text: None,
        add_scalar=lambda name, value, step: losses.append(value),
        close=lambda: None,
    )
    module = types.SimpleNamespace(SummaryWriter=lambda directory: writer)
    monkeypatch.setattr(tracking, "check_tracker", lambda name: None)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)  # pyright: ignore
    flags = ("--early-layers", "2", "--design", "polar", "--track", "tensorboard")
    command(setting, tmp_path / "router", *flags)
    assert len(losses) == 1  # the loss of the only step
    printed, said = capsys.readouterr()
    assert "epoch 1/1  loss" in said
    assert "8 questions without a correct path" in printed
    assert "held-out accuracy: plain" in printed
    assert "distinct paths; layers as in the label" in printed
    record = read_record(tmp_path / "router")
    assert record["network"]["early_layers"] == 2
    assert record["settings"]["labels"] == "shortest"
    assert record["model"]["identity"]
    main(["distill", "--config", str(tmp_path / "router" / "config.yaml"), "--json"])
    assert json.loads(capsys.readouterr().out).keys() >= {"examples", "held_out"}


def test_cola_distill_refuses_other_questions_and_directories(setting, tmp_path, capsys):
    def fail(*more):
        with pytest.raises(SystemExit):
            command(setting, tmp_path / "out", *more)
        return " ".join(capsys.readouterr().err.split())

    assert "its scorer is options, here it is letter" in fail("--scorer", "letter")
    assert "but the task does not" in fail("--limit", "3")
    assert "at least 1 path is named" in fail("--beams", "0")
    assert "between 0 and 1, it is 0" in fail("--validation", "0")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").touch()
    assert "exists and is not a router" in fail()


def test_a_directory_with_an_unfinished_record_is_no_other(tmp_path):
    (tmp_path / ".router.json.partial").write_text("{")
    refuse_foreign(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="exists and is not a router"):
        refuse_foreign(tmp_path)
