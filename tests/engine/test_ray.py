"""The engine on a Ray cluster of this machine: workers fail, hang and end, machines come and go."""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

import cola_jax
from cola_jax.engine.actor import versions
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.ray import RayEngine
from cola_jax.engine.work import Batch, Failed, Work
from cola_jax.errors import InputError
from cola_jax.metrics import Metrics
from cola_jax.scoring.choice import Letter
from cola_jax.scoring.encoder import Encoder
from tests import tiny
from tests.engine import conftest
from tests.engine.conftest import Calls

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets open
]
QUESTIONS = tiny.questions(24)
IDS = [question.id for question in QUESTIONS]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without workers, and two machines of one worker each."""
    for module in (sys.modules[__name__], conftest):
        cloudpickle.register_pickle_by_value(module)
    os.environ["AWS_REGION"] = "far-away-1"
    patient = {"health_check_timeout_ms": 60_000}  # a busy machine answers late
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": patient})
    for _ in range(2):
        made.add_node(num_cpus=1, resources={"TPU": 4})
    yield made
    del os.environ["AWS_REGION"]
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> RayEngine:
    return RayEngine(cluster.address, batch_size=4)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ModelHandle:
    return ModelHandle(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def encoder(model: ModelHandle) -> Encoder:
    return Encoder((Letter(model.tokenizer),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths(Work):
    """A function from a batch to the tokens of its prompts, which fails at the question q7."""

    kind: str = ""
    marker: Path | None = None  # fails while it is there, once where it says so

    def __call__(self, worker: Any, batch: Batch, keep: Any) -> list[int]:
        fails = self.marker is not None and self.marker.exists()
        if self.marker and fails and "q7" in [question.id for question in batch.questions]:
            if self.marker.read_text() == "once":
                self.marker.unlink()
            if self.kind == "kill":
                os._exit(1)
            if self.kind == "hang":
                with self.marker.with_name("hung").open("a") as file:
                    file.write(f"{os.getpid()}\n")
                os.kill(os.getpid(), signal.SIGSTOP)
            raise RuntimeError("this question is poisoned")
        time.sleep(0.2)
        worker.metrics.add(evaluations=len(batch.questions))
        return [len(each.prompts.ids) for each in self.encode(worker, batch.questions)]


@pytest.fixture
def make(model: ModelHandle, encoder: Encoder) -> Callable[..., Any]:
    """Make a work on the tiny model."""
    return lambda work, /, **fields: work(**{"model": model, "encoder": encoder} | fields)


def batches(size: int = 4) -> list[Batch]:
    starts = range(0, len(QUESTIONS), size)
    return [Batch(np.arange(i, i + size), QUESTIONS[i : i + size]) for i in starts]


def take(results: Any) -> tuple[dict[str, int], dict[str, Failed]]:
    """Return the results and failures of questions by their ids."""
    lengths: dict[str, int] = {}
    aside: dict[str, Failed] = {}
    for batch, result, _ in results:
        names = [question.id for question in batch.questions]
        assert not {*lengths, *aside}.intersection(names)
        if isinstance(result, Failed):
            aside |= dict.fromkeys(names, result)
        else:
            lengths |= dict(zip(names, result, strict=True))
    return lengths, aside


def expected(encoder: Encoder, without: str = "") -> dict[str, int]:
    return {q.id: len(encoder.scorer.encode(q).prompts.ids) for q in QUESTIONS if q.id != without}


def test_map_yields_the_result_of_each_question_once(engine, make, encoder, model):
    metrics = Metrics()
    results = list(engine.map(make(Lengths), batches(), metrics))
    assert take(results) == (expected(encoder), {})
    assert {machine for _, _, machine in results} == {os.uname().nodename}
    assert metrics.evaluations == len(QUESTIONS)
    again = [take(engine.map(make(Lengths), batches(8)[:1]))[0] for _ in range(3)]
    assert all(lengths == {i: expected(encoder)[i] for i in IDS[:8]} for lengths in again)
    assert engine.record(model)["workers"] == "TPU=4"
    capacity = engine.capacity(model, len(QUESTIONS))
    assert (capacity.questions, capacity.memory.backend, engine.backend) == (4, "cpu", "cpu")
    assert capacity.parts >= 2


def test_encoders_are_sent_once(engine, make, monkeypatch):
    put, sent = ray.put, []
    monkeypatch.setattr(ray, "put", lambda value: sent.append(value) or put(value))
    for _ in range(3):
        take(engine.map(make(Lengths), batches(8)[:1]))
    assert not any(isinstance(value, Encoder) for value in sent)
    assert all(value.model is value.encoder is None for value in sent if isinstance(value, Work))


def test_credentials_of_the_driver_reach_workers(engine, make):
    work = make(Calls, call=lambda *_: os.environ.get("AWS_REGION"))
    assert [result for _, result, _ in engine.map(work, batches()[:1])] == ["far-away-1"]


def test_a_question_that_raises_is_set_aside_alone(engine, make, encoder, tmp_path):
    (tmp_path / "marker").write_text("always")
    work = make(Lengths, kind="raise", marker=tmp_path / "marker")
    lengths, aside = take(engine.map(work, batches()))
    assert lengths == expected(encoder, "q7")
    assert list(aside) == ["q7"]
    assert "poisoned" in aside["q7"].reason


@pytest.mark.parametrize("kind", ["kill", "raise"])
def test_a_batch_that_fails_once_runs_again(engine, make, encoder, tmp_path, kind):
    (tmp_path / "marker").write_text("once")
    work = make(Lengths, kind=kind, marker=tmp_path / "marker")
    assert take(engine.map(work, batches())) == (expected(encoder), {})


def test_a_question_that_ends_workers_is_set_aside_alone(engine, make, encoder, tmp_path):
    (tmp_path / "marker").write_text("always")
    work = make(Lengths, kind="kill", marker=tmp_path / "marker")
    lengths, aside = take(engine.map(work, batches(2)))
    assert lengths == expected(encoder, "q7")
    assert list(aside) == ["q7"]


def test_a_worker_that_hangs_does_not_keep_the_work_from_ending(
    engine, make, encoder, tmp_path, monkeypatch
):
    for name, seconds in (("PATIENCE", 2), ("FIRST_PATIENCE", 10), ("LONGEST", 10)):
        monkeypatch.setattr(f"cola_jax.engine.times.{name}", seconds)
    (tmp_path / "marker").write_text("once")
    work = make(Lengths, kind="hang", marker=tmp_path / "marker")
    assert take(engine.map(work, batches(2))) == (expected(encoder), {})
    (hung,) = map(int, (tmp_path / "hung").read_text().split())
    psutil.wait_procs([psutil.Process(hung)] if psutil.pid_exists(hung) else [], timeout=20)
    assert not psutil.pid_exists(hung) or psutil.Process(hung).status() == psutil.STATUS_ZOMBIE
    assert take(engine.map(make(Lengths), batches())) == (expected(encoder), {})


def test_machines_come_and_go(cluster, engine, make, encoder):
    results = []
    for result in engine.map(make(Lengths), batches(1)):
        results.append(result)
        if len(results) == 2:
            cluster.add_node(num_cpus=1, resources={"TPU": 4})
        elif len(results) == 6:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert take(results) == (expected(encoder), {})


def test_a_bug_ends_the_work_with_its_traceback(engine, make):
    def call(*arguments):
        return {}["missing"]

    with pytest.raises(KeyError, match="missing") as raised:
        list(engine.map(make(Calls, call=call), batches()))
    assert "in call" in str(raised.value.__cause__)  # of the worker


def test_errors_of_the_input_are_raised(engine, make):
    def call(*arguments):
        raise InputError("this batch is wrong.")

    with pytest.raises(InputError, match="this batch is wrong"):
        list(engine.map(make(Calls, call=call), batches()))


def test_a_changed_model_runs_as_it_is(engine, make, model):
    loaded = cola_jax.load(model.directory)
    changed = ModelHandle.of(loaded.replace(norm=loaded.norm * 2))
    same = ModelHandle.of(loaded)

    def norm(worker, *rest):
        return np.asarray(worker.model.norm)

    for handle in (changed, same, changed):
        (result,) = (
            each for _, each, _ in engine.map(make(Calls, model=handle, call=norm), batches()[:1])
        )
        np.testing.assert_array_equal(result, np.asarray(handle.load().norm))
    assert engine.place_of(make(Lengths, model=same)).weights is None


def test_a_machine_of_another_version_is_left_out(cluster, make, monkeypatch, caplog):
    """Each actor stands for a machine here, as a CPU has room for many."""
    expected = iter([versions() | {"jax": "0.1"}])
    monkeypatch.setattr("cola_jax.engine.ray.versions", lambda: next(expected, versions()))
    cluster.add_node(num_cpus=0, resources={"left": 2})
    small = RayEngine(cluster.address, {"left": 1})
    assert "a machine is left out: the machine" in caplog.text
    assert take(small.map(make(Lengths), batches(8)[:1]))[0].keys() == set(IDS[:8])


def test_the_start_fails_where_no_machine_is_left(cluster, monkeypatch):
    cluster.add_node(num_cpus=0, resources={"only": 1})
    monkeypatch.setattr("cola_jax.engine.ray.versions", lambda: versions() | {"jax": "0.1"})
    with pytest.raises(InputError, match=r"has jax .*, and this one 0.1: install the same"):
        RayEngine(cluster.address, {"only": 1})


class Dying:
    """An actor whose process ends as soon as it is asked something."""

    def facts(self, expected: Any) -> None:
        os._exit(1)


def test_the_start_fails_where_workers_end(cluster, monkeypatch, caplog):
    monkeypatch.setattr("cola_jax.engine.ray.RayWorker", Dying)
    monkeypatch.setattr("cola_jax.engine.pauses.LONGEST", 0)
    cluster.add_node(num_cpus=0, resources={"ending": 1})  # others may be in use
    with pytest.raises(InputError, match=r"3 starts of workers failed.*install cola-jax on all"):
        RayEngine(cluster.address, {"ending": 1})
    assert caplog.text.count("a worker on a new machine has not started") == 3


def test_bad_resources_are_refused(cluster):
    with pytest.raises(InputError, match=r"no machine .* has TPU=8 \(they have .*TPU=4"):
        RayEngine(cluster.address, {"TPU": 8})
    with pytest.raises(InputError, match=r"TPU=3: .* not a supported chip configuration"):
        RayEngine(cluster.address, {"TPU": 3})


def test_sigterm_reaches_the_handler_of_the_command(cluster, engine):
    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(InputError, match="TPU=8"):
            RayEngine(cluster.address, {"TPU": 8})
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
