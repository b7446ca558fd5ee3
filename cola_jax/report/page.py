"""The HTML page of a run: one file, and for many questions a folder of scripts beside it."""

import base64
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow as pa
from etils import epath
from markupsafe import Markup

from cola_jax.files import inside, matching, read_bytes, remove_empty, remove_files, write_whole
from cola_jax.path import format_ranges
from cola_jax.report.document import Document, compared, cut_middle
from cola_jax.report.figures import search_figures
from cola_jax.runs.layer_use import list_lengths
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.schema import PICTURES, by_question, thumbnail_name
from cola_jax.steps import is_whole, layer_of
from cola_jax.storage import path_of

SCRIPTS = ("dom.js", "figures.js", "questions.js")
INLINE = 1_000_000  # characters of questions up to which a page needs no files beside it
CHUNK = 256_000  # characters of a chunk, about
MAX_LISTED = 200  # characters of a question's text in the list
MAX_TEXT = 2000  # characters of a completion
MAX_ANSWER = 200  # characters of an answer, an id or an edit
MAX_QUESTION = 20_000  # characters of a question or an option

COMPLETION = ("answer_text", "text", "finish", "truncated", "tokens")
EVALUATION = ["question", "path", "verdict", "margin", "answer", "node", "parent", "edit"]
EVALUATION += ["target", "control", *COMPLETION]
QUESTION = ["question", "text", "prompt", "options", "gold", "best", "confirmed", "baseline"]
QUESTION += ["baseline_answer", "controls"]


def write_search_page(
    runs: Sequence[Run],
    every: Mapping[str, Results],
    file: epath.PathLike,
    changes: Results | None = None,
) -> None:
    """Write the report of one search run, or of several of one model, as an HTML page.

    Args:
      runs: the searches.
      every: their results, by the names of the runs.
      file: the page. The paths of many questions, and pictures, go to a folder beside it, which
        `report.html` calls `report_files`.
      changes: the comparisons of the others with the first, of several runs.

    Raises OSError where a file cannot be written.
    """
    facts = runs[0].facts()
    data: dict[str, Any] = {
        "runs": [*every],
        "layers": facts.num_layers,
        "parts": part_lengths(runs),
        "open": facts.is_open,
        "decodes": facts.decodes,
        "float32": facts.settings.get("dtype") == "float32",
        "figures": search_figures(dict(zip(every, runs, strict=True)), every),
    }
    (first, *_) = every.values()
    report = Document.of(first) if changes is None else compared(every, changes)
    target = path_of(file)
    folder = inside(target.parent, f"{target.stem}_files")
    data["questions"], chunks = gather_questions(runs, copy_thumbnails(runs, folder))
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update("".join(chunk).encode())
    data["token"] = digest.hexdigest()[:16]  # by which a page knows its own files
    # the scripts before the page that loads them
    beside = chunks if sum(map(len, itertools.chain(*chunks))) > INLINE else []
    data["files"] = write_chunks(folder, data["token"], beside)
    write_page(report, file, data, [] if beside else chunks)


def part_lengths(runs: Sequence[Run]) -> list[list[float]] | None:
    """Return the lengths of the attention and of the MLP of each layer, in layers.

    None where the paths of all runs are of whole layers.
    """
    for run in runs:
        facts = run.facts()
        if facts.settings.get("steps"):
            costs = facts.costs
            both = zip(costs.of_parts, costs.of_layer, strict=True)
            return [[round(part / layer, 4) for part in parts] for parts, layer in both]
    return None


class Picture(NamedTuple):
    """A picture in a file beside a page."""

    address: str  # from the page
    title: str
    caption: str


def write_page(
    report: Document,
    file: epath.PathLike,
    data: Mapping[str, Any] | None = None,
    chunks: Sequence[Sequence[Markup]] = (),
    pictures: Sequence[Picture] = (),
) -> None:
    """Write a report as an HTML page that needs no network.

    `data` are what the scripts draw, `chunks` are details of questions within the page, and
    `pictures` are shown after the results. Raises OSError where the page cannot be written.
    """
    data = {"runs": [], "figures": []} | dict(data or {})
    content = render(
        report=report,
        runs=data["runs"],  # searches, whose questions are listed and whose controls are explained
        open=data.get("open", False),
        figures=data["figures"],
        pictures=pictures,
        data=script_json(data),
        chunks=[Markup(f"[{','.join(chunk)}]") for chunk in chunks],
    )
    write_whole(file, content)


