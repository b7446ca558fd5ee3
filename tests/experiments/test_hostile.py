"""Hostile pages in a browser: without one, nothing is done."""

from pathlib import Path

import pytest

from experiments.hostile import Hostile


def test_nothing_is_made_without_a_browser(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Hostile(tmp_path / "pages", tmp_path / "chromium").run()
    assert capsys.readouterr().out.startswith("skipped: needs the package playwright, and a Chrom")
    assert not (tmp_path / "pages").exists()
