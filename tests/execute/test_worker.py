"""Workers: batches on threads, errors and early ends, and buffers that are used again."""

import contextlib
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax
from cola_jax.execute import worker as workers_module
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import make_workers, map_questions, on_threads
from cola_jax.kernels.attention import PromptAttention
from tests import oracle
from tests.execute import batches

TIMEOUT = 2  # seconds until a test that hangs fails


@pytest.fixture(scope="module")
def split(pair):
    """The model on two workers of two devices each."""
    return cola_jax.load(pair("qwen2-window").checkpoint, mesh=batches.mesh(2, 2))


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())  # among them some of other tests, which may end meanwhile
    yield
    assert set(threading.enumerate()) <= before


def work(worker):
    """Dispatches a program and waits for it, as a wave does."""
    return jax.device_get(worker.dispatch(lambda: jnp.ones(2)))


def test_make_workers_makes_one_for_each_place_of_the_data_axis(split):
    workers = make_workers(split, sharing=3, dtype="bfloat16", memory_budget=123, tile_tokens=7)
    assert [worker.memory for worker in workers] == [(123, 3, 2, "cpu", 7)] * 2
    assert [worker.dtype for worker in workers] == [jnp.bfloat16] * 2
    used = [device for worker in workers for device in worker.devices]
    assert used == list(split.embedding.sharding.mesh.devices.flat)


def test_on_threads_runs_every_batch_once_and_all_workers_at_once(split):
    workers = make_workers(split)
    together = threading.Barrier(2)

    def run(worker, batch):
        together.wait(TIMEOUT)
        return worker, threading.current_thread()

    results = dict(on_threads(workers, run, iter(range(2))))
    assert sorted(results) == [0, 1]
    assert {worker for worker, _ in results.values()} == set(workers)
    assert len({thread for _, thread in results.values()}) == 2
    many = on_threads(workers, lambda worker, batch: batch * batch, range(20))
    assert sorted(many) == [(n, n * n) for n in range(20)]
    assert list(on_threads(workers, lambda worker, batch: batch, [])) == []


def test_map_questions_runs_each_question_once_after_the_tokens_that_all_share(split):
    prompts = batches.alike(40)
    for same in (True, False):
        paths = batches.pad(batches.paths_of(1 if same else 4, 2, 0) * (4 if same else 1), 12)
        metrics = cola_jax.Metrics()
        workers = make_workers(split, metrics=metrics)

        def run(worker, questions, workload, paths=paths):
            worker.metrics.add(evaluations=paths[questions].shape[1] * len(questions))
            return workload

        results = list(map_questions(workers, run, prompts, paths, Workload(2, 12)))
        assert sorted(i for indices, _ in results for i in indices) == [0, 1, 2, 3]
        workloads = {workload for _, workload in results}
        assert workloads == {Workload(2, 12, same=same, prefix=40)}
        assert metrics.total == metrics.evaluations == 8


def test_workers_choose_a_kernel_for_each_kind_of_layer(pair, monkeypatch):
    def choose(device, config, *_):
        return PromptAttention(softcap=float(config.head_dim))

    monkeypatch.setattr("cola_jax.execute.worker.choose_prompt_attention", choose)
    (worker,) = make_workers(pair("gemma4").ours)
    assert [kernel.softcap for kernel in worker.kernels] == [12, 20]


def test_in_float32_keeps_softcaps(pair):
    (worker,) = make_workers(pair("gemma2").ours)
    assert worker.in_float32().kernels == worker.kernels


def test_on_threads_yields_in_the_order_of_the_ends(split):
    """A slow batch holds up no other."""
    ended = threading.Event()

    def run(worker, batch):
        assert batch != 0 or ended.wait(TIMEOUT)
        return worker.device

    results = on_threads(make_workers(split), run, range(4))
    assert [next(results)[0] for _ in range(3)] == [1, 2, 3]
    ended.set()
    assert [batch for batch, _ in results] == [0]