@functools.cache
def templates() -> jinja2.Environment:
    """Load the template, scripts and style from the package."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cola_jax", "report/assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def asset(name: str) -> str:
    """Read a script or style as it is."""
    environment = templates()
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]


def render(**values: Any) -> bytes:
    """Render a page whose security policy allows its own script and style, and no others.

    Scripts that this one adds are those beside the page; markup in a text of a run could add none.
    """
    script = '"use strict";\n(() => {\n' + "".join(map(asset, SCRIPTS)) + "})();\n"
    style = asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{policy_hash(script)}' 'strict-dynamic'; "
        f"style-src '{policy_hash(style)}'; img-src 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = templates().get_template("page.html")
    content = template.render(script=Markup(script), style=Markup(style), policy=policy, **values)
    return content.encode(errors="replace")  # a name of a file may not be UTF-8


def policy_hash(content: str) -> str:
    """Name a script or style in a security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def script_json(value: Any) -> Markup:
    """Encode JSON for a <script> element or file; no text in it can end the element or a line."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def write_chunks(folder: epath.Path, token: str, chunks: Sequence[Sequence[Markup]]) -> list[str]:
    """Write each chunk as a script into the folder beside a page, and remove older ones.

    Returns the addresses of the scripts from the page.
    """
    remove_files(matching(folder, "questions-*.js"))
    remove_empty(folder)
    names = [f"questions-{number:03d}.js" for number in range(len(chunks))]
    for number, (name, chunk) in enumerate(zip(names, chunks, strict=True)):
        content = f'colaQuestions("{token}",{number},[{",".join(chunk)}]);\n'
        write_whole(folder / name, content.encode())
    return [f"{folder.name}/{name}" for name in names]


def copy_thumbnails(runs: Sequence[Run], folder: epath.Path) -> list[dict[str, str]]:
    """Copy the thumbnails of each run into the folder beside a page, and remove older ones.

    Returns their addresses from the page, by their names in the run.
    """
    remove_files(matching(folder, "picture-*.jpg"))
    addresses: list[dict[str, str]] = [{} for _ in runs]
    for number, run in enumerate(runs):
        for file in matching(run.place(PICTURES), "*.jpg"):
            name = f"picture-{number}-{file.name}"
            write_whole(folder / name, read_bytes(file))
            addresses[number][file.name] = f"{folder.name}/{name}"
    return addresses


def gather_questions(
    runs: Sequence[Run], pictures: Sequence[Mapping[str, str]]
) -> tuple[list[dict[str, Any]], list[list[Markup]]]:
    """Return the list of the questions of all runs, and chunks of their encoded details.

    The list has the run of each question, and the chunk and place of its details, which are loaded
    when it is opened; a chunk has questions of one run. `pictures` are those of
    `copy_thumbnails`.
    """
    listed: list[dict[str, Any]] = []
    chunks: list[list[Markup]] = []
    for number, run in enumerate(runs):
        size = CHUNK
        for entry, detail in question_entries(run):
            if size >= CHUNK:
                chunks.append([])
                size = 0
            place = [len(chunks) - 1, len(chunks[-1])]
            listed.append(entry | {"run": number, "at": place})
            detail["picture"] = pictures[number].get(thumbnail_name(entry["id"]))
            chunks[-1].append(script_json(detail))  # at once, as it is smaller than what it encodes
            size += len(chunks[-1][-1])
    return listed, chunks


def question_entries(run: Run) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield for each question its entry in the list and its details, one part at a time."""
    parts = run.parts()
    layers = run.facts().costs.layers
    both = run.tables("evaluations", EVALUATION, parts), run.tables("questions", QUESTION, parts)
    for evaluations, questions in zip(*both, strict=True):
        tables = by_question(evaluations)
        for question in questions.to_pylist():
            table = tables.get(question["question"])
            rows = [] if table is None else readable_rows(table)
            yield list_entry(question, rows, layers), detail_entry(question, rows)


