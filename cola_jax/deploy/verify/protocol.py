"""The protocol of a trial: all that decides its verdicts, written before any outcome."""

import dataclasses
import datetime
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cola_jax.deploy.verify.claims import Claim
from cola_jax.deploy.verify.earlier_tries import EARLIER_TRIES
from cola_jax.errors import InputError, reading, shown
from cola_jax.files import matching, read_json, readable_json, write_whole
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath, format_path
from cola_jax.question import digest, distinct
from cola_jax.runs.chosen_on import CHOSEN_ON
from cola_jax.runs.session import Session
from cola_jax.runs.settings import differing, named_differences
from cola_jax.storage import path_of
from cola_jax.tasks.scorers import DECODING

PROTOCOL = "protocol.json"
DIGESTS = ("questions_digest", "shots_digest")  # of questions and prompts
OWN = ("hash", "date", "version", EARLIER_TRIES, "digest")  # fields that its hash leaves out
EARLIER = "task"  # the digest that earlier versions had in their place
TESTS = (
    "Differences to the identity path within question and prompt, of equal questions once; "
    "questions and, of three or more, prompts crossed and random, the harmonic mean of "
    "Satterthwaite's degrees of freedom and those of prompts; two-sided tests of effects, one- "
    "sided ones of a loss of the margin for paths of fewer layers, F tests of dependence on three "
    "or more prompts: Holm at 0.05 over all of these, intervals simultaneous over them; no loss "
    "is excluded where the model is not above a guess, or the median random path not below the "
    "model, by more than the margin."
)


@dataclasses.dataclass(frozen=True)
class Comparators:
    """The paths that every claim is compared with."""

    shortgpt: dict[str, LayerPath]  # by the name of its size
    random: dict[LayerPath, list[LayerPath]]  # by the path of the claim

    def paths(self) -> list[LayerPath]:
        """Return all of them, each once."""
        every = [*self.shortgpt.values(), *(path for row in self.random.values() for path in row)]
        return list(dict.fromkeys(every))


def make_protocol(
    sessions: dict[str, list[Session]],
    claims: Sequence[Claim],
    comparators: Comparators,
    costs: LayerCosts | None = None,
    **rules: Any,
) -> dict[str, Any]:
    """Return the protocol of claims on tasks, each with a session for every prompt.

    `costs` are those by which the trial counts layers and the costs of drafts, where either matters
    to a verdict. `rules` are the settings of the trial and the number of its tests.
    """
    (first, *_), *_ = sessions.values()
    content = {
        "model": first.model.digest,
        "dtype": first.model.dtype,
        "num_layers": first.model.config.num_layers,
        "claims": [
            {
                "claim": claim.text,
                "kind": claim.kind,
                "path": format_path(claim.path),
                "digest": claim.digest,
                CHOSEN_ON: claim.provenance.record(),
            }
            for claim in claims
        ],
        "tasks": {name: task_record(prompts) for name, prompts in sessions.items()},
        "comparators": {
            "identity": format_path(range(first.model.config.num_layers)),
            "shortgpt": {size: format_path(path) for size, path in comparators.shortgpt.items()},
            "random": {
                format_path(path): list(map(format_path, row))
                for path, row in comparators.random.items()
            },
        },
        "tests": TESTS,
        **rules,
    }
    if costs is not None:
        content |= {"layer_costs": costs.milliseconds, "part_costs": costs.parts}
    content = json.loads(json.dumps(content))
    return content | {"hash": digest(content)}


def costs_in(protocol: dict[str, Any]) -> LayerCosts:
    """Return the costs by which a trial counts layers, and the costs of drafts."""
    layers, parts = protocol.get("layer_costs"), protocol.get("part_costs")
    return LayerCosts(protocol["num_layers"], layers, parts)


