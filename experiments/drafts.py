"""Would paths of a model pay as drafts of its own text, in self-speculative decoding?

`python -m experiments.drafts --model MODEL --task.task gsm8k.jsonl --task.limit 48` decodes the
model's greedy text after each prompt, and reads it along paths that skip whole layers, or attention
and MLP separately, at 90 to 50 % of the cost. The paths are searched on one half of the prompts
(from those that ShortGPT's block influence keeps for their cost, and parts also from the best whole
layers) and measured on the other half, beside random paths with as much skipped. The best of
several for each prompt is chosen on the first half of its text and measured on the second; chosen
on the whole text it is an upper bound.

A draft pays where its acceptance, the share of tokens that it predicts, is above its share of the
cost (`cola_jax.deploy.agreement.speedup`). `break-even` includes the head, which a draft runs too.
Interrupted? Re-run the same command to resume.
"""

import csv
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tyro

from cola_jax.cli.flags import DtypeChoice, RunFlags
from cola_jax.config import ModelConfig
from cola_jax.deploy.agreement import append_text, best_draft, own_texts, speedup
from cola_jax.deploy.settings import ROUNDING, StaticSettings
from cola_jax.deploy.static import evaluate_on, evolve
from cola_jax.deploy.verify.comparators import random_controls
from cola_jax.execute.reference import block_influence
from cola_jax.execute.run_paths import run_paths
from cola_jax.layer_costs import LayerCosts, part_fractions, read_layer_costs, used_weights
from cola_jax.params import Model
from cola_jax.path import LayerPath, format_path, parse_path, path_of_parts, unpad_path
from cola_jax.prompts import Prompts
from cola_jax.question import split
from cola_jax.report.tables import markdown_table
from cola_jax.runs.session import Session
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.scorer import Encoded
from cola_jax.scoring.statistics import Mean
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import ATTENTION, MLP, WHOLE
from cola_jax.tasks.task import TaskConfig

HEAD = (
    *("model", "skips", "highest cost", "path", "cost", "break-even"),
    *("chosen on", "acceptance", "low", "high", "prompts", "tokens"),
    *("random paths", "speed, drafts of 1", "best draft", "speed, best draft"),
    *("best for each prompt", "the same, chosen on its tokens"),
)


@dataclasses.dataclass(frozen=True)
class Drafts:
    """Measure the acceptance of paths as drafts, beside the share of the cost that breaks even."""

    model: str
    """Checkpoint, Hub id, or name of a model."""
    task: TaskConfig
    """Questions whose prompts are continued; half of them choose paths. 48 take minutes."""
    out: Path = Path("experiments/results/drafts.csv")
    """File of the results, which are added to those there."""
    costs: tuple[int, ...] = (90, 80, 70, 60, 50)
    """Highest costs of a path, in per cent of the model's layers."""
    layer_costs: Path | None = None
    """File of `cola benchmark --layers`; by default, the cost of a part is its share of weights."""
    tokens: int = 32
    """Tokens of the model's own text after a prompt, at most."""
    generations: int = 4
    """Generations of each search."""
    offspring: int = 8
    """Paths of a generation."""
    pool: int = 6
    """Paths of each search among which the best for each prompt is chosen."""
    controls: int = 4
    """Random paths beside each path."""
    dtype: DtypeChoice = None


class Text:
    """The model's own texts after prompts, and which tokens of them paths predict."""

    def __init__(self, model: Model, encoded: Sequence[Encoded]):
        """Take questions with their texts, as `append_text` encodes them."""
        self.model = model
        self.encoded = encoded
        self.prompts = Prompts.stack([each.prompts for each in encoded])
        self.lengths = [len(each.option) for each in encoded]
        self.agrees: dict[tuple[int, LayerPath], np.ndarray] = {}  # [Q] bool
        self.evaluations = Evaluations(self.evaluate, [each.question for each in encoded])

    def evaluate(self, paths: np.ndarray) -> Verdicts:
        """Score paths [B, C, P] by the share of tokens that they predict."""
        readings = run_paths(self.model, self.prompts, paths, progress=False)
        right = np.asarray(readings.token) == np.asarray(self.prompts.targets)[:, None]
        right &= np.asarray(readings.finite)[..., None]
        share = np.zeros(paths.shape[:2])
        for b, row in enumerate(paths):
            for c, path in enumerate(map(unpad_path, row)):
                if path:
                    self.agrees[b, path] = right[b, c, : self.lengths[b]]
                    share[b, c] = self.agrees[b, path].mean()
        return Verdicts.of_scores(share[..., None], 0, np.ones_like(share, bool), outside=np.nan)

    def prompt(self, b: int) -> Prompts:
        """Return the prompt of a question and the text after it, [T]."""
        row = self.encoded[b].prompts
        return row.replace(read=None, targets=None)

    def acceptance(self, paths: Sequence[LayerPath], prompts: np.ndarray) -> np.ndarray:
        """Return the share of tokens [n, C] of the texts of n prompts that C paths predict."""
        return evaluate_on(self.evaluations, paths, prompts).margin

    def best_for_each(self, paths: Sequence[LayerPath], prompts: np.ndarray) -> tuple[float, float]:
        """Return the mean acceptance of the best path for each prompt.

        Chosen on the first half of a text and measured on the second; then chosen on all of it.
        """
        self.acceptance(paths, prompts)
        measured, bound = [], []
        for b in prompts.tolist():
            rows = np.stack([self.agrees[b, path] for path in paths])  # [C, Q]
            bound.append(rows.mean(axis=1).max())
            half = rows.shape[1] // 2
            if half:
                best = rows[:, :half].mean(axis=1).argmax()
                measured.append(rows[best, half:].mean())
        return float(np.mean(measured)) if measured else math.nan, float(np.mean(bound))


