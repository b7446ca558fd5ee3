"""Every way to use the results of a search where answers are unknown, side by side.

`python -m experiments.deployed --model CHECKPOINT --out FOLDER --task.task arithmetic --task.limit
300 --task.held-out 500 --final generation` scans the training questions, searches one path for them
at full length and at 10 and 20 % fewer layers, drops layers as ShortGPT does, searches each
question, and makes menus and routers of the results. The table is of the held-out questions in
`--task.prompts` prompts, with the scorer `--final`. Run it again to resume.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tyro
from etils import epath

from cola_jax.cli.flags import DtypeChoice, RunFlags
from cola_jax.deploy.menu import find_menu
from cola_jax.deploy.scan import scan_paths, scan_results
from cola_jax.deploy.settings import MenuSettings, StaticSettings
from cola_jax.deploy.static import find_path
from cola_jax.engine.evaluator import EngineEvaluator
from cola_jax.execute.inputs import pad_paths
from cola_jax.extras.distill import distill
from cola_jax.extras.settings import DistillSettings
from cola_jax.path import format_path, identity, parse_path
from cola_jax.prompts import Prompts
from cola_jax.report.tables import group_table, markdown_table
from cola_jax.runs.estimates import CHANGE, MODEL, Estimate
from cola_jax.runs.path_results import LAYERS, MARGIN
from cola_jax.runs.prompt_results import measured_estimates
from cola_jax.runs.session import (
    Session,
    evaluate_prompts,
    held_out_of,
    influence_of,
    prepare_prompts,
)
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import ScorerName, TaskConfig

Path = tuple[int, ...]
SHORTER = (0.0, 0.1, 0.2)  # of the layers, left out


@dataclasses.dataclass(frozen=True)
class Deployed:
    """Compare the ways to use the results of a search, on held-out questions."""

    model: str
    """Checkpoint directory."""
    task: TaskConfig
    out: str
    """Folder of the runs."""
    dtype: DtypeChoice | None = None
    final: ScorerName | None = None
    """Scorer of the held-out questions; the task's own by default."""
    longest_block: int = 4
    """Most layers of a block of the scan."""
    static: StaticSettings = dataclasses.field(default_factory=StaticSettings)
    menu: MenuSettings = dataclasses.field(default_factory=MenuSettings)
    distill: DistillSettings = dataclasses.field(default_factory=DistillSettings)
    simulations: int = 25
    """Evaluations of the search of each training question."""

    def session(self) -> Session:
        """Prepare the session that paths are chosen by."""
        engine = RunFlags().connect()
        return Session.prepare(self.model, self.task.prepare, engine, dtype=self.dtype)

    def measured(self) -> TaskConfig:
        """Return the task with the scorer of the held-out questions."""
        return dataclasses.replace(self.task, scorer=self.final or self.task.scorer)


@dataclasses.dataclass(frozen=True, eq=False)
class Way:
    """A way to use the model, and the held-out questions that it answers."""

    name: str
    path: str
    layers: float  # of the path that answers, mean
    run: float  # layers run for a prompt, mean
    right: np.ndarray  # [n, K] bool, in each of K prompts


def single_paths(settings: Deployed, session: Session) -> dict[str, Path]:
    """Find one path for the task in every way."""
    out, layers = epath.Path(settings.out), session.model.config.num_layers
    paths_of = {MODEL: identity(layers)}
    paths = scan_paths(layers, settings.longest_block)
    scan = scan_results(session.evaluate(str(out / "scan"), paths, command="scan"))
    for name, title in ((CHANGE, "most right"), (MARGIN, "largest margin")):
        best = max((each for each in scan if each.name == name), key=lambda each: each.value)
        paths_of[f"scan, {title}"] = parse_path(scan.run["paths"][best.group], layers)
    order = np.argsort(influence_of(session), kind="stable").tolist()
    for share in SHORTER:
        longest = round(layers * (1 - share))
        rules = dataclasses.replace(settings.static, max_layers=longest)
        chosen = find_path(session, str(out / f"static-{longest}"), rules).chosen
        paths_of[f"static, at most {longest} layers"] = chosen.path
        if share:
            dropped = set(order[: layers - longest])
            kept = tuple(i for i in range(layers) if i not in dropped)
            paths_of[f"ShortGPT, {longest} layers"] = kept
    return paths_of


def single_ways(settings: Deployed, session: Session, final: list[Session]) -> Iterator[Way]:
    """Measure single paths on held-out questions."""
    single = single_paths(settings, session)
    paths = list(dict.fromkeys(single.values()))
    folder = str(epath.Path(settings.out) / "held-out")
    rows = evaluate_prompts(final, folder, paths, held_out=True)
    right = np.stack([row.verdict for row in rows], axis=1)
    for name, path in single.items():
        yield Way(name, format_path(path), len(path), len(path), right[..., paths.index(path)])


def menu_ways(settings: Deployed, session: Session, final: list[Session]) -> Iterator[Way]:
    """Search the training questions, and measure a menu of the paths found."""
    out = epath.Path(settings.out)
    search = Settings(PRESETS["best"], settings.simulations, leaves=16, seed=0, control="none")
    run = session.search(str(out / "search"), search)
    training = Session.prepare(session.model, settings.measured().prepare, session.engine)
    runs = [str(run.directory)]
    menu = find_menu(training, session, str(out / "menu"), runs, settings.menu, prompts=final)
    lengths = np.array([len(path) for path in menu.paths])
    for choice in menu.choices:
        name = f"menu of {len(menu.paths)}, {choice.rule}"
        yield Way(name, "", float(lengths.mean()), choice.layers, choice.right)
    name = "menu, some path is right (needs the answer)"
    yield Way(name, "", np.nan, np.nan, menu.oracle.right)


def router_ways(settings: Deployed, session: Session, final: list[Session]) -> Iterator[Way]:
    """Train a router on the same search, and measure the paths that it names."""
    out, paths, right = epath.Path(settings.out), list[tuple[int, ...]](), []
    router = distill(session, str(out / "search"), str(out / "router"), settings.distill).router
    for each in final:
        asked, layers = held_out_of(each), each.model.config.num_layers
        named = router.paths(Prompts.stack([q.prompts for q in asked.encode(each.model)]))
        evaluate = EngineEvaluator(each.engine, each.model, asked)
        right.append(evaluate(pad_paths(named, len(asked), layers)).verdict[:, 0])
        paths += [first for (first,) in named]
    layers = float(np.mean([len(path) for path in paths]))
    label = f"router, {len(set(paths))} paths"
    yield Way(label, "", layers, layers + router.early_layers, np.stack(right, axis=1))


def estimates_of(ways: list[Way]) -> list[Estimate]:
    """Compare the ways with the pretrained model, which is the first."""
    right = {way.name: way.right for way in ways}
    measured = measured_estimates(right, ways[0].right)
    estimates = []
    for way in ways:
        estimates.append(Estimate(LAYERS, way.name, way.layers, "layers", note=way.path))
        estimates.append(Estimate("layers run", way.name, way.run, "layers"))
        estimates += [each for each in measured[way.name] if not each.name.startswith("prompt ")]
    return estimates


def main(settings: Deployed) -> None:
    session = settings.session()
    final = prepare_prompts(session.model, settings.measured(), session.engine)
    parts = (single_ways, menu_ways, router_ways)
    ways = [way for part in parts for way in part(settings, session, final)]
    table = group_table(estimates_of(ways))
    rows = [(row.label, *row.cells) for row in table.rows]
    print("\n".join(markdown_table(table.columns, rows)))


if __name__ == "__main__":
    main(tyro.cli(Deployed, description=__doc__))
