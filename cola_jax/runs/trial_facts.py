"""The facts of a trial that a reviewer asks for, in words: protocol, size and error budget."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cola_jax.errors import count
from cola_jax.runs.estimates import (
    ABOVE_CHANCE,
    CHOSEN_BY,
    DETECTABLE,
    LOSS,
    SIZES,
    STATED,
    TRIES,
    Estimate,
)
from cola_jax.runs.results import DIGEST, Results
from cola_jax.scoring.statistics import ALPHA

NOT_RECORDED = "not recorded"  # by an earlier version
DIGITS = 16  # hexadecimal, shown of a digest
# by the measure
MARGINS = {
    "accuracy": SIZES["points"],
    "likelihood": SIZES["nats/100 more"],
    "agreement": SIZES["points"],
}


def trial_facts(results: Results, groups: Sequence[str] | None = None) -> dict[str, str]:
    """Return the facts of a trial, {} for the results of another command.

    What differs between claims has a line for each of them, or for those of `groups`. What an
    earlier version did not record is said to be so.
    """
    settings = results.run.get("settings") or {}
    claims = {each.group: each for each in results if each.note in STATED}
    if settings.get("command") != "verify" or not claims:
        return {}
    start = results.run.get("start") or {}
    versions = start.get("versions") or {}
    groups = [*claims] if groups is None else groups
    tests = settings.get("num_tests")
    return {
        "written": dated(settings.get("protocol_date"), settings.get("protocol_version")),
        "verdict": dated(start.get("date"), versions.get("cola-jax"), start.get("commit")),
        "hash": short(settings.get("hash")),
        "model": f"{short(settings.get('model'))}, {settings.get('dtype', NOT_RECORDED)}",
        "chosen on": by_claim(results, groups, CHOSEN_BY, lambda each: each.note),
        "earlier tries": by_claim(results, groups, TRIES, tries_text),
        "error budget": NOT_RECORDED if tests is None else budget_text(results.run, tests),
        "margin": margin_text(settings),
        "questions and prompts": size_text(results.run),
        "above a guess": by_claim(
            results,
            models_of(results),
            ABOVE_CHANCE,
            with_interval,
            "not tested" if settings.get("measure") == "agreement" else NOT_RECORDED,
        ),
        "could show": by_claim(results, groups, DETECTABLE, with_interval),
        "could show a loss": by_claim(results, groups, LOSS, loss_text, "not tested"),
        "rows, results": f"{short(results.run.get('rows'))}, {short(results_digest(results))}",
    }


def dated(date: Any, version: Any, commit: Any = None) -> str:
    """Write a date with the version of cola-jax."""
    if date is None:
        return NOT_RECORDED
    text = f"{str(date)[:16].replace('T', ' ')} UTC, cola-jax {version}"
    return text if commit is None else f"{text}, commit {short(commit)}"


def short(digest: Any) -> str:
    """Return the beginning of a digest."""
    return NOT_RECORDED if not digest else str(digest)[:DIGITS]


def results_digest(results: Results) -> str | None:
    """Return the digest of results; None of an earlier version, whose file has none."""
    return results.to_json()["run"][DIGEST] if "rows" in results.run else None


def by_claim(
    results: Results,
    groups: Sequence[str],
    name: str,
    write: Callable[[Estimate], str],
    lacking: str = NOT_RECORDED,
) -> str:
    """Write an estimate of each group: once where all say the same, or else a line for each."""
    found = {group: results.find(name, group) for group in groups}
    texts = {group: lacking if each is None else write(each) for group, each in found.items()}
    if len({*texts.values()}) == 1:
        return next(iter(texts.values()))
    return ";\n".join(f"{group}: {text}" for group, text in texts.items())


def tries_text(tries: Estimate) -> str:
    """Write the number of earlier tries, with their dates and outcomes."""
    if tries.value == 0:
        return "none"
    return f"{tries.result}: {tries.note}" if tries.result != tries.note else tries.note


def budget_text(run: Mapping[str, Any], tests: int) -> str:
    """Write among how many tests the error of a trial is divided."""
    groups = (run.get("groups") or {}).values()
    about = count(len({facts["path"] for facts in groups}), "claim")
    tasks = len({facts["task"] for facts in groups})
    about += f" on {count(tasks, 'task')}" * (tasks > 1)
    return (
        f"{ALPHA:g} over {count(tests, 'test')} of {about} (Holm), and over earlier tries of a "
        "claim; intervals are simultaneous"
    )


def margin_text(settings: Mapping[str, Any]) -> str:
    """Write the largest loss that counts as none."""
    if settings.get("margin") is None:
        return NOT_RECORDED
    pilot = "; a pilot, which gives no verdict" if settings.get("pilot") else ""
    unit = MARGINS[settings.get("measure") or "accuracy"]
    return f"{settings['margin']:g} {unit}{pilot}"


def size_text(run: Mapping[str, Any]) -> str:
    """Write the numbers of questions and prompts, of each of several tasks."""
    sizes = run.get("sizes") or {"": (run.get("done", 0), run.get("prompts", 1))}
    return ";\n".join(
        f"{f'{task}: ' if task else ''}{count(n, 'question')} x {count(prompts, 'prompt')}"
        for task, (n, prompts) in sizes.items()
    )


def models_of(results: Results) -> list[str]:
    """Return the groups of the identity path, one a task."""
    groups = results.run.get("groups") or {}
    return [*dict.fromkeys(facts["model"] for facts in groups.values())] or [""]


def with_interval(estimate: Estimate) -> str:
    """Write an estimate with its unit and interval."""
    interval = f" ({estimate.interval_text})" if estimate.interval_text else ""
    return f"{estimate.size_text}{interval}"


def loss_text(loss: Estimate) -> str:
    """Write whether the trial could have shown a loss of the margin."""
    return f"no: {loss.note}" if loss.note else f"yes, of {loss.size_text}"
