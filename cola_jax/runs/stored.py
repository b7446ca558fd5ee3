"""Stored runs: whether a command asks and uses the questions of one, and the results it takes."""

import dataclasses
import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple

from cola_jax.errors import (
    InputError,
    check_belongs,
    count,
    describe_difference,
    shown,
)
from cola_jax.files import check_file, exists, write_whole
from cola_jax.formats.peers import INVALID, VALID
from cola_jax.path import identity
from cola_jax.question import INTEGER, LETTERS, Question, decoy_of, digest
from cola_jax.runs.hosts import WHOLE
from cola_jax.runs.schema import by_question, question_row, stored_verdict
from cola_jax.runs.settings import other_settings
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Encoded, most_options
from cola_jax.scoring.verdicts import Verdicts

if TYPE_CHECKING:
    from cola_jax.runs.run import Run

Path = tuple[int, ...]
log = logging.getLogger(__name__)
# settings that decide a verdict, and with PROMPT the prompts
DECIDING = (
    *("model", "dtype", "scorer", "rule", "grader", "max_new_tokens"),
    *("temperature", "top_p", "sample_seed", "chat"),
)
PROMPT = ("format", "shots")
# may differ where the paths of a run are only tried again
ANY_SCORER = (*DECIDING[1:], *PROMPT, "prompts")
ANSWER = ["question", "path", "answer_text", "grade", "truncated"]


class Asked(NamedTuple):
    """The model, prompts and questions of a run, or of a command that begins."""

    name: str
    values: dict[str, Any]  # that decide verdicts; those of each question by its id

    @classmethod
    def of(
        cls, name: str, settings: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
    ) -> "Asked":
        """Take the settings of a run and the rows of its questions."""
        values = deciding(settings) | {"texts": {}, "prompts": {}, "options": {}, "golds": {}}
        for row in rows:
            question, options, gold = row["question"], list(row["options"]), row["gold"]
            values["texts"][question] = row["text"]
            values["prompts"][question] = row["prompt_hash"]
            values["options"][question] = options
            values["golds"][question] = None if gold is None else options[gold]
        return cls(name, values)


def asked_by_run(run: "Run") -> Asked:
    """Read the questions of a run, and its settings."""
    rows = run.questions(["question", "text", "options", "gold", "prompt_hash"]).to_pylist()
    return Asked.of(str(run.directory), run.settings(), rows)


def asked_here(settings: Mapping[str, Any], encoded: Sequence[Encoded]) -> Asked:
    """Return the questions of a command with its settings."""
    return Asked.of("this command", settings, (question_row(each, 0) for each in encoded))


def check_comparable(theirs: Asked, ours: Asked, allowed: Collection[str] = ()) -> None:
    """Raise InputError for results that do not belong together, with the values that differ.

    Questions are compared where both have them. Differences of `allowed` names are logged.
    """
    compared = {name: value for name, value in theirs.values.items() if name not in allowed}
    action = "give results of one model, with the same questions and prompts"
    check_belongs(theirs.name, compared, ours.name, ours.values, action)
    differences = (
        describe_difference(name, theirs.values[name], ours.values[name])
        for name in sorted(allowed)
    )
    if text := "; ".join(filter(None, differences)):
        log.info("%s was made with other settings: %s", theirs.name, text)