def influential(influence: np.ndarray, costs: LayerCosts, highest: float) -> LayerPath:
    """Skip the layers [L] or parts [L, 2] of least influence until a path costs little enough."""
    num_layers = costs.num_layers
    parts = (ATTENTION, MLP) if influence.ndim == 2 else (WHOLE,)
    if influence.ndim == 2:
        influence = influence / np.array(costs.of_parts)  # what is lost for the cost that is saved
    kept = {(layer, part) for layer in range(num_layers) for part in parts}
    order = np.argsort(influence, axis=None, kind="stable")
    for layer, part in zip(*np.unravel_index(order, (num_layers, len(parts))), strict=True):
        kept.discard((int(layer), parts[part]))
        attentions = {layer for layer, part in kept if part != MLP}
        path = path_of_parts(attentions, {layer for layer, part in kept if part != ATTENTION})
        if costs.of(path) <= highest:
            return path
    raise AssertionError("some path costs as little")


def head_share(config: ModelConfig) -> float:
    """Return the weights of the head as a share of those of the layers that a token uses."""
    kinds = map(config.kind_of, range(config.num_layers))
    layers = math.fsum(math.fsum(used_weights(config, kind)) for kind in kinds)
    return config.vocab_size * config.width / layers


def draft_rows(
    drafts: Drafts,
    text: Text,
    costs: LayerCosts,
    config: ModelConfig,
    done: Mapping[tuple[str, str], LayerPath],
) -> Iterator[list[object]]:
    """Yield the row of each kind of skip and highest cost that is not done, with its path."""
    best = dict(done)
    order = split([question.id for question in text.evaluations.questions], "")
    chosen_on, measured_on = (np.sort(half) for half in np.array_split(np.array(order), 2))
    for kind in ("layers", "parts"):
        missing = [percent for percent in drafts.costs if (kind, str(percent)) not in best]
        if not missing:
            continue
        rows = Prompts.stack([text.prompt(b) for b in chosen_on.tolist()])
        influence = block_influence(text.model, rows, parts=kind == "parts")
        for percent in missing:
            highest = percent / 100 * costs.total * (1 + ROUNDING)
            settings = StaticSettings(
                generations=drafts.generations,
                offspring=drafts.offspring,
                first=max(4, len(chosen_on) // 4),
                fitness="agreement",
                parts=kind == "parts",
                max_cost=f"{percent}%",
            )
            start = [influential(influence, costs, highest)]
            if kind == "parts":
                start.append(best["layers", str(percent)])
            found = evolve(text.evaluations, chosen_on, costs, settings, start)
            paths = list(found)[: drafts.pool]
            best[kind, str(percent)] = paths[0]
            yield [
                *(drafts.model, kind, percent),
                *measured(drafts, text, costs, config, paths, chosen_on, measured_on),
            ]


def measured(
    drafts: Drafts,
    text: Text,
    costs: LayerCosts,
    config: ModelConfig,
    paths: Sequence[LayerPath],
    chosen_on: np.ndarray,
    measured_on: np.ndarray,
) -> list[object]:
    """Return the columns of the best path, the first of a search, and of the best of all."""
    best = paths[0]
    share = costs.of(best) / costs.total
    head = head_share(config)
    break_even = (share + head) / (1 + head)
    accepted = Mean.of(text.acceptance([best], measured_on)[:, 0])
    controls = random_controls(best, config.num_layers, 0, count=drafts.controls)
    random = text.acceptance(controls, measured_on).mean() if controls else math.nan
    length, speed = best_draft(accepted.value, break_even)
    of_each, bound = text.best_for_each(paths, measured_on)
    chosen = text.acceptance([best], chosen_on).mean()
    shares = (share, break_even, chosen, accepted.value, *accepted.interval)
    return [
        format_path(best),
        *(f"{x:.4f}" for x in shares),
        *(len(measured_on), sum(text.lengths[b] for b in measured_on.tolist())),
        *(f"{random:.4f}", f"{speedup(accepted.value, break_even):.3f}", length, f"{speed:.3f}"),
        *(f"{of_each:.4f}", f"{bound:.4f}"),
    ]


def main(drafts: Drafts) -> None:
    """Add the missing rows to the file, and print all of this model."""
    engine = RunFlags().connect()
    session = Session.prepare(drafts.model, drafts.task.prepare, engine, dtype=drafts.dtype)
    config = session.model.config
    fractions = part_fractions(config)
    digest = session.model.digest
    costs = read_layer_costs(drafts.layer_costs, config.num_layers, digest, fractions)
    rows: list[list[str]] = []
    if drafts.out.exists():
        with drafts.out.open(newline="") as file:
            rows = list(csv.reader(file))[1:]
    done = {
        (row[1], row[2]): parse_path(row[3], config.num_layers)
        for row in rows
        if row[0] == drafts.model
    }
    if any((kind, str(x)) not in done for kind in ("layers", "parts") for x in drafts.costs):
        texts = own_texts(session, session.asked, drafts.tokens)
        encoded = session.asked.encode(session.model)
        text = Text(session.model.load(), [append_text(x, texts[x.question.id]) for x in encoded])
        drafts.out.parent.mkdir(parents=True, exist_ok=True)
        for row in draft_rows(drafts, text, costs, config, done):
            rows.append(list(map(str, row)))
            with drafts.out.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])
            print(" ".join(f"{name} {value};" for name, value in zip(HEAD, rows[-1], strict=True)))
    print("\n".join(markdown_table(HEAD[1:], [row[1:] for row in rows if row[0] == drafts.model])))


if __name__ == "__main__":
    main(tyro.cli(Drafts, description=__doc__))