def test_on_threads_holds_no_result_that_was_taken(model):
    results = on_threads(make_workers(model), lambda _, batch: np.zeros(batch), range(3))
    taken = weakref.ref(next(results)[1])
    next(results)
    assert taken() is None
    results.close()


def run_until_stopped(worker):
    """Runs wave after wave."""
    while True:
        work(worker)


def test_on_threads_raises_the_error_of_a_batch(split):
    """Threads between two waves stop; then the workers can be used again."""
    workers = make_workers(split)

    def run(worker, batch):
        if batch == 1:
            raise RuntimeError("out of memory")
        run_until_stopped(worker)

    results = on_threads(workers, run, range(4))
    with pytest.raises(RuntimeError, match="out of memory"):
        next(results)
    assert len(list(on_threads(workers, lambda worker, batch: work(worker), range(4)))) == 4


def test_on_threads_ends_when_closed_early(split):
    """As where an interrupt ends the loop over results: no batch begins after that."""
    workers, began = make_workers(split), []

    def run(worker, batch):
        began.append(batch)
        return batch if batch < 2 else run_until_stopped(worker)

    results = on_threads(workers, run, iter(range(100)))
    next(results)
    results.close()
    assert len(began) <= 4
    assert work(workers[0]).tolist() == [1, 1]


def test_dispatch_runs_one_thread_at_a_time(model):
    """So the programs of one batch are not queued between those of another."""
    (worker,) = make_workers(model, sharing=2)
    together, met = threading.Barrier(2), []

    def program():
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.1)
            met.append(threading.current_thread())
        return jnp.ones(1)

    threads = [threading.Thread(target=worker.dispatch, args=(program,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == []


def test_clock_counts_waiting_without_compilation(model):
    metrics = cola_jax.Metrics()
    (worker,) = make_workers(model, metrics=metrics)
    assert metrics.clocks == [worker.clock]
    arrays = worker.dispatch(lambda: jax.jit(lambda x: x * 2.5 + 1)(jnp.ones(3)))
    assert worker.clock.compiled > 0
    dispatched = worker.clock.waited  # a CPU runs what it dispatches
    np.testing.assert_array_equal(worker.wait(arrays), np.full(3, 3.5))
    assert 0 <= dispatched < worker.clock.waited <= worker.clock.wall
    with pytest.raises(ZeroDivisionError):
        worker.dispatch(lambda: 1 // 0)
    assert work(worker).tolist() == [1, 1]  # no lock is held


def test_buffers_are_used_again_where_shapes_agree(model):
    (worker,) = make_workers(model, memory_budget=80)
    first = worker.take_buffer((3, 4), jnp.float32, split=1)
    worker.give_back(first)
    assert worker.take_buffer((3, 4), jnp.float32, split=1) is first
    worker.give_back(first)
    other = worker.take_buffer((3, 4), jnp.bfloat16, split=1)
    assert other.dtype == jnp.uint16  # as a CPU stores it
    assert worker.rows_of_spare((3, 4), jnp.float32) == 3
    assert not any(worker.buffers.spare.values())  # freed before more was allocated
    worker.give_back(first, other)
    assert worker.take_buffer((3, 4), jnp.bfloat16, split=1) is other


def test_calls_of_several_tiles_give_what_calls_of_one_do(model, monkeypatch):
    """As on a GPU: tiles of any layers of a kind, in their order, in programs of few sizes."""
    ids = oracle.random_ids(3, 9)
    paths = [[(0, 1, 2, 3, 4, 5), (0, 2, 2, 5)]] * 3
    plain = cola_jax.run_paths(model, ids, paths)
    calls = []
    run = workers_module.forward_few

    def counted(*arguments):
        calls.append(len(arguments[4]))
        return run(*arguments)

    monkeypatch.setattr(workers_module, "TOGETHER", {"cpu": 3})
    monkeypatch.setattr(workers_module, "forward_few", counted)
    together = cola_jax.run_paths(model, ids, paths)
    assert set(calls) == {1, 3}
    batches.assert_agree(together, plain, batches.ROUNDING)