def readable_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Read evaluations with their paths as text and the number of tokens decoded."""
    tokens, texts = list_lengths(table["tokens"]).tolist(), path_texts(table["path"])
    rows = table.drop_columns(["path", "tokens"]).to_pylist()
    return [
        row | {"path": text, "tokens": count}
        for row, text, count in zip(rows, texts, tokens, strict=True)
    ]


def path_texts(paths: pa.ChunkedArray) -> list[str]:
    """Write a column of paths as ids and ascending ranges, with parts and shares.

    Repeated blocks are written out, as finding them takes most of the time for millions of paths.
    """
    texts = []
    for chunk in paths.chunks:
        lengths = chunk.value_lengths().to_numpy()
        layers = chunk.flatten().to_numpy().astype(int)
        row = np.repeat(np.arange(len(lengths)), lengths)
        begins = np.r_[True, (np.diff(layers) != 1) | (np.diff(row) != 0)][: len(layers)]
        first = np.flatnonzero(begins)
        last = np.r_[first[1:], len(layers)][: len(first)] - 1
        parts: list[list[str]] = [[] for _ in lengths]
        ranges = row[first].tolist(), layers[first].tolist(), layers[last].tolist()
        for i, a, b in zip(*ranges, strict=True):
            parts[i].append(range_text(a, b))
        texts += [",".join(part) for part in parts]
    return texts


def range_text(first: int, last: int) -> str:
    """Write the range of ascending ids: `7`, `0-5`, `8m`, `(7-8)*0.5`."""
    if is_whole(first):
        return str(first) if first == last else f"{first}-{last}"
    (text,) = format_ranges(range(first, last + 1))
    return text


def list_entry(
    question: dict[str, Any], rows: list[dict[str, Any]], layers: Callable[[list[int]], float]
) -> dict[str, Any]:
    """Make the entry that the list of questions shows, sorts and filters.

    `layers` tells the length of a path.
    """
    best, text = question["best"], question["text"] or ""
    hits = [row["node"] for row in rows if row["verdict"] and not row["control"]]
    before = {True: "C", False: "W", None: "?"}[question["baseline"]]
    return {
        "id": question["question"],
        "text": text if len(text) <= MAX_LISTED else text[: MAX_LISTED - 1] + "…",
        "kind": f"{before}→{'W' if best is None else 'C'}",
        "best": None if best is None else rounded_length(layers(best)),
        "first": min(hits, default=None),
        "moved": int(best is not None and is_moved(best)),
    }


def rounded_length(length: float) -> float:
    """Round a length in layers; that of whole layers is a whole number."""
    return length if isinstance(length, int) else round(length, 2)


def is_moved(path: list[int]) -> bool:
    """Whether a path first runs some layer after a later one, whole or in part."""
    first = list(dict.fromkeys(map(layer_of, path)))
    return any(a > b for a, b in itertools.pairwise(first))


def detail_entry(question: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the details of one question, with long texts shortened."""
    completions: dict[tuple[Any, ...], int] = {}  # many paths share one, which is stored once
    paths = []
    for row in rows:
        paths.append(path_entry(row))
        if row["text"] is not None:
            key = tuple(row[name] for name in COMPLETION)
            paths[-1].append(completions.setdefault(key, len(completions)))
    return {
        "id": cut_middle(question["question"], MAX_ANSWER),
        "text": cut_middle(question["text"] or "", MAX_QUESTION),
        "prompt": question["prompt"] and cut_middle(question["prompt"], MAX_QUESTION),
        "options": [cut_middle(text or "", MAX_QUESTION) for text in question["options"] or ()],
        "gold": question["gold"],
        "baseline": question["baseline_answer"],
        "controls": [
            [search["target"], search["best"] is not None]
            for search in question["controls"] or ()
            if search["target"] != question["baseline_answer"]
        ],
        "confirmed": question["confirmed"],
        "paths": paths,
        "completions": [
            [answer and cut_middle(answer, MAX_ANSWER), cut_middle(text, MAX_TEXT), *end]
            for answer, text, *end in completions
        ],
    }


def path_entry(row: dict[str, Any]) -> list[Any]:
    """Make the entry of one evaluation; a list, as a run has millions of them."""
    margin, verdict = row["margin"], row["verdict"]
    return [
        row["path"],
        None if verdict is None else int(verdict),
        round(margin, 3) if margin is not None and math.isfinite(margin) else None,
        row["answer"],
        row["node"],
        row["parent"],
        row["edit"] and cut_middle(edit_text(row["edit"]), MAX_ANSWER),
        row["target"] if row["control"] else None,
    ]


def edit_text(edit: str) -> str:
    """Say of an edit that it names a position, which is no layer; once is not said."""
    return edit.replace(" at ", " at position ").removesuffix(" x1")
