"""Makes the workers of a cluster note what they evaluate, take longer, or fail.

Python reads this file where a process starts whose PYTHONPATH has its folder. The package has no
such hooks: the class that evaluates a batch is changed when it has been imported, as these
variables say:

  FAULTS_LOG: file to which a line is added when a batch is begun
  FAULTS_NODE: name of the machine, for that file
  FAULTS_PAUSE: seconds that are added to each evaluation of a batch
  FAULTS_KILLS, FAULTS_RAISES: a question whose evaluation kills the process, or raises an exception
  FAULTS_HOLDS: the most questions for which memory suffices
  FAULTS_VERSION: version of transformers that the machine claims to have
"""

import functools
import importlib.metadata
import importlib.util
import json
import os
import signal
import sys
import time

MODULE = "cola_jax.scoring.evaluations"
MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."


class Finder:
    """Changes a module once it has been imported."""

    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            change(module.Evaluations)

        spec.loader.exec_module = execute_and_change
        return spec


def change(evaluations):
    """Note, delay and fail the calls of the function that evaluates a batch."""
    begin = evaluations.__init__

    @functools.wraps(begin)
    def begin_with_faults(self, evaluate, questions, *arguments, **options):
        names, noted = [question.id for question in questions], []

        def evaluate_with_faults(paths):
            if not noted:
                noted.append(True)
                note(names)
            time.sleep(float(os.environ.get("FAULTS_PAUSE", "0")))
            fail(names)
            return evaluate(paths)

        begin(self, evaluate_with_faults, questions, *arguments, **options)

    evaluations.__init__ = begin_with_faults


def note(names):
    """Add a line to the log, whole even where other processes add others."""
    row = {"time": time.time(), "pid": os.getpid(), "node": os.environ["FAULTS_NODE"]}
    line = json.dumps(row | {"questions": names}) + "\n"
    file = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


def fail(names):
    """Fail as the variables say."""
    if os.environ.get("FAULTS_KILLS") in names:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("FAULTS_RAISES") in names:
        raise RuntimeError("a question that this program cannot evaluate")
    if len(names) > int(os.environ.get("FAULTS_HOLDS", "1000000")):
        import jax

        raise jax.errors.JaxRuntimeError(MEMORY)


def claim(version):
    """Claim another version of transformers."""
    find = importlib.metadata.version
    importlib.metadata.version = lambda name: version if name == "transformers" else find(name)


if "FAULTS_LOG" in os.environ:
    sys.meta_path.insert(0, Finder())
    if "FAULTS_VERSION" in os.environ:
        claim(os.environ["FAULTS_VERSION"])
