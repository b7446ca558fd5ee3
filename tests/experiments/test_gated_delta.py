"""A second kind of layer: Gated-DeltaNet runs through the engine as in transformers."""

import pytest

pytest.importorskip("transformers.models.qwen3_next")

from experiments.gated_delta import Theirs, compare


@pytest.mark.slow
def test_gated_delta_layers_match_transformers():
    """Continuations, a layer that is run twice and decoding, all after a shared prefix."""
    assert max(compare(Theirs(), (17, 20), [(0, 0, 1)], prefix=16)) < 1e-4
