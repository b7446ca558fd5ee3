"""The two tables of a run: their columns, their rows, and the files that hold them in parts."""

import dataclasses
import hashlib
import itertools
import platform
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from cola_jax.errors import InputError, brief, reading
from cola_jax.files import read_bytes
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath, format_path, is_whole_path, parse_stored
from cola_jax.question import Question, digest, question_digest
from cola_jax.runs.chosen_on import question_key
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Encoded, Scorer
from cola_jax.scoring.verdicts import NO_ANSWER, Completion, Verdicts
from cola_jax.strategies.outcome import ROOT, Outcome

MARK = b"cola_run"  # in the metadata of a file: the mark of its run
JOINED = 64  # tables that are joined at a time
# without a start in parts of earlier versions, and in still earlier ones without questions
PART = re.compile(
    r"part-(?:s(?P<start>[0-9]+-[0-9a-f]{8})-)?[0-9]+"
    r"(?:-(?P<questions>[0-9]+)-(?P<machine>[A-Za-z0-9_]+))?-[0-9a-f]{8}"
)
PATH = pa.list_(pa.int16())
STEPS = pa.list_(pa.int32())  # a path in memory whose steps may be parts or have shares
PATHS = ("path", "best", "front")  # fields with a path, or a list of paths
METADATA = pa.struct({"name": pa.string(), "value": pa.string()})  # `datasets` reads no maps
AGAIN = pa.list_(pa.struct({"node": pa.int32(), "path": PATH, "holds": pa.list_(pa.bool_())}))
CONTROL = pa.struct(
    {
        "target": pa.int16(),
        "best": PATH,  # the shortest path that gives the target, null for none
        "again": AGAIN,
        "evaluations": pa.int32(),
        "shared": pa.int32(),  # evaluations that earlier searches of the question made as well
    }
)
# README.md explains the columns
EVALUATIONS = pa.schema(
    {
        "question": pa.string(),
        "asked": pa.string(),
        "path": PATH,
        "length": pa.int16(),
        "verdict": pa.bool_(),
        "margin": pa.float32(),
        "answer": pa.int16(),
        "scores": pa.list_(pa.float32()),
        "outside": pa.float32(),
        "answer_logprobs": pa.list_(pa.float32()),
        "finite": pa.bool_(),
        "node": pa.int32(),
        "wave": pa.int32(),
        "parent": pa.int32(),
        "edit": pa.string(),
        "target": pa.int16(),
        "control": pa.bool_(),
        "reused": pa.bool_(),
        # of scorers that decode, null for others:
        "text": pa.string(),
        "answer_text": pa.string(),
        "finish": pa.string(),
        "truncated": pa.bool_(),
        "grade": pa.string(),
        "tokens": pa.list_(pa.int32()),
        "logprob": pa.float32(),
    }
)
QUESTIONS = pa.schema(
    {
        "question": pa.string(),
        "text": pa.string(),
        "options": pa.list_(pa.string()),
        "gold": pa.int16(),
        "num_tokens": pa.int32(),
        "prompt": pa.string(),
        "prompt_hash": pa.string(),
        "metadata": pa.list_(METADATA),
        "evaluations": pa.int32(),
        "key": pa.string(),
        # of searches, null for other runs:
        "baseline": pa.bool_(),
        "baseline_answer": pa.int16(),
        "best": PATH,
        "confirmed": pa.bool_(),
        "front": pa.list_(PATH),
        "baseline_scores": pa.list_(pa.list_(pa.float32())),
        "baseline_logprobs": pa.list_(pa.list_(pa.float32())),
        "answers": pa.int16(),
        "controls": pa.list_(CONTROL),
        # of searches that asked again in other wordings, null for others:
        "again": AGAIN,
        "again_answers": pa.list_(pa.int16()),
    }
)
EARLIER = {"again_answers": "variant_answers"}  # names of columns in earlier versions

KEPT = ("question", "baseline", "best")  # what a driver reads in the rows of questions
PICTURES = "pictures"  # folder of a run with a thumbnail for each question that has a picture


def thumbnail_name(question: str) -> str:
    """Return the name of the thumbnail of a question's id."""
    return f"{digest('thumbnail', question)[:16]}.jpg"


