"""Names of tasks, as other tools write them as well."""

from collections.abc import Sequence
from pathlib import Path

from cola_jax.errors import did_you_mean, plain

ARITHMETIC = "arithmetic"
HUB = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "math", "math-500", "dart-math")
NAMES = (*HUB, ARITHMETIC)
SYNONYMS = {  # of lm-evaluation-harness and of the Hub
    "hendrycks-math": "math",
    "hendrycks-math500": "math-500",
    "math500": "math-500",
    "dart-math-pool-math": "dart-math",
}
LIBRARY = "lm_eval:"  # before the name of a task that is to be lm-evaluation-harness's own
MMLU_SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
college_chemistry college_computer_science college_mathematics college_medicine
college_physics computer_security conceptual_physics econometrics electrical_engineering
elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality
international_law jurisprudence logical_fallacies machine_learning management marketing
medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy
prehistory professional_accounting professional_law professional_medicine
professional_psychology public_relations security_studies sociology us_foreign_policy
virology world_religions
""".split()  # noqa: SIM905


def canonical(task: str) -> tuple[str, str | None]:
    """Returns our name of a task, and its subject where the name has one; others are unchanged.

    Case, hyphens and underscores do not matter: ARC_Easy is arc-easy, and mmlu_abstract_algebra the
    subject abstract_algebra of mmlu. A name after `lm_eval:` is not ours.
    """
    name = task.strip().lower().replace("_", "-")
    if name.startswith(plain(LIBRARY)):
        return LIBRARY + task.strip()[len(LIBRARY) :].strip(), None
    name = SYNONYMS.get(name, name)
    if name in NAMES:
        return name, None
    subject = name.removeprefix("mmlu-").replace("-", "_")
    if name.startswith("mmlu-") and subject in MMLU_SUBJECTS:
        return "mmlu", subject
    return task, None


def nearest(task: str, others: Sequence[str] = ()) -> str:
    """Returns a hint at the task of the most similar name, ours, a file or another, if any."""
    suffix = Path(task).suffix
    beside = Path(task).parent.glob("*") if suffix else ()
    subjects = [f"mmlu_{subject}" for subject in MMLU_SUBJECTS]
    known = NAMES, [str(file) for file in beside if file.suffix == suffix], [*subjects, *others]
    return next((hint for some in known if (hint := did_you_mean(task, some))), "")
