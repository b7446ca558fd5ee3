"""Earlier tries of a trial's claims: its protocol holds them, and its verdicts count and name them.

A claim that is tried until a verdict suits has as many chances as tries. So a claim is not judged
twice on the same questions, and the p-values of a later trial count for all tries.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cola_jax.errors import InputError, count, shorten
from cola_jax.path import LayerPath, format_path
from cola_jax.runs.estimates import PILOT, TRIES, Estimate
from cola_jax.runs.trial_facts import NOT_RECORDED
from cola_jax.runs.tries import Try, earlier, record, seen

EARLIER_TRIES = "earlier_tries"  # field of a protocol: of each path, its earlier tries
NO_OUTCOME = "no verdict yet"  # of a trial that had begun
Keys = Mapping[str, Collection[str]]  # of the questions of each task


def find_tries(protocol: Mapping[str, Any], keys: Keys) -> dict[str, list[dict[str, Any]]]:
    """Return the tries of each claim by other protocols, as the ledger had them before this one.

    `overlap` is the number of questions that they have in common with this trial.
    """
    questions = {key for each in keys.values() for key in each}
    tries = {}
    for claim in protocol["claims"]:
        path = claim["path"]
        tries[path] = [
            {
                "date": each.date,
                "protocol": each.protocol,
                "event": each.event,
                "task": each.task,
                "outcome": each.outcome,
                "tests": each.tests,
                "overlap": len(questions.intersection(each.questions)),
            }
            for each in earlier(protocol["model"], path, protocol["hash"])
        ]
    return tries


def check_unseen(protocol: Mapping[str, Any], keys: Keys) -> None:
    """Raise InputError where an outcome of a claim was seen on questions of this trial."""
    for claim in protocol["claims"]:
        tries = earlier(protocol["model"], claim["path"], protocol["hash"])
        for task, questions in keys.items():
            if common := seen(tries, questions):
                last = [each for each in tries if seen([each], questions)][-1]
                raise InputError(
                    f"{claim['claim']} was tried before on {len(common)} of these "
                    f"{count(len(questions), 'question')} of {task} ({describe(vars(last))}): a "
                    "second verdict on them is no evidence of its own. Take other questions "
                    "(--other-questions with --chosen-on the directory of that trial, --part, or "
                    "another file), or give --allow-overlap, which the verdict then states; `cola "
                    "verify --ledger` lists the tries."
                )


def describe(each: Mapping[str, Any]) -> str:
    """Write a try in a few words: date, task and outcome."""
    outcome = each["outcome"] or NO_OUTCOME
    common = each.get("overlap", 0)
    overlap = f", {count(common, 'question')} in common" if common else ""
    return f"{each['date'][:10]} {outcome} on {each['task']}{overlap}"


def tries_of(protocol: Mapping[str, Any], path: LayerPath) -> list[dict[str, Any]]:
    """Return the earlier tries of a claim; none of a protocol of an earlier version."""
    return protocol.get(EARLIER_TRIES, {}).get(format_path(path), [])


def count_tries(protocol: Mapping[str, Any], path: LayerPath) -> float:
    """Return as how many trials of this size those count with which a claim shares its budget.

    Pilots and the measurements of other commands give no verdict. A trial that had begun counts,
    as it may be ended at any time.
    """
    trials: dict[str, tuple[int, bool]] = {}
    for each in tries_of(protocol, path):
        if each["event"] != "measured" and each["outcome"] != PILOT:
            same = trials.get(each["protocol"], (0, False))[1] or each["overlap"] > 0
            trials[each["protocol"]] = each["tests"], same
    return weigh(trials.values(), protocol.get("num_tests", 1))


def weigh(earlier_trials: Iterable[tuple[int, bool]], tests: int) -> float:
    """Return how many trials of so many tests the earlier ones of a claim count as.

    Each is its number of tests, and whether it had some of the same questions. One counts as one,
    but on the same questions by its tests where these were more: its p-values come back, and to
    leave out the claims that it tried beside this one must not make them smaller.
    """
    return sum(max(1.0, each / tests) if same else 1.0 for each, same in earlier_trials)


def tries_estimate(protocol: Mapping[str, Any], path: LayerPath, group: str) -> Estimate:
    """Return the number of all earlier tries of a claim, with their dates and outcomes."""
    tried = tries_of(protocol, path)
    number = len({each["protocol"] for each in tried})
    note = shorten([describe(each) for each in tried])
    if EARLIER_TRIES not in protocol:
        return Estimate(TRIES, group, unit="count", note=NOT_RECORDED)
    return Estimate.count(TRIES, number, group=group, note=note)


def record_tries(
    protocol: Mapping[str, Any],
    keys: Keys,
    source: str,
    outcomes: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Write a line of the ledger for each claim and task: of the protocol, or of the verdicts.

    `outcomes` are those by path and task, and `source` is the name of the model.
    """
    pilot = PILOT if protocol.get("pilot") else ""
    tries = []
    for claim in protocol["claims"]:
        for task, questions in keys.items():
            outcome = pilot if outcomes is None else outcomes[claim["path"], task]
            tries.append(
                Try.now(
                    "protocol" if outcomes is None else "verdict",
                    model=protocol["model"],
                    claim=claim["path"],
                    task=task,
                    protocol=protocol["hash"],
                    questions=tuple(questions),
                    outcome=outcome,
                    prompts=len(protocol["tasks"][task]["prompts"]),
                    tests=protocol.get("num_tests", 1),
                    source=source,
                )
            )
    record(tries)