class RowLayout(NamedTuple):
    """How a run writes its rows.

    Where paths may have parts or shares (`has_steps`), a column `steps` stands after `path`, and
    likewise `best_steps` after `best` and so on: the texts of all paths. The column before it has
    the paths of whole layers, and is null for others; a length is then a float.
    """

    mark: str  # of the run, in the metadata of each file
    has_steps: bool = False
    costs: LayerCosts | None = None  # by which parts count in lengths; None for whole layers alone

    def length_of(self, path: LayerPath) -> float:
        """Return the length of a path in layers."""
        return len(path) if self.costs is None else self.costs.layers(path)

    def encode(self, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> bytes:
        """Return the content of a file of rows."""
        if self.has_steps:
            rows = (with_path_texts(row, schema) for row in rows)
        return encode_part(self.stored(schema), rows, self.mark)

    def stored(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns of a file."""
        return STORED_STEPS[schema] if self.has_steps else schema

    def loaded(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns of a table in memory, whose paths are ids of steps."""
        return LOADED_STEPS[schema] if self.has_steps else schema


class Part(NamedTuple):
    """The rows of one batch; without those of questions, evaluations of unfinished questions.

    Workers encode them for their run, as the driver would take longer for it than for all else:
    `evaluations` is then the content of its file, `content` that of the questions, and of their
    rows the columns of `KEPT` remain.
    """

    evaluations: list[dict[str, Any]] | bytes
    questions: list[dict[str, Any]]
    outcomes: Sequence[Outcome] = ()  # of searches without a run; not written
    content: bytes | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the evaluations of a part that is not encoded."""
        assert not isinstance(self.evaluations, bytes)
        return self.evaluations

    def encode(self, layout: RowLayout) -> "Part":
        """Return the part as it is written to the run of a layout."""
        return self._replace(
            evaluations=layout.encode(EVALUATIONS, self.rows),
            questions=[{name: row.get(name) for name in KEPT} for row in self.questions],
            content=layout.encode(QUESTIONS, self.questions) if self.questions else None,
        )


def asked_digest(encoded: Encoded) -> str:
    """Return the digest of a question and its prompt."""
    return digest(question_digest(encoded.question), encoded.prompt_hash)[:16]


def evaluation_rows(
    encoded: Encoded,
    paths: Sequence[LayerPath],
    verdicts: Verdicts,
    lengths: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Make the rows of one question's evaluations, in order.

    `lengths` are those of the paths in layers; their steps where all are whole layers.
    """
    lengths = list(map(len, paths)) if lengths is None else lengths
    graded, asked = verdicts.graded, asked_digest(encoded)
    options = len(encoded.question.options)
    return [
        {
            "question": encoded.question.id,
            "asked": asked,
            "path": path,
            "length": lengths[i],
            "verdict": bool(verdicts.verdict[i]) if graded[i] else None,
            "margin": float(verdicts.margin[i]),
            "answer": int(verdicts.answer[i]),
            "scores": verdicts.scores[i, :options].tolist(),
            "outside": float(verdicts.outside[i]),
            "answer_logprobs": stored_logprobs(verdicts.answer_logprobs[i, :options]),
            "finite": bool(verdicts.finite[i]),
            "node": i,
            "wave": 0,
            "parent": None,
            "edit": None,
            "target": encoded.question.answer if options else None,
            "control": False,
            "reused": False,
            **completion_columns(verdicts.completion[i]),
        }
        for i, path in enumerate(paths)
    ]


def stored_logprobs(logprobs: np.ndarray) -> list[Any] | None:
    """Return log-probabilities as a row has them, None where none is known."""
    return None if np.isnan(logprobs).all() else logprobs.tolist()


def stored_verdict(row: Mapping[str, Any], question: Question, scorer: Scorer) -> Verdicts:
    """Return the verdict [1] for gold of a row, which a scorer made."""
    completion = None
    if row["finish"] is not None:
        fields = {field.name: row[field.name] for field in dataclasses.fields(Completion)}
        fields |= {"answer": row["answer_text"], "tokens": tuple(row["tokens"])}
        fields["grade"] = None if row["grade"] is None else Grade(row["grade"])
        completion = Completion(**fields)
    # a prompt that is completed has no options
    scores = np.array([row["scores"] or [row["margin"]]], np.float32)
    logprobs = row["answer_logprobs"]
    verdicts = Verdicts.of_scores(
        scores,
        question.answer,
        np.array([row["finite"]]),
        answer=np.array([row["answer"]]),
        outside=np.array([row["outside"]]),
        log_likelihoods=scorer.log_likelihoods,
        answer_logprobs=None if logprobs is None else np.array([logprobs]),
    )
    return verdicts._replace(completion=np.array([completion], object))


def known_verdicts(
    tables: Iterable[pa.Table], encoded: Encoded, scorer: Scorer
) -> dict[LayerPath, Verdicts]:
    """Return the verdict [1] of each path of a question, if its prompt was the same.

    The identity path of an earlier version's run, whose rows lack the log-probabilities of whole
    answers that the scorer gives, is not known.
    """
    same = pc.field("asked") == asked_digest(encoded)
    rows = (row for table in tables for row in table.filter(same).to_pylist())
    return {
        tuple(row["path"]): stored_verdict(row, encoded.question, scorer)
        for row in rows
        if not (scorer.answer_logprobs and row["answer_logprobs"] is None and is_identity(row))
    }


def is_identity(row: Mapping[str, Any]) -> bool:
    """Return whether a row is of the identity path, or of the first layers of it."""
    return row["path"] == list(range(len(row["path"])))


def completion_columns(completion: Completion | None) -> dict[str, Any]:
    """Make the columns of a decoded text."""
    if completion is None:
        return {}
    columns = dict(vars(completion))
    columns["answer_text"] = columns.pop("answer")  # of a row, `answer` is an option
    return columns | {"grade": completion.grade and completion.grade.value}


def question_row(encoded: Encoded, evaluations: int) -> dict[str, Any]:
    """Make a question's row, without the columns of searches."""
    question = encoded.question
    return {
        "question": question.id,
        "text": question.text,
        "options": question.options,
        "gold": question.answer if question.options else None,
        "num_tokens": encoded.num_tokens,
        "prompt": encoded.prompt,
        "prompt_hash": encoded.prompt_hash,
        "metadata": [{"name": name, "value": value} for name, value in question.metadata],
        "evaluations": evaluations,
        "key": question_key(question),
    }


def search_part(batch: Sequence[Encoded], outcomes: Sequence[Outcome]) -> Part:
    """Make the rows of the searches of a batch."""
    pairs = list(zip(batch, outcomes, strict=True))
    evaluations = [row for pair in pairs for row in search_evaluation_rows(*pair)]
    return Part(evaluations, [search_question_row(*pair) for pair in pairs])


def search_evaluation_rows(encoded: Encoded, outcome: Outcome) -> list[dict[str, Any]]:
    """Make the rows of the searches of one question, the search for gold first."""
    rows = evaluation_rows(encoded, outcome.paths, outcome.verdicts, outcome.lengths.tolist())
    control = outcome.target != outcome.question.answer
    for node, row in enumerate(rows):
        row |= {"target": outcome.target, "control": control}
        row["reused"] = bool(outcome.reused[node])
        if node:
            row |= {
                "wave": int(outcome.wave[node]),
                "parent": int(outcome.parent[node]),
                "edit": outcome.describe_edit(node),
            }
    return [
        *rows,
        *(row for other in outcome.controls for row in search_evaluation_rows(encoded, other)),
    ]


def search_question_row(encoded: Encoded, outcome: Outcome) -> dict[str, Any]:
    """Summarize the searches of one question."""
    best, answers, again = outcome.shortest_correct, outcome.verdicts.answer, outcome.again
    plain, options = int(answers[0]), len(outcome.question.options)
    first = outcome.verdicts.take([ROOT])
    scores = first.scores[:, :options] if again is None else again.scores
    logprobs = first.answer_logprobs[:, :options] if again is None else again.logprobs
    return question_row(encoded, outcome.evaluations) | {
        "baseline": outcome.baseline,
        "baseline_answer": plain,
        "best": None if best is None else outcome.paths[best],
        "confirmed": outcome.confirmed,
        "front": [outcome.paths[i] for i in outcome.front],
        "baseline_scores": scores.tolist(),
        "baseline_logprobs": stored_logprobs(logprobs),
        "answers": len(set(answers.tolist()) - {NO_ANSWER}),
        "controls": control_rows(outcome),
        "again": again_rows(outcome),
        "again_answers": None if again is None else again.plain,
    }


def again_rows(outcome: Outcome) -> list[dict[str, Any]] | None:
    """List the paths of a search that were asked again."""
    if outcome.again is None:
        return None
    held = zip(outcome.again.nodes, outcome.again.holds.tolist(), strict=True)
    return [{"node": i, "path": outcome.paths[i], "holds": holds} for i, holds in held]


def control_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Summarize the control searches of a question."""
    known, rows = set(outcome.paths), []
    for control in outcome.controls:
        best = control.shortest_correct
        rows.append(
            {
                "target": control.target,
                "best": None if best is None else control.paths[best],
                "again": again_rows(control),
                "evaluations": control.evaluations,
                "shared": sum(path in known for path in control.paths),
            }
        )
        known.update(control.paths)
    return rows


def fields_of(kind: pa.DataType) -> list[pa.Field]:
    """Return the fields of the structs in a list; none of other types."""
    is_nested = pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    return list(kind.value_type) if is_nested else []


def text_name(name: str) -> str:
    """Return the name of the texts of the paths of a column or field."""
    return "steps" if name == "path" else f"{name}_steps"


def stored_fields(fields: Iterable[pa.Field]) -> list[pa.Field]:
    """Return fields with those of the texts of paths, as in files of runs with parts or shares."""
    stored = []
    for field in fields:
        if nested := fields_of(field.type):
            field = field.with_type(pa.list_(pa.struct(stored_fields(nested))))
        stored.append(with_float_length(field))
        if field.name in PATHS:
            text = pa.string() if field.type == PATH else pa.list_(pa.string())
            stored.append(pa.field(text_name(field.name), text))
    return stored


def loaded_fields(fields: Iterable[pa.Field]) -> list[pa.Field]:
    """Return fields whose paths have ids of 32 bits, as such runs have them in memory."""
    loaded = []
    for field in fields:
        if nested := fields_of(field.type):
            field = field.with_type(pa.list_(pa.struct(loaded_fields(nested))))
        elif field.name in PATHS:
            field = field.with_type(STEPS if field.type == PATH else pa.list_(STEPS))
        loaded.append(with_float_length(field))
    return loaded


def with_float_length(field: pa.Field) -> pa.Field:
    """Return the field of lengths as one that may have fractions; others as they are."""
    return field.with_type(pa.float32()) if field.name == "length" else field


STORED_STEPS = {each: pa.schema(stored_fields(each)) for each in (EVALUATIONS, QUESTIONS)}
LOADED_STEPS = {each: pa.schema(loaded_fields(each)) for each in (EVALUATIONS, QUESTIONS)}


def with_path_texts(row: Mapping[str, Any], fields: Iterable[pa.Field]) -> dict[str, Any]:
    """Add to a row, or a struct in it, the texts of its paths; lists of steps become null."""
    out = dict(row)
    for field in fields:
        name = field.name
        value = row.get(name)
        if value is None:
            continue
        if nested := fields_of(field.type):
            out[name] = [with_path_texts(each, nested) for each in value]
        elif name in PATHS and field.type == PATH:
            out[name] = whole_or_none(value)
            out[text_name(name)] = format_path(value)
        elif name in PATHS:
            out[name] = list(map(whole_or_none, value))
            out[text_name(name)] = list(map(format_path, value))
    return out


def from_texts(row: Mapping[str, Any], fields: Iterable[pa.Field]) -> dict[str, Any]:
    """Return fields of a row with their paths as ids of steps, whose texts are beside them."""
    out = {}
    for field in fields:
        name = field.name
        out[name] = row[name]
        nested = fields_of(field.type)
        if nested and row[name] is not None:
            out[name] = [from_texts(each, nested) for each in row[name]]
        elif name in PATHS:
            texts = row[text_name(name)]
            if isinstance(texts, list):
                out[name] = [parse_stored(text) for text in texts]
            elif texts is not None:
                out[name] = parse_stored(texts)
    return out


def whole_or_none(path: LayerPath) -> LayerPath | None:
    """Return a path of whole layers, None for another."""
    return path if is_whole_path(path) else None


def encode_part(schema: pa.Schema, rows: Iterable[dict[str, Any]], mark: str) -> bytes:
    """Return the content of a file of rows with these columns, and the mark of its run."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({MARK: mark.encode()}))
    # a driver writes a hundred tables of questions a second: only their long texts are compressed
    texts: Any = dict.fromkeys(["text", "prompt"], "zstd")
    compression = texts if "prompt" in schema.names else "zstd"
    # of prompts, which are long and alike, statistics would take more bytes than the texts
    pq.write_table(table, sink, compression=compression, write_statistics=False)
    return sink.getvalue().to_pybytes()


def host_name(name: str | None = None) -> str:
    """Return the name of a host, this one by default, as names of part files have it.

    Keeps the last 40 characters, which tell the hosts of a cluster apart.
    """
    name = name or platform.node() or "unknown"
    return re.sub("[^A-Za-z0-9_]", "_", name)[-40:]


def part_stem(start: str, number: int, questions: int, machine: str | None) -> str:
    """Return the beginning of the names of a part's files: its start, place and machine."""
    end = f"{number:05d}-{questions}-{host_name(machine)}-{uuid.uuid4().hex[:8]}"
    return f"part-s{start}-{end}" if start else f"part-{end}"


def start_of(name: str) -> str:
    """Return the start that wrote a part, by its name; "" for parts of earlier versions."""
    match = PART.match(name)
    return (match["start"] if match else None) or ""


def part_name(stem: str, content: bytes) -> str:
    """Return the name of a file with this content."""
    return f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.parquet"


def read_part(
    file: epath.Path, schema: pa.Schema, layout: RowLayout, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read columns of one file of rows, by default those of its schema.

    Columns of later versions are null, and fields of earlier ones are left out; paths are ids of
    steps (`RowLayout.loaded`). Raises InputError for a file that was changed after it was written,
    or of another run.
    """
    with reading(file, "Remove it, and its questions are evaluated again."):
        content = read_bytes(file)
        if file.name != part_name(file.name.partition(".")[0], content):
            raise InputError("it is damaged, or was changed or renamed after it was written")
        # a third of the time that `read_table` takes
        opened = pq.ParquetFile(pa.BufferReader(content))
        theirs = (opened.schema_arrow.metadata or {}).get(MARK, b"").decode()
        check_mark(theirs, layout.mark)
        loaded = layout.loaded(schema)
        names = schema.names if columns is None else list(columns)
        if layout.has_steps:
            return read_steps(opened, schema, loaded, names)
        table = opened.read([*names, *EARLIER.values()], use_threads=False)
        arrays = [stored_column(table, loaded.field(name)) for name in names]
        return pa.table(arrays, schema=pa.schema([loaded.field(name) for name in names]))


def read_steps(
    opened: pq.ParquetFile, schema: pa.Schema, loaded: pa.Schema, names: Sequence[str]
) -> pa.Table:
    """Read columns of a file whose paths may have parts and shares, the paths from their texts."""
    texts = [text_name(name) for name in names if name in PATHS]
    table = opened.read([*names, *texts], use_threads=False)
    fields = [schema.field(name) for name in names]
    rows = [from_texts(row, fields) for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=pa.schema([loaded.field(name) for name in names]))


def stored_column(table: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    """Return a column of this or of an earlier version."""
    present = [n for n in (field.name, EARLIER.get(field.name)) if n in table.column_names]
    if not present:
        return pa.nulls(len(table), field.type)
    column = table[present[0]]
    if column.type == field.type:
        return column
    return pa.array(column.to_pylist(), field.type)


def row_layout_of(settings: Mapping[str, Any]) -> RowLayout:
    """Return how a run of these first settings writes its rows."""
    parts = settings.get("part_costs")
    costs = LayerCosts(len(parts), settings.get("layer_costs"), parts) if parts else None
    return RowLayout(run_mark(settings), bool(settings.get("steps")), costs)


def run_mark(settings: Mapping[str, Any]) -> str:
    """Return what every part of a run carries: the digest of its first settings, and its model."""
    return " ".join(filter(None, [digest(settings), settings.get("model")]))


def check_mark(theirs: str, ours: str) -> None:
    """Raise InputError for the mark of another run; those of earlier versions have no model."""
    (settings, _, model), (own_settings, _, own_model) = theirs.partition(" "), ours.partition(" ")
    if settings == own_settings:
        return
    if model and model != own_model:
        raise InputError(
            f"it is of another run, of model {brief(model)} and not {brief(own_model)}"
        )
    raise InputError("it is of another run")


def questions_of(evaluations: list[dict[str, Any]] | bytes) -> set[str]:
    """Return the ids of the questions that evaluations are of: rows, or the content of a file."""
    if not isinstance(evaluations, bytes):
        return {row["question"] for row in evaluations}
    opened = pq.ParquetFile(pa.BufferReader(evaluations))
    return set(opened.read(["question"], use_threads=False)["question"].to_pylist())


def join(*tables: Iterable[pa.Table]) -> pa.Table:
    """Join tables a few at a time, as thousands of small ones take much memory."""
    remaining, joined = itertools.chain(*tables), []
    while batch := list(itertools.islice(remaining, JOINED)):
        joined.append(pa.concat_tables(batch).combine_chunks())
    return pa.concat_tables(joined)


def by_question(table: pa.Table) -> dict[str, pa.Table]:
    """Divide a table by question; the rows of a question keep their order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(table["question"].to_pylist()):
        rows[name].append(i)
    return {name: table.take(indices) for name, indices in rows.items()}