def check_asked(run: "Run", asked: Asked) -> None:
    """Raise InputError where a run asks other or changed questions."""
    before = asked_by_run(run)
    check_comparable(before, asked)
    others = before.values["texts"].keys() - asked.values["texts"].keys()
    if others and run.shard == WHOLE:
        text = f"--task: it has other questions, such as {shown(min(others))}"
        raise other_settings(run.directory, [text])


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide verdicts, without the questions."""
    prompt = settings.get("prompt") or {}
    style, shots = prompt.get("format", "plain"), prompt.get("num_fewshot")
    if isinstance(style, dict):
        rest = {name: value for name, value in style.items() if name != "shots"}
        style = f"{style['name']} {digest(rest)[:8]}"
    prompts = {"format": style, "shots": len(prompt.get("shots") or ()) if shots is None else shots}
    return {name: settings.get(name) for name in DECIDING} | prompts


@dataclasses.dataclass(frozen=True)
class Labels:
    """The verdicts of a run for one question, without those of control searches."""

    question: str  # its id
    text: str
    options: tuple[str, ...]
    gold: int | None  # the correct option; None where no options were offered
    prompt_hash: str
    verdicts: dict[Path, bool]  # in all variants of a robust search; ungraded is wrong
    robust: dict[Path, bool] | None  # of the paths asked again; None without variants

    @property
    def correct(self) -> list[Path]:
        """The correct paths, shortest first."""
        correct = (path for path, right in self.verdicts.items() if right)
        return sorted(correct, key=lambda path: (len(path), path))

    @property
    def held(self) -> list[Path]:
        """The paths that are right in all variants, shortest first; `correct` without variants."""
        if self.robust is None:
            return self.correct
        return [path for path in self.correct if self.robust.get(path)]


def read_labels(run: "Run") -> list[Labels]:
    """Read the labels of the finished questions, in order; InputError where there are none."""
    verdicts: dict[str, dict[Path, bool]] = defaultdict(dict)
    for row in run.evaluations(["question", "path", "verdict", "control"]).to_pylist():
        if not row["control"]:
            verdicts[row["question"]].setdefault(tuple(row["path"]), bool(row["verdict"]))
    columns = ["question", "text", "options", "gold", "prompt_hash", "again"]
    questions = run.questions(columns).to_pylist()
    if not questions:
        raise InputError(f"{run.directory} has no question done yet: let the run finish first.")
    labels = []
    for row in questions:
        again = row.pop("again")
        robust = {tuple(each["path"]): all(each["holds"]) for each in again or ()}
        row |= {"options": tuple(row["options"]), "verdicts": verdicts[row["question"]]}
        labels.append(Labels(**row, robust=None if again is None else robust))
    return labels


def write_polar(run: "Run", file: FilePath) -> str:
    """Write a run as a new `merged_mcts_samples.json` of PoLar, and return a summary."""
    check_file(file)
    if exists(file):
        raise InputError(f"{file} exists already: remove it, or choose another file.")
    content = polar_samples(run)
    write_whole(file, json.dumps(content, ensure_ascii=False).encode())
    samples = content["samples"]
    paths = sum(len(sample[VALID] + sample[INVALID]) for sample in samples)
    return f"PoLar: {file}, {count(len(samples), 'question')} with {paths} paths"


def polar_samples(run: "Run") -> dict[str, Any]:
    """Make the content of PoLar's file from the finished questions of a run.

    Options are part of a question's text, and the answer is a letter, but for scorers of open
    questions. Control searches and variants are left out; ungraded paths are wrong. A baseline that
    is not known is left out, which their loader takes for wrong.
    """
    manifest = run.manifest()
    start, model = manifest["starts"][-1], manifest["settings"].get("model")
    num_layers, is_open = start["num_layers"], (start.get("scorer") or {}).get("open")
    samples = []
    for labels in read_labels(run):
        if labels.gold is None or not labels.options:
            raise InputError(
                f"{run.directory}: question {shown(labels.question)} has no correct answer, as "
                "those of `cola generate`: give a run of `cola search` or `cola evaluate`."
            )
        text, gold = labels.text, labels.options[labels.gold]
        if not is_open:
            options = zip(LETTERS, labels.options, strict=False)
            text = "\n".join([text, *(f"{letter}. {option}" for letter, option in options)])
            gold = LETTERS[labels.gold]
        sample: dict[str, Any] = {"question": text, "gt_ans": gold}
        baseline = labels.verdicts.get(identity(num_layers))
        if baseline is not None:
            sample["initial_score"] = float(baseline)
        sample[VALID] = [list(path) for path in labels.correct]
        sample[INVALID] = [list(path) for path, right in labels.verdicts.items() if not right]
        samples.append(sample)
    named = {} if model is None else {"model": model}  # `read_paths` refuses it for another
    return {"num_layers": num_layers, **named, "samples": samples}


def stored_verdicts(run: "Run", encoded: Sequence[Encoded], paths: int) -> Verdicts:
    """Read the verdicts [n, C] of a run of C paths, in the order of `encoded`.

    Raises InputError for questions that an engine has set aside, which would count as wrong.
    """
    place = {each.question.id: i for i, each in enumerate(encoded)}
    out, rows = Verdicts.empty((len(encoded), paths), most_options(encoded)), run.evaluations()
    if lacking := len(encoded) - rows.num_rows // paths:
        raise InputError(
            f"{run.directory} lacks {count(lacking, 'question')}: run the command again with a "
            "smaller --batch-size, or workers with more memory."
        )
    for row in rows.to_pylist():
        i, node = place[row["question"]], row["node"]
        out.put((i, slice(node, node + 1)), stored_verdict(row, encoded[i]))
    return out


class Answers:
    """The decoded answers of a run: of the pretrained model, and of other paths."""

    def __init__(self, run: "Run"):
        """Read a run of `cola evaluate` that decodes, along the identity path and others."""
        self.run, manifest = run, run.manifest()
        settings, start = manifest["settings"], manifest["starts"][-1]
        if settings.get("command") != "evaluate" or not (start.get("scorer") or {}).get("decodes"):
            raise InputError(
                f"{run.directory} does not hold decoded answers of given paths: make it with "
                "`cola evaluate --scorer generation`."
            )
        paths, self.plain = list(map(tuple, settings["paths"])), identity(start["num_layers"])
        if self.plain not in paths or len(paths) < 2:
            raise InputError(
                f"{run.directory} needs the model's own answer and those on other paths: add "
                f"--paths 0-{start['num_layers'] - 1} and --random 50 to its command."
            )
        self.tables = by_question(run.evaluations(ANSWER))

    def decoy(self, question: Question) -> str | None:
        """Return the wrong answer whose count of paths is closest to that of gold, if any.

        The pretrained model's own answer is never a decoy. An integer close to an integer gold is
        a candidate even where no path gives it.
        """
        if question.id not in self.tables:
            raise InputError(
                f"question {question.id} is not among those answered in {self.run.directory}: "
                "answer the same questions there."
            )
        plain, right, counts = None, 0, Counter[str]()
        for row in self.tables[question.id].to_pylist():
            answer = None if row["truncated"] else row["answer_text"]
            if tuple(row["path"]) == self.plain:
                plain = answer
            elif row["grade"] == Grade.RIGHT.value:
                right += 1
            elif row["grade"] == Grade.WRONG.value and answer is not None:
                counts[answer.strip()] += 1
        near = decoy_of(question.id, question.gold)
        if near is not None:
            counts.setdefault(near, 0)
        whole = INTEGER.fullmatch(question.gold)  # the decoy of a number is a number

        def distance(answer: str) -> tuple[int, bytes]:
            drawn = hashlib.sha256(f"decoy {question.id} {answer}".encode()).digest()
            return abs(counts[answer] - right), drawn

        excluded = {plain, question.gold, ""}
        allowed = [a for a in counts.keys() - excluded if not whole or INTEGER.fullmatch(a)]
        return min(allowed, key=distance, default=None)
