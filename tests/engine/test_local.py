"""`LocalEngine`: batches on threads, failures and early ends, and workers that stay."""

import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax
from cola_jax.engine import dispatch, local
from cola_jax.engine.devices import Devices
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.work import Failed
from cola_jax.errors import InputError
from cola_jax.formats import cache
from cola_jax.metrics import Metrics
from cola_jax.scoring import Letter
from cola_jax.scoring.encoder import Encoder
from tests import tiny
from tests.engine.conftest import Calls, batches
from tests.execute.batches import mesh

TIMEOUT = 20  # seconds until a test that hangs fails


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())  # among them some of other tests, which may end meanwhile
    yield
    assert set(threading.enumerate()) <= before


class Entered(Letter):
    """A scorer that counts how often it is entered and left."""

    inside = entered = 0

    def __enter__(self):
        self.inside += 1
        self.entered += 1
        return self

    def __exit__(self, *error):
        self.inside -= 1


@pytest.fixture
def scorer():
    return Entered(tiny.tokenizer())


@pytest.fixture(scope="module")
def split(tiny_checkpoint):
    """The model on two workers of a device each."""
    return cola_jax.load(str(tiny_checkpoint), mesh=mesh(2, 1))


@pytest.fixture
def make(model, scorer):
    """Makes the work of a function, on the tiny model by default."""
    handle = ModelHandle.of(model)

    def make(call, model=handle, **fields):
        return Calls(model=model, encoder=Encoder((scorer,)), call=call, **fields)

    return make


def indices(worker, batch, keep):
    return batch.indices.tolist()


def work_on(worker):
    """Dispatches a program and waits for it, as a wave does."""
    return jax.device_get(worker.dispatch(lambda: jnp.ones(2)))


def run_until_stopped(worker):
    """Runs wave after wave."""
    while True:
        work_on(worker)


def is_usable(engine, work):
    """Whether an engine still does all batches."""
    done = [result for _, result, _ in engine.map(work, batches(6, 1))]
    return sorted(done) == [[i] for i in range(6)]