def with_date(protocol: dict[str, Any], tries: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol with its date, the version, and the earlier tries of its claims.

    Its hash leaves them out: the same protocol in another directory is the same try.
    """
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return protocol | {"date": date, "version": version("cola-jax"), EARLIER_TRIES: tries}


def task_record(prompts: Sequence[Session]) -> dict[str, Any]:
    """Return the scorer, the questions and the prompts of a task."""
    first = prompts[0]
    names = ("scorer", "chat", "prompt", "prompt_set", *DIGESTS, *DECODING)
    return {
        "questions": len(first.asked),
        "distinct_questions": len(distinct(first.asked.questions)),
        "ids": digest([question.id for question in first.asked.questions]),
        "prompts": [
            {name: each.settings[name] for name in names if each.settings.get(name) is not None}
            for each in prompts
        ],
    }


def lock_protocol(
    directory: str, protocol: dict[str, Any], before: dict[str, Any] | None
) -> dict[str, Any]:
    """Write the protocol, or check that it is that of a trial that has begun; return this one.

    Raises InputError for a protocol that differs from it.
    """
    file = path_of(directory) / PROTOCOL
    if before is None:
        protocol = protocol | {"digest": digest(protocol)}
        write_whole(file, readable_json(protocol).encode() + b"\n")
        return protocol
    ours = protocol
    if not any(CHOSEN_ON in claim for claim in before.get("claims", ())):
        ours = without_provenance(protocol)
    changes = differing(before, ours)
    if has_earlier_digests(before):
        changes = differing(without_digests(before), without_digests(ours))
    changes = {name: both for name, both in changes.items() if name.partition(".")[0] not in OWN}
    if changes:
        name, (was, now) = next(iter(changes.items()))
        by_flag = task_differences(before["tasks"], protocol["tasks"])
        details = "; ".join(by_flag) or f"{name}: {shown(was)} there, {shown(now)} here"
        raise InputError(
            f"the protocol in {file} was fixed before the first outcome, and this command differs "
            f"from it in {', '.join(changes)} ({details}): repeat its flags, or give another "
            "--output."
        )
    return before


def without_provenance(protocol: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol as earlier versions wrote it, without where claims were chosen."""
    claims = [
        {name: value for name, value in claim.items() if name != CHOSEN_ON}
        for claim in protocol.get("claims", ())
    ]
    return protocol | {"claims": claims} if claims else protocol


def has_earlier_digests(protocol: dict[str, Any]) -> bool:
    """Whether a protocol has the digests of an earlier version, which were those of tokens."""
    return any(
        EARLIER in prompt for task in protocol["tasks"].values() for prompt in task["prompts"]
    )


def without_digests(protocol: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol without the digests of questions and prompts."""
    tasks = {}
    for name, task in protocol["tasks"].items():
        prompts = []
        for record in task["prompts"]:
            kept = {key: x for key, x in record.items() if key not in (EARLIER, *DIGESTS)}
            if "prompt" in kept:
                kept["prompt"] = {key: x for key, x in kept["prompt"].items() if key != "hash"}
            prompts.append(kept)
        tasks[name] = task | {"prompts": prompts}
    return protocol | {"tasks": tasks}


def task_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Describe by their flags the settings in which the tasks of two protocols differ."""
    differences: dict[str, None] = {}  # in order, each once
    for name in before.keys() & now.keys():
        old, new = before[name]["prompts"], now[name]["prompts"]
        if len(old) != len(new):
            differences[f"--prompts: {len(old)} there, {len(new)} here"] = None
        else:
            differences.update(dict.fromkeys(named_differences(old[0], new[0])))
    return list(differences)


def read_protocol(directory: str) -> dict[str, Any] | None:
    """Read the protocol of a trial; None for a directory that is empty or not there.

    Raises InputError for a directory of other files, and for a protocol that was edited.
    """
    file = path_of(directory) / PROTOCOL
    names = {other.name for other in matching(file.parent, "*")}
    if not names:
        return None
    if PROTOCOL not in names:
        raise InputError(f"{directory} is not empty and has no {PROTOCOL}: choose another.")
    protocol = read_json(file)
    with reading(file):
        whole = {name: value for name, value in protocol.items() if name != "digest"}
        content = {name: value for name, value in protocol.items() if name not in OWN}
        is_whole = protocol.get("digest") in (None, digest(whole))  # earlier versions had none
        if not is_whole or protocol["hash"] != digest(content):
            raise InputError("it was edited after it was written: restore it, or begin anew.")
    return protocol
