"""Names of tasks, as other tools write them as well."""

from collections.abc import Sequence
from pathlib import Path

from cola_jax.messages import did_you_mean

ARITHMETIC = "arithmetic"
HUB = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "math", "math-500", "dart-math")
NAMES = (*HUB, ARITHMETIC)
SYNONYMS = {  # of lm-evaluation-harness and of the Hub
    "hendrycks-math": "math",
    "hendrycks-math500": "math-500",
    "math500": "math-500",
    "dart-math-pool-math": "dart-math",
}


def canonical(task: str) -> tuple[str, str | None]:
    """Returns our name of a task, and its subject where the name has one; others are unchanged.

    Case, hyphens and underscores do not matter: ARC_Easy is arc-easy, and mmlu_abstract_algebra the
    subject abstract_algebra of mmlu.
    """
    name = task.strip().lower().replace("_", "-")
    name = SYNONYMS.get(name, name)
    if name in NAMES:
        return name, None
    if name.startswith("mmlu-"):
        return "mmlu", name.removeprefix("mmlu-").replace("-", "_")
    return task, None


def nearest(task: str, others: Sequence[str] = ()) -> str:
    """Returns a hint at the task of the most similar name, ours, a file or another, if any."""
    beside = Path(task).parent.glob(f"*{Path(task).suffix}") if Path(task).suffix else ()
    known = NAMES, [str(file) for file in beside], others
    return next((hint for some in known if (hint := did_you_mean(task, some))), "")
