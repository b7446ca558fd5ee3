"""Names of lm-evaluation-harness's tasks, read from its files: the library itself takes seconds."""

import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

from cola_jax.errors import InputError, plain
from cola_jax.tasks.hub import TASKS
from cola_jax.tasks.names import ARITHMETIC, LIBRARY, nearest

NAME = re.compile(
    rb"^[\"']?(task|group|class)[\"']?[ \t]*:[ \t]*[\"']?([^\s\"'#\[{]+)", re.MULTILINE
)


class Names(NamedTuple):
    """What the library's files name."""

    tasks: dict[str, str]  # a task's own name, by that and by its plain form
    groups: frozenset[str]


def folder() -> Path | None:
    """Returns the folder of the library's task files; None without the library."""
    spec = importlib.util.find_spec("lm_eval")
    places = None if spec is None else spec.submodule_search_locations
    return Path(places[0]) / "tasks" if places else None


@functools.cache
def read_names(root: Path | None) -> Names:
    """Reads the names of tasks and groups in a folder of task files."""
    tasks: dict[str, str] = {}
    groups: set[str] = set()
    for file in root.rglob("*.yaml") if root is not None else ():
        named = {kind: name.decode() for kind, name in NAME.findall(file.read_bytes())}
        if (group := named.get(b"group")) is not None and b"class" not in named:
            groups.add(group)
        elif (task := named.get(b"task")) is not None:
            tasks[task] = task
    for name in sorted(tasks):
        tasks.setdefault(plain(name), name)
    return Names(tasks, frozenset(groups))


def names() -> list[str]:
    """Returns the names of the library's tasks; none without it."""
    return sorted(set(read_names(folder()).tasks.values()))


def find(task: str) -> str | None:
    """Returns the library's own name of a task; None where it has no task of that name.

    Case, hyphens and underscores do not matter. Raises ValueError for a group of its tasks.
    """
    tasks, groups = read_names(folder())
    name = task.removeprefix(LIBRARY)
    if (own := tasks.get(name) or tasks.get(plain(name))) is not None:
        return own
    if name in groups:
        raise InputError(
            f"{name} is a group of tasks of lm-evaluation-harness: give the names of its tasks, "
            "with commas between them."
        )
    return None


def require(task: str) -> str:
    """Returns the library's own name of a task, as `find`.

    Raises ValueError where it has none, and so no task of that name exists, with the most similar.
    """
    if (name := find(task)) is not None:
        return name
    known = names()
    more = "a task of lm-evaluation-harness"
    if not known:
        more += " (for which: pip install 'cola-jax[lm-eval]')"
    raise InputError(
        f"task {task!r} is neither one of {', '.join(TASKS)}, {ARITHMETIC}, nor an existing "
        f"JSONL file, nor {more}{nearest(task.removeprefix(LIBRARY), known)}."
    )
