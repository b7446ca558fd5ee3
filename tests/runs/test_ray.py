"""Runs on a Ray cluster of this machine: machines come and go, and the rows are those of one."""

import itertools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import ray
from ray import cloudpickle
from ray._private import ray_constants
from ray.cluster_utils import Cluster

import cola_jax
from cola_jax.errors import InputError
from cola_jax.execute.plan import Workload
from cola_jax.metrics import Metrics
from cola_jax.runs.actor import ModelPlace, RayWorker, versions
from cola_jax.runs.batches import Batch, PathRows
from cola_jax.engine.devices import Devices
from cola_jax.engine.model import ModelHandle
from cola_jax.runs.ray import STARTS, RayEngine, RemoteWorker, connect, on_loopback, parse_resources
from cola_jax.runs.run import Run
from cola_jax.runs.session import RunConfig, Session
from cola_jax.scoring.evaluator import evaluator
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from experiments.same_rows import differences
from tests import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets open
]
QUESTIONS = 24
SEARCH = Settings(PRESETS["best"], simulations=6, leaves=4, seed=0)
PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4)]


@pytest.fixture(scope="module")
def cluster():
    """A head without workers, and two machines of one worker each."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    patient = {"health_check_timeout_ms": 60_000}  # a busy machine answers late
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": patient})
    for _ in range(2):
        made.add_node(num_cpus=1, resources={"TPU": 4})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster):
    return RayEngine(cluster.address)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    return str(tiny.write_questions(folder / "task.jsonl", QUESTIONS))


@pytest.fixture
def prepare(checkpoint, task):
    def call(engine=None, **settings):
        config = RunConfig(batch_size=2, engine=engine)
        return Session.prepare(checkpoint, TaskConfig(task, **settings).prepare, config)

    return call


def ids(run):
    return sorted(run.questions(["question"])["question"].to_pylist())


def test_search_finds_what_one_process_does(engine, prepare, tmp_path):
    settings = {"variants": ("chat",)}
    expected, metrics = Metrics(), Metrics()
    alone = prepare(**settings).search(str(tmp_path / "alone"), SEARCH, expected)
    run = prepare(engine, **settings).search(str(tmp_path / "run"), SEARCH, metrics)
    assert differences(run, alone) == []
    assert metrics.evaluations == expected.evaluations
    assert metrics.cost.useful == expected.cost.useful
    start = run.manifest()["starts"][0]
    assert (start["engine"], start["workers"]) == ("ray", "TPU=4")
    again = Metrics()
    prepare(engine, **settings).search(str(tmp_path / "run"), SEARCH, again)
    assert again.evaluations == 0


def test_on_loopback_warns_of_a_version_that_cannot(monkeypatch, caplog):
    with on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
    assert not caplog.text
    monkeypatch.delattr(ray_constants, "ENABLE_RAY_CLUSTER")
    with on_loopback():
        assert "may open its ports to the network" in caplog.text
    assert not hasattr(ray_constants, "ENABLE_RAY_CLUSTER")


def test_other_presets_read_the_influence_of_layers(engine, prepare, tmp_path):
    search = Settings(PRESETS["shortgpt"], simulations=4, leaves=2, seed=0)
    alone = prepare().search(str(tmp_path / "alone"), search)
    run = prepare(engine).search(str(tmp_path / "run"), search)
    assert differences(run, alone) == []


def test_evaluators_give_what_the_model_does(engine, checkpoint):
    model, questions = cola_jax.load(checkpoint), tiny.questions(9)
    local = evaluator(model, questions, "options")
    remote = evaluator(model, questions, "options", engine=engine)
    settings = {"scorer": "options", "engine": engine}
    assert cola_jax.evaluate(model, questions, PATHS, **settings).verdicts.verdict.shape == (9, 3)
    lists = [PATHS[: 1 + i % 3] for i in range(9)]
    ours, theirs = remote(lists), local(lists)
    np.testing.assert_allclose(ours.margin, theirs.margin, atol=1e-4)
    assert (ours.verdict == theirs.verdict).all()
    found = cola_jax.search(model, questions, simulations=5, **settings)
    expected = cola_jax.search(local, questions, simulations=5)
    assert [outcome.paths for outcome in found] == [outcome.paths for outcome in expected]
    again = [cola_jax.confirm(outcomes) for outcomes in (found, expected)]
    assert again[0].to_pandas().equals(again[1].to_pandas())


def test_every_device_of_a_worker_gets_a_batch(engine, prepare, monkeypatch):
    encoded = prepare(engine).encoded
    monkeypatch.setattr(engine, "facts", engine.facts._replace(devices=4))
    batches = engine.batches(encoded, range(QUESTIONS), Workload(1, 5), encoded, None)
    assert len(batches) == 2 * 4


class Ending(PathRows):
    """Work that ends its process while a file says so."""

    def __call__(self, worker, batch):
        file, name = self.marker
        if name in [each.question.id for each in batch.encoded] and file.exists():
            if file.read_text() == "once":
                file.unlink()
            os._exit(1)
        time.sleep(0.2)
        return super().__call__(worker, batch)


@pytest.fixture
def evaluate_ending(prepare, engine, monkeypatch, tmp_path):
    """Evaluates paths, ending the workers that have the question q7."""

    def call(how):
        (tmp_path / "marker").write_text(how)
        monkeypatch.setattr(Ending, "marker", (tmp_path / "marker", "q7"), raising=False)
        monkeypatch.setattr("cola_jax.runs.session.PathRows", Ending)
        return prepare(engine).evaluate(str(tmp_path / "run"), PATHS)

    return call


def test_batches_of_a_lost_worker_run_again(evaluate_ending, prepare, tmp_path):
    run = evaluate_ending("once")
    assert differences(run, prepare().evaluate(str(tmp_path / "alone"), PATHS)) == []
    assert run.failures() == []


def test_a_batch_that_ends_three_workers_is_set_aside(evaluate_ending, prepare, engine, tmp_path):
    run = evaluate_ending("always")
    (failure,) = run.failures()
    assert "q7" in failure["questions"]
    assert len(failure["questions"]) == 2  # its batch alone
    assert ids(run) == sorted({f"q{i}" for i in range(QUESTIONS)} - set(failure["questions"]))
    (tmp_path / "marker").unlink()
    assert ids(evaluate_ending("once")) == sorted(f"q{i}" for i in range(QUESTIONS))
    assert run.failures() == []


def test_machines_come_and_go(cluster, engine, prepare, tmp_path, monkeypatch):
    session, alone = prepare(engine), prepare().search(str(tmp_path / "alone"), SEARCH)
    run, written, write = Run(tmp_path / "run"), itertools.count(1), Run.write

    def write_and_change(self, *part):
        write(self, *part)
        number = next(written)
        if number == 2:
            cluster.add_node(num_cpus=1, resources={"TPU": 4})
        elif number == 4:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    monkeypatch.setattr(Run, "write", write_and_change)
    session.search(str(run.directory), SEARCH)
    assert next(written) > 4
    assert differences(run, alone) == []


def test_errors_of_the_work_are_raised(engine, prepare, monkeypatch, tmp_path):
    def fails(self, worker, batch):
        raise InputError("this batch is wrong.")

    monkeypatch.setattr(Ending, "__call__", fails)
    monkeypatch.setattr("cola_jax.runs.session.PathRows", Ending)
    with pytest.raises(InputError, match="this batch is wrong"):
        prepare(engine).evaluate(str(tmp_path / "run"), PATHS)


def test_a_checkpoint_is_sent_where_it_cannot_be_read(engine, prepare, tmp_path, monkeypatch):
    handle = prepare(engine).handle
    place = ModelPlace.of(handle)
    files = engine.sent(place)
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    elsewhere, worker = place._replace(directory="/not/there"), RayWorker()
    assert worker.load(elsewhere) is None
    assert worker.receive(elsewhere, files) is True
    assert worker.load(elsewhere) == 8  # devices of this process
    other = cola_jax.load(place.received)
    assert other.checkpoint == str(place.received)


def test_another_model_waits_until_the_first_has_loaded(engine, checkpoint, tmp_path):
    other, questions = str(tiny.make_checkpoint(tmp_path, layers=3)), tiny.questions(4)
    first, second = (ModelPlace.of(ModelHandle(x, Devices())) for x in (other, checkpoint))
    engine.grow(first, 0)
    loading = len(engine.starting)
    engine.grow(second, 0)
    assert len(engine.starting) == loading
    model = cola_jax.load(checkpoint)
    remote, local = (
        evaluator(model, questions, "options", engine=each)([PATHS[0]]) for each in (engine, None)
    )
    np.testing.assert_allclose(remote.margin, local.margin, atol=1e-4)


class Noting(NamedTuple):
    """Work, and its scorer, that notes in a file when it is entered and left."""

    file: Path

    def __enter__(self):
        self.note("enter")

    def __exit__(self, *error):
        self.note("exit")

    def note(self, text):
        self.file.write_text(f"{self.file.read_text()} {text}")

    @property
    def scorers(self):
        return [self]

    def __call__(self, worker, batch):
        self.note("run")


def test_an_actor_keeps_the_scorers_of_its_present_work_alone(engine, tmp_path):
    (tmp_path / "notes").write_text("")
    works = [ray.put(Noting(tmp_path / "notes")) for _ in range(2)]
    worker: Any = RayWorker()
    worker.idle.put(None)
    for i in (0, 0, 1):
        worker.run([works[i]], Batch([], Workload(0, 0)))
    assert (tmp_path / "notes").read_text() == " enter run run exit enter run"


def test_a_machine_that_starts_no_worker_does_not_end_a_run(engine, monkeypatch, caplog):
    class Dying:
        def facts(self):
            os._exit(1)

    monkeypatch.setattr(engine, "workers", [RemoteWorker(None, slots=1)])
    monkeypatch.setattr(engine, "failed", STARTS - 1)
    dying: Any = ray.remote(Dying)
    actor = dying.options(num_cpus=0).remote()
    reference = actor.facts.remote()
    engine.starting[reference] = RemoteWorker(actor)
    ray.wait([reference])
    engine.go_on_starting(reference)
    assert "a worker on a new machine has ended" in caplog.text
    monkeypatch.setattr(engine, "workers", [])
    engine.starting[reference] = RemoteWorker(actor)
    with pytest.raises(InputError, match="ended before they had loaded the model"):
        engine.go_on_starting(reference)


def test_bad_clusters_are_refused(cluster, engine, monkeypatch):
    with pytest.raises(InputError, match=r"no machine .* has TPU=8 \(they have .*TPU=4"):
        RayEngine(cluster.address, parse_resources("TPU=8"))
    with pytest.raises(InputError, match=r"TPU=3: .* not a supported chip configuration"):
        RayEngine(cluster.address, {"TPU": 3})
    with pytest.raises(InputError, match=r"the resources 'TPU' of a worker are not such as"):
        parse_resources("TPU")
    other = versions() | {"jax": "0.1"}
    with pytest.raises(InputError, match=r"has jax .*, and this one 0.1: install the same"):
        RayWorker().facts(other)


def test_connect_starts_a_cluster_where_there_is_none_alone(engine, monkeypatch):
    called = []

    def init(address, **options):
        called.append((address, options.get("include_dashboard")))
        if address == "auto":
            raise ConnectionError

    monkeypatch.setattr(ray, "init", init)
    for address, variable, expected in (
        (None, "", [("auto", None), ("local", False)]),
        (None, "local", [("local", False)]),
        (None, "1.2.3.4:5", [("1.2.3.4:5", None)]),
        ("ray://host:1", "local", [("ray://host:1", None)]),
    ):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        called.clear()
        connect(address)
        assert called == expected


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
