"""Texts of a run in its report: shortened, in one line, and as they are in Markdown."""

import pytest
from markdown_it import MarkdownIt

from cola_jax.report.markdown import table
from cola_jax.report.text import MAX_NAME, line, literal, shorten
from tests.report.hostile import LONG, TEXTS


def test_shorten_removes_the_middle():
    assert shorten("a" * 9, 9) == "a" * 9
    assert shorten("abc" + "-" * 1000 + "defghi", 9) == "abc […1,000 characters left out…] defghi"


@pytest.mark.parametrize("text", [*TEXTS.values(), *LONG.values()], ids=[*TEXTS, *LONG])
def test_line_is_short_and_shown_as_it_is(text: str):
    one = line(text)
    assert one.isprintable()
    assert len(one) <= MAX_NAME
    if text.isprintable() and len(text) <= MAX_NAME:
        assert one == text
    else:
        assert "\ufffd" in one or "…" in one


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_literal_is_shown_as_it_is(text: str):
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    one = literal(text)
    tokens = reader.parse("\n".join([f"# {one}", "", *table(("", ""), [(one, "x")])]))
    heading, *_, cell, _ = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens].count("tr_open") == 2
    for inline in (heading, cell):
        assert {one.type for one in inline.children or ()} <= {"text", "text_special"}
        shown = "".join(one.content for one in inline.children or ())
        assert shown == " ".join(text.split()).replace("\0", "\ufffd")


def test_literal_leaves_names_as_they_are():
    name = "arc_easy, SmolLM2-135M 1.5 (5 shots)!"
    assert literal(name) == name
    assert literal("<0.1 %") == "\\<0.1 %"
