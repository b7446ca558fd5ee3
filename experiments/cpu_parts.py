"""`CpuParts`: samples the CPU time of every thread of this process, by what Python does."""

import contextlib
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType

TASKS = Path("/proc/self/task")
HOST, DEVICE = "host", "device"
# by the innermost frame whose file ends so, or whose function is called so, in this order
FILES = {
    "compile": (
        "jax/_src/compiler.py",
        "jax/_src/interpreters/mlir.py",
        "jax/_src/interpreters/partial_eval.py",
        "jax/_src/stages.py",
    ),
    "selection": ("strategies/tree.py", "strategies/walks.py"),
}
FUNCTIONS = {
    "report": ("show_results",),
    "confirmations": ("confirm",),
    "import and load": ("_find_and_load", "load", "load_converted", "prepare", "prepare_each"),
}


def stacks() -> dict[int, list[CodeType]]:
    """Return the functions that each thread is in, the innermost first."""
    # no other thread may run while frames are followed: they would change
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1)
    each: dict[int, list[CodeType]] = {}
    for thread, top in sys._current_frames().items():
        each[thread], frame = [], top
        while frame is not None:
            each[thread].append(frame.f_code)
            frame = frame.f_back
    sys.setswitchinterval(interval)
    return each


def part_of(stack: list[CodeType]) -> str:
    """Name the part that a thread works on."""
    files = [code.co_filename for code in stack]
    functions = {code.co_name for code in stack}
    for part, ends in FILES.items():
        if any(file.endswith(ends) for file in files):
            return part
    for part, names in FUNCTIONS.items():
        if not functions.isdisjoint(names):
            return part
    return HOST


def place_of(stack: list[CodeType]) -> str:
    """Name the innermost function of ours, and the one that it calls, if any."""
    for i, code in enumerate(stack):
        file = code.co_filename
        if "/cola_jax/" in file:
            name = f"{file.split('/cola_jax/')[-1]}:{code.co_name}"
            return name if not i else f"{name} > {stack[i - 1].co_name}"
    return stack[0].co_name


class CpuParts:
    """CPU seconds of the process by part, and of the host by place, while it is entered.

    Threads of Python count for the part that their stack names. Threads of XLA count for the part
    of a thread of Python that compiles, selects or confirms, and else for the device, so a search
    is to run one batch at a time.
    """

    def __init__(self, interval: float = 0.02):
        """Take the seconds between samples."""
        self.interval = interval
        self.parts: dict[str, float] = defaultdict(float)
        self.places: dict[str, float] = defaultdict(float)  # of the host
        self.before: dict[int, int] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, name="cpu parts")

    def __enter__(self) -> "CpuParts":
        self.before = self.read()
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self.thread.join()

    def read(self) -> dict[int, int]:
        """Read the nanoseconds that each thread has run."""
        spent = {}
        for task in TASKS.iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                spent[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        return spent

    def run(self) -> None:
        while not self.ended.wait(self.interval):
            self.sample()

    def sample(self) -> None:
        """Count what each thread has run since the last sample."""
        spent, working = self.read(), stacks()
        used = {task: ns - self.before.get(task, 0) for task, ns in spent.items()}
        self.before = spent
        used.pop(threading.get_native_id())
        waiting = DEVICE
        for thread in threading.enumerate():
            if thread is self.thread or thread.ident not in working:
                continue
            stack = working[thread.ident]
            part, seconds = part_of(stack), used.pop(thread.native_id or 0, 0) / 1e9
            self.parts[part] += seconds
            if part == HOST:
                self.places[place_of(stack)] += seconds
            else:
                waiting = part
        self.parts[waiting] += sum(used.values()) / 1e9