@pytest.mark.parametrize("sharing", [1, 2])
def test_map_does_every_batch_once_and_all_threads_at_once(make, split, scorer, sharing):
    handle = ModelHandle.of(split)
    together = threading.Barrier(2 * sharing)

    def call(worker, batch, keep):
        together.wait(TIMEOUT)
        assert scorer.inside == 1
        return worker, threading.current_thread()

    engine, asked = LocalEngine(), batches(4 * sharing, 2)
    done = list(engine.map(make(call, handle, sharing=sharing), asked))
    assert sorted(batch.indices[0] for batch, _, _ in done) == list(range(0, 4 * sharing, 2))
    assert all(batch.questions == asked[batch.indices[0] // 2].questions for batch, _, _ in done)
    workers = [worker for _, (worker, _), _ in done]
    assert [workers.count(worker) for worker in set(workers)] == [sharing, sharing]
    assert len({thread for _, (_, thread), _ in done}) == 2 * sharing
    many = [result for _, result, _ in engine.map(make(indices, handle), batches(20, 1))]
    assert sorted(many) == [[i] for i in range(20)]
    assert (scorer.entered, scorer.inside) == (2, 0)


def test_map_yields_in_the_order_of_the_ends(make):
    """A slow batch holds up no other."""
    ended = threading.Event()

    def call(worker, batch, keep):
        assert batch.indices[0] != 0 or ended.wait(TIMEOUT)

    results = LocalEngine().map(make(call, sharing=2), batches(4, 1))
    assert [next(results)[0].indices[0] for _ in range(3)] == [1, 2, 3]
    ended.set()
    assert [batch.indices[0] for batch, _, _ in results] == [0]


def test_map_yields_kept_parts_before_the_result(make):
    taken = threading.Event()

    def call(worker, batch, keep):
        keep("first")
        assert taken.wait(TIMEOUT)  # a part is there while the batch runs
        keep("second")
        return "whole"

    results = LocalEngine().map(make(call), batches(2, 2))
    parts = [next(results)[1]]
    taken.set()
    parts += [part for _, part, _ in results]
    assert parts == ["first", "second", "whole"]


def test_map_holds_no_result_that_was_taken(make):
    results = LocalEngine().map(make(lambda *_: np.zeros(3)), batches(3, 1))
    taken = weakref.ref(next(results)[1])
    next(results)
    assert taken() is None
    results.close()


def test_map_raises_errors_of_the_input_at_once(make):
    def call(worker, batch, keep):
        if batch.indices[0] == 1:
            raise InputError("question q1 is empty: leave it out.")
        run_until_stopped(worker)

    engine = LocalEngine()
    with pytest.raises(InputError, match="q1 is empty"):
        list(engine.map(make(call, sharing=2), batches(100, 1)))
    assert is_usable(engine, make(indices, sharing=2))


def test_map_splits_a_batch_that_fails_and_sets_a_question_aside(make):
    attempts = []

    def call(worker, batch, keep):
        attempts.append(batch.indices.tolist())
        if 5 in batch.indices:
            raise RuntimeError("this question is poisoned")
        return batch.indices.tolist()

    results = list(LocalEngine().map(make(call), batches(12, 4)))
    done = [i for _, result, _ in results if not isinstance(result, Failed) for i in result]
    assert sorted(done) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    ((batch, failed),) = [(b, result) for b, result, _ in results if isinstance(result, Failed)]
    assert batch.indices.tolist() == [5]
    assert (failed.attempts, "poisoned" in failed.reason) == (3, True)
    assert [each for each in attempts if 5 in each] == [[4, 5, 6, 7], [4, 5], *[[5]] * 3]


def test_map_runs_a_batch_that_failed_once_in_two_halves(make):
    """As one for which memory did not suffice."""

    def call(worker, batch, keep):
        if len(batch.questions) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return batch.indices.tolist()

    done = [result for _, result, _ in LocalEngine().map(make(call), batches(8, 4))]
    assert sorted(done) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_map_raises_a_bug(make):
    """An error that all batches have is not one of questions."""
    engine = LocalEngine()
    with pytest.raises(ZeroDivisionError):
        list(engine.map(make(lambda worker, batch, keep: 1 // 0), batches(6, 2)))
    assert is_usable(engine, make(indices))


class Panic(BaseException):
    """What a library in Rust raises, such as a tokenizer's, is no `Exception`."""


def test_map_raises_a_panic_and_does_not_wait_for_its_batch(make):
    def call(worker, batch, keep):
        raise Panic

    engine = LocalEngine()
    with pytest.raises(Panic):
        list(engine.map(make(call), batches(2, 2)))
    assert is_usable(engine, make(indices))


def test_a_batch_that_fails_leaves_no_buffers_to_others(make):
    """Those of a program that failed can hold its error, or have been given to it."""
    taken = []

    def call(worker, batch, keep):
        buffer = worker.take_buffer((3, 4), jnp.float32, split=1)
        worker.give_back(buffer)
        taken.append(buffer)
        if len(batch.questions) > 1:
            raise RuntimeError("an error of the device")

    list(LocalEngine().map(make(call), batches(2, 2)))
    whole, first, second = taken
    assert first is not whole
    assert first is second


def test_map_ends_when_closed_early(make, scorer):
    """As where an interrupt ends the loop over results: no batch begins after that."""
    engine, began = LocalEngine(), []

    def call(worker, batch, keep):
        began.append(batch)
        return None if batch.indices[0] == 0 else run_until_stopped(worker)

    results = engine.map(make(call, sharing=2), batches(100, 1))
    next(results)
    results.close()
    assert len(began) <= 3
    assert scorer.inside == 0
    assert is_usable(engine, make(indices, sharing=2))


def test_late_batches_are_logged_once(make, monkeypatch, caplog):
    looks, released, report = [], threading.Event(), local.report_late

    def count(dispatch):
        report(dispatch)
        looks.append(len(caplog.records))
        if len(looks) > 5:
            released.set()

    monkeypatch.setattr(local, "report_late", count)
    monkeypatch.setattr(local, "CHECK", 0.001)
    monkeypatch.setattr(dispatch, "CHECKED", 0.0)
    monkeypatch.setattr("cola_jax.engine.dispatch.limit", lambda *_, **__: 0.0)

    def call(worker, batch, keep):
        assert batch.indices[0] > 0 or released.wait(TIMEOUT)

    list(LocalEngine().map(make(call, sharing=2), batches(3, 1)))
    late = [each.getMessage() for each in caplog.records if "much longer" in each.getMessage()]
    assert sum("q0" in text for text in late) == 1


def test_a_model_loads_once_and_only_for_batches(make, tiny_checkpoint, monkeypatch):
    loads, load = [], cache.load_converted
    monkeypatch.setattr(cache, "load_converted", lambda *args: loads.append(args) or load(*args))
    engine, handle = LocalEngine(Devices(data=1)), ModelHandle(str(tiny_checkpoint))
    work = make(lambda worker, batch, keep: worker, handle)
    assert list(engine.map(work, [])) == []
    assert (loads, handle.loaded) == ([], None)
    ((_, first, _),) = engine.map(work, batches(2, 2))
    ((_, again, _),) = engine.map(work, batches(1, 1))
    assert first is again
    ((_, other, _),) = engine.map(make(work.call, handle, sharing=4), batches(1, 1))
    assert other is not first
    assert other.memory.sharing == 4
    assert len(loads) == 1


def test_map_counts_in_the_metrics_of_each_call(make):
    def call(worker, batch, keep):
        work_on(worker)
        worker.metrics.add(evaluations=len(batch.questions))

    engine, first, second = LocalEngine(), Metrics(), Metrics()
    for metrics, count in ((first, 3), (second, 2), (second, 2)):
        list(engine.map(make(call), batches(count, 1), metrics))
    assert (first.evaluations, second.evaluations) == (3, 4)
    assert len(second.clocks) == 1


def test_capacity_is_known_before_weights_load(make, tiny_checkpoint):
    options = {"memory_budget": "1MB", "tile_tokens": 64}
    engine = LocalEngine(Devices(data=2, **options), batch_size=5)
    handle = ModelHandle(str(tiny_checkpoint))
    capacity = engine.capacity(handle, 6)
    assert handle.loaded is None
    assert (capacity.parts, capacity.questions) == (2, 5)
    work = make(lambda worker, batch, keep: worker.memory, handle)
    ((_, memory, _),) = engine.map(work, batches(1, 1))
    assert capacity.memory == memory


def test_capacity_of_a_model_in_memory_is_that_of_its_devices(make, split):
    engine, handle = LocalEngine(dtype="bfloat16"), ModelHandle.of(split)
    capacity = engine.capacity(handle, 6)
    assert capacity.parts == 2
    work = make(lambda worker, batch, keep: worker.memory, handle)
    ((_, memory, _),) = engine.map(work, batches(1, 1))
    assert capacity.memory == memory
    assert memory.itemsize == 2
