"""What XLA makes of the device programs for a GPU, where its compiler is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

needed = any(importlib.util.find_spec(f"jax_cuda{cuda}_plugin") for cuda in (12, 13))


@pytest.mark.skipif(not needed, reason="needs the packages of cola-jax[cuda13]")
def test_no_program_copies_a_weight(tmp_path):
    out = tmp_path / "table.json"
    command = [sys.executable, "-m", "experiments.gpu_compile", "--models", "llama-3.2-1b"]
    # of a test run are other flags and the precision of products
    kept = {name: value for name, value in os.environ.items() if name[:4] not in ("XLA_", "JAX_")}
    subprocess.run([*command, "--out", out], env=kept, check=True)
    table = json.loads(out.read_text())["table"]
    assert len(table) == 10
    for row in table:
        assert row["copied"] == []
        assert row["kernels"] <= 30
        assert row["fused_attention"] == (row["program"] != "decode step")


@pytest.mark.skipif(needed, reason="the compiler is there")
def test_the_missing_compiler_is_named():
    command = [sys.executable, "-m", "experiments.gpu_compile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith('pip install "jax[cuda13]".\n')
