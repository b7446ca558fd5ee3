"""A signal ends a command in order, wherever it falls, and the message says what is kept."""

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cola_jax.cli.signals import Interrupted, Terminated, ended_in_order

from cola_jax.cli import main as cli


def wait() -> None:
    """Lets a signal that was put off arrive."""
    for _ in range(200):
        time.sleep(0.01)


@ended_in_order()
def signalled(number: signal.Signals) -> None:
    try:
        signal.raise_signal(number)
    finally:
        assert signal.getsignal(number) == signal.SIG_DFL  # a second one kills


@ended_in_order()
def collecting(callback: Callable[[str, dict[str, int]], None]) -> None:
    gc.callbacks.append(callback)
    gc.collect()
    wait()


@ended_in_order()
def importing() -> None:
    __import__("signalled")
    assert "signalled" in sys.modules
    wait()


@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Terminated, 143)],
)
def test_a_signal_raises_once_and_handlers_are_put_back(
    number: signal.Signals, kind: type[Interrupted], status: int
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with pytest.raises(Interrupted) as caught:
        signalled(number)
    assert type(caught.value) is kind
    assert 128 + caught.value.number == status
    after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert after == before


def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost() -> None:
    def collect(phase: str, info: dict[str, int]) -> None:
        gc.callbacks.remove(collect)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated):
        collecting(collect)


def test_a_signal_during_an_import_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "signalled.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nimport time\ntime.sleep(0.1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Interrupted):
        importing()


def test_other_threads_leave_signals_alone() -> None:
    before, done = signal.getsignal(signal.SIGTERM), []

    def body() -> None:
        with ended_in_order():
            done.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert done == [True]


def raising(number: signal.Signals) -> Callable[[object], None]:
    return lambda arguments: signal.raise_signal(number)


@pytest.mark.parametrize(
    ("number", "status", "text"),
    [(signal.SIGINT, 130, "interrupted: what a run"), (signal.SIGTERM, 143, "terminated: what a")],
)
def test_a_command_says_what_is_kept(
    number: signal.Signals,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "run_command", raising(number))
    with pytest.raises(SystemExit) as ended:
        cli.main(["search"])
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(f"\n{text}")


AT_THE_START = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == PLACE:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
AT_THE_END = """
import atexit, signal, sys
atexit.register(signal.raise_signal, signal.SIGINT)
"""
MAIN = "sys.argv = ['cola', 'tasks']; from cola_jax.__main__ import main; main()"


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("PLACE = 'cola_jax.cli.main'" + AT_THE_START, -signal.SIGINT, ""),
        ("PLACE = 'cola_jax.cli.commands'" + AT_THE_START, 130, "\ninterrupted: what a run"),
        (AT_THE_END, -signal.SIGINT, ""),
    ],
)
def test_a_signal_while_python_starts_or_ends_prints_no_traceback(
    code: str, status: int, text: str
) -> None:
    command = [sys.executable, "-c", code + MAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(text)
