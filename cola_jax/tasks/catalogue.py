"""The list of tasks, with what can be chosen of each."""

from cola_jax.scoring import scorer_names
from cola_jax.tasks.formats import FORMATS
from cola_jax.tasks.hub import TASKS
from cola_jax.tasks.kinds import CHOICE, DEFAULTS, USUAL
from cola_jax.tasks.names import ARITHMETIC


def catalogue() -> list[dict[str, str]]:
    """Returns for each task its data set, split, scorers, formats and shots; the default first."""
    rows = []
    for name in (*TASKS, ARITHMETIC, "FILE.jsonl"):
        task = TASKS.get(name)
        kind = "prompt" if name.endswith(".jsonl") else name if task is None else task.kind
        scorers = scorer_names(open=kind not in CHOICE)
        formats = [] if kind in CHOICE else list(FORMATS[kind])
        styles = [one.name for one in formats] or ["plain", "harness"]
        if kind in CHOICE:
            scorer, style = DEFAULTS.get(kind, USUAL)
            scorers.sort(key=scorer.__ne__)  # the default first, the others as they are
            styles.sort(key=style.__ne__)
        if kind == "prompt":
            scorers = sorted(scorers, reverse=True)
        rows.append(
            {
                "task": name.replace("-", "_"),
                "data set": task.hub if task else "generated" if name == ARITHMETIC else "yours",
                "split": task.split if task else "",
                "scorers": ", ".join(scorers),
                "formats": ", ".join(styles),
                "shots": ", ".join(str(one.shots) for one in formats) or "0",
            }
        )
    return rows
