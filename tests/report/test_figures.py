import re
import sys
from pathlib import Path
from typing import Any

import pytest

from cola_jax.report import summarise
from cola_jax.report.figures import INK, layer_heatmap, length_histogram
from cola_jax.report.summary import Summary
from tests.report.conftest import ONLY_CORRECTED, ONLY_RETAINED, ONLY_WRONG, make_run


@pytest.fixture(scope="module")
def histogram(summary: Summary) -> str:
    return length_histogram(summary)


@pytest.fixture(scope="module")
def heatmap(summary: Summary) -> str:
    return layer_heatmap(summary)


def test_figures_can_be_embedded_in_any_page(histogram: str, heatmap: str):
    for svg in (histogram, heatmap):
        assert svg.startswith('<svg role="img" aria-label=')
        assert "currentColor" in svg
        assert INK not in svg
        assert "<style" not in svg  # it would apply to the whole page
    ids = re.findall(r' id="([^"]+)"', histogram + heatmap)
    assert len(ids) == len(set(ids))


def test_length_histogram_labels_groups_and_identity(histogram: str):
    assert ">L = 4<" in histogram
    assert ">C→C (2)<" in histogram
    assert ">all correct evaluations<" in histogram


def test_layer_heatmap_labels_groups(heatmap: str):
    assert ">W→C (2)<" in heatmap
    assert ">all evaluated (13)<" in heatmap


@pytest.mark.parametrize("part", [ONLY_RETAINED, ONLY_CORRECTED, ONLY_WRONG])
def test_figures_of_empty_groups(tmp_path: Path, part: Any):
    summary = summarise(make_run(tmp_path, part))
    assert ">L = 4<" in length_histogram(summary)
    assert ">all evaluated (" in layer_heatmap(summary)


@pytest.mark.parametrize("draw", [length_histogram, layer_heatmap])
def test_figures_name_missing_matplotlib(
    summary: Summary, monkeypatch: pytest.MonkeyPatch, draw: Any
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'cola-jax\[report\]'"):
        draw(summary)
