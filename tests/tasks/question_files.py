"""Files of questions as people have them, and what each must become: its questions, or help.

`question_files.jsonl` has most of them. `python -m tests.tasks.question_files` prints a row for
each: right, refused with help, refused without, misread, or crash.
"""

import dataclasses
import gzip
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy
import pandas
from PIL import Image

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.tasks import load_questions

Shape = tuple[str, tuple[str, ...] | None, str]  # text, options (None of open questions), gold
SPAIN = ("Where is the Prado?", ("Madrid", "Rome"), "Madrid")
ROW = {"question": SPAIN[0], "options": list(SPAIN[1]), "answer": SPAIN[2]}
SEEN = ("<image>\n" + SPAIN[0], *SPAIN[1:])
HELP, NO_HELP = "refused with help", "refused without help"


@dataclasses.dataclass(frozen=True)
class Case:
    """A file, or rows in memory, the arguments of `load_questions`, and the outcome."""

    name: str
    make: Callable[[Path], Any]  # writes to a folder and returns the source
    expected: Sequence[Shape] | str  # questions, or a pattern of the message
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def case_of(line: str) -> Case:
    """Read a case from a line of the data."""
    row = json.loads(line)
    questions = row.get("questions", ())
    shapes = [(text, options and tuple(options), gold) for text, options, gold in questions]
    return Case(
        row["name"],
        lambda folder: write(row, folder / row["file"]),
        row.get("refused") or shapes,
        row.get("arguments", {}),
    )


def write(row: Mapping[str, Any], place: Path) -> str:
    """Write the file of a case, by its suffix; `text` is its content, or `rows` of a table."""
    if place.suffix == ".parquet":
        pandas.DataFrame(row["rows"]).to_parquet(place)
    elif place.suffix == ".xlsx":
        pandas.DataFrame(row["rows"]).to_excel(place, index=False)
    else:
        text = row.get("text") or "".join(json.dumps(each) + "\n" for each in row["rows"])
        content = text.encode(row.get("encoding", "utf-8"))
        if place.suffix == ".gz":
            content = gzip.compress(content)
        place.write_bytes(content[: len(content) - row.get("cut", 0)])
    return str(place)


def saved(folder: Path) -> str:
    """Write a folder of `datasets`."""
    datasets.Dataset.from_list([ROW]).save_to_disk(folder / "saved")
    return str(folder / "saved")


def saved_splits(folder: Path) -> str:
    """Write a folder of `datasets` with two splits."""
    rows = datasets.Dataset.from_list([ROW])
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(folder / "splits")
    return str(folder / "splits")


def pictured(_: Path) -> Any:
    """Make rows of `datasets` with a column of pictures."""
    content = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(content, "PNG")
    rows = [{**ROW, "image": {"bytes": content.getvalue(), "path": None}}]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def pictured_by_path(folder: Path) -> Any:
    """Make rows of `datasets` with a column of the paths of pictures, as its imagefolder does."""
    Image.new("RGB", (4, 3), "red").save(folder / "red.png")
    rows = [{**ROW, "image": str(folder / "red.png")}]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


CASES = [
    *map(case_of, Path(__file__).with_suffix(".jsonl").read_text().splitlines()),
    Case("a folder of save_to_disk", saved, [SPAIN]),
    Case("a folder of several splits", saved_splits, "several splits.*test"),
    Case("one of its splits", lambda folder: saved_splits(folder) + "/test", [SPAIN]),
    Case("a list of dicts", lambda _: [ROW], [SPAIN]),
    Case("a DataFrame", lambda _: pandas.DataFrame([ROW]), [SPAIN]),
    Case("a DatasetDict", lambda _: datasets.DatasetDict(test=datasets.Dataset.from_list([ROW])),
         r"data\['test'\]"),
    Case("a Dataset with an Image column", pictured, [SEEN]),
    Case("a Dataset with paths of pictures", pictured_by_path, [SEEN]),
    Case("options in a tuple", lambda _: [ROW | {"options": SPAIN[1]}], [SPAIN]),
    Case("options in an array", lambda _: [ROW | {"options": numpy.array(SPAIN[1])}], [SPAIN]),
    Case("pictures of Pillow", lambda _: [ROW | {"image": Image.new("RGB", (4, 3))}], [SEEN]),
]  # fmt: skip


def outcome(case: Case, folder: Path) -> tuple[str, str]:
    """Return what becomes of a case, and the questions or the message."""
    folder.mkdir(exist_ok=True)
    source = case.make(folder)
    try:
        questions = load_questions(source, **case.arguments)
    except InputError as error:
        text = str(error).replace(f"{folder}/", "")
        helps = isinstance(case.expected, str) and re.search(case.expected, text) is not None
        return (HELP if helps else NO_HELP), text
    except Exception as error:  # of any type: a traceback is no help
        return "crash", f"{type(error).__name__}: {error}"
    shapes = list(map(shape, questions))
    shown = (f"{text!r} {options or 'open'} -> {gold!r}" for text, options, gold in shapes)
    return ("right" if shapes == case.expected else "misread"), "; ".join(shown)


def shape(question: Question) -> Shape:
    """Return the text, the options and the gold of a question."""
    return question.text, None if question.open else question.options, question.gold


def main() -> None:
    """Print the table."""
    datasets.disable_progress_bars()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(CASES, 1):
            result, said = outcome(case, Path(place) / str(number))
            counts[result] += 1
            print(f"{number:3} {case.name:45} {result:20} {said.splitlines()[0][:150]}")
    print(", ".join(f"{count} {result}" for result, count in counts.items()))


if __name__ == "__main__":
    main()
