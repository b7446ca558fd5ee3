"""Makes the workers of a cluster note what they evaluate, take longer, or fail.

Python reads this file where a process starts whose PYTHONPATH has its folder. The package has no
such hooks: the class that evaluates a batch is changed once it has been imported. The variable
FAULTS_FILE names a JSON file of settings for every machine, under "", and for each by its name,
which FAULTS_NODE gives:

  log: file to which a line is added when a batch is begun
  pause: seconds that are added to each evaluation of a batch
  kills, raises: a question whose evaluation kills the process, or raises an exception
  holds: the most questions for which memory suffices
  transformers: the version that the machine claims to have
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


def setting(name, default=None):
    """Read a setting of this machine."""
    with open(os.environ["FAULTS_FILE"]) as file:
        settings = json.load(file)
    of_machine = settings.get(os.environ["FAULTS_NODE"], {})
    return of_machine.get(name, settings[""].get(name, default))


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
            time.sleep(setting("pause", 0))
            fail(names)
            return evaluate(paths)

        begin(self, evaluate_with_faults, questions, *arguments, **options)

    evaluations.__init__ = begin_with_faults


def note(names):
    """Add a line to the log, whole even where other processes add others."""
    row = {"time": time.time(), "pid": os.getpid(), "node": os.environ["FAULTS_NODE"]}
    line = json.dumps(row | {"questions": names}) + "\n"
    file = os.open(setting("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


def fail(names):
    """Fail as the settings say."""
    if setting("kills") in names:
        os.kill(os.getpid(), signal.SIGKILL)
    if setting("raises") in names:
        raise RuntimeError("a question that this program cannot evaluate")
    if len(names) > setting("holds", len(names)):
        import jax

        raise jax.errors.JaxRuntimeError(MEMORY)


def version(name):
    """Return the version of a package, or one that the machine claims to have."""
    claimed = setting("transformers") if name == "transformers" else None
    return claimed or find_version(name)


if "FAULTS_FILE" in os.environ:
    sys.meta_path.insert(0, Finder())
    find_version, importlib.metadata.version = importlib.metadata.version, version
