"""Fixtures that write rows to a JSONL file or to a directory in the layout of the Hub."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cola_jax.tasks import harness


@pytest.fixture
def write(tmp_path):
    """Writes rows, or lines as they are, to a JSONL file and returns its path."""

    def write(*rows, name="task"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(f"{line}\n" for line in lines))
        return str(file)

    return write


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes (config, split, rows) to a directory in the layout of a Hub data set."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(*subsets):
        root, files = tmp_path / "hub", {}
        for config, split, rows in subsets:
            (root / config).mkdir(parents=True, exist_ok=True)
            file = root / config / f"{split}-00000-of-00001.parquet"
            pq.write_table(pa.Table.from_pylist(rows), file)
            files.setdefault(config, []).append({"split": split, "path": f"{config}/{split}-*"})
        configs = [{"config_name": name, "data_files": each} for name, each in files.items()]
        (root / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
        return str(root)

    return make


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes tasks of lm-evaluation-harness, which then knows no others; returns its manager."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "library"
    folder.mkdir()

    def make(**tasks):
        for name, fields in tasks.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | fields))
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        monkeypatch.setattr(harness, "manager", lambda: manager)
        return manager

    yield make
    harness.load_task.cache_clear()
