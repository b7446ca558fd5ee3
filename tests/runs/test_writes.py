"""Writes in threads: nothing waits for them but a full queue and the end."""

import threading

import pytest

from cola_jax.runs import writes
from cola_jax.runs.writes import Writes

SECONDS = 60  # after which a test hangs


@pytest.fixture
def few(monkeypatch):
    """Two threads, and room for one function more."""
    monkeypatch.setattr(writes, "THREADS", 2)
    monkeypatch.setattr(writes, "WAITING", 1)


def test_functions_run_at_once_and_the_end_waits_for_all(few):
    both, written = threading.Barrier(2, timeout=SECONDS), []

    def write(name):
        both.wait()  # until two are in threads at the same time
        written.append(name)

    with Writes() as pool:
        for name in "abcd":
            pool.submit(lambda name=name: write(name))
    assert sorted(written) == ["a", "b", "c", "d"]
    for thread in pool.threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_a_full_queue_holds_up_the_caller(few):
    go, submitted = threading.Event(), []

    def submit(pool):
        for number in range(5):
            pool.submit(lambda: go.wait(SECONDS))
            submitted.append(number)

    with Writes() as pool:
        caller = threading.Thread(target=submit, args=[pool])
        caller.start()
        while len(submitted) < 3:  # two in threads and one in the queue
            caller.join(0.01)
        caller.join(0.1)
        assert caller.is_alive()
        go.set()
        caller.join(SECONDS)
        assert submitted == [0, 1, 2, 3, 4]


def end(pool):
    pool.__exit__(None, None, None)


def fail():
    raise OSError("no room")


def test_errors_surface_in_the_next_call_and_at_the_end(few):
    called = []
    with pytest.raises(OSError, match="no room"), Writes() as pool:
        pool.submit(fail)
    pool = Writes().__enter__()
    pool.submit(fail)
    for act in (pool.flush, lambda: pool.submit(lambda: called.append("next")), lambda: end(pool)):
        with pytest.raises(OSError, match="no room"):
            act()
    assert called == []


def test_an_error_of_the_body_is_not_replaced(few, caplog):
    pool = Writes().__enter__()
    pool.submit(fail)
    pool.__exit__(KeyError, KeyError(), None)
    assert "a part was not written: no room" in caplog.text


def test_what_waits_is_not_written_after_an_error(monkeypatch):
    monkeypatch.setattr(writes, "THREADS", 1)
    go, written = threading.Event(), []

    def late():
        go.wait(SECONDS)
        fail()

    pool = Writes().__enter__()
    pool.submit(late)
    pool.submit(lambda: written.append("waits"))
    go.set()
    with pytest.raises(OSError, match="no room"):
        end(pool)
    assert written == []
