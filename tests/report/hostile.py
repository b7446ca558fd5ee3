"""Texts that would do harm in a page, in Markdown or in a spreadsheet, and runs that have them."""

from collections.abc import Iterable
from typing import Any

from tests.report.conftest import START, WHOLE, Part, answers, letters, merged

AWAY = "http://away.invalid"  # what a page must never load from
RUNS = "window.pwned=1"
TEXTS = {
    "script end": f"</script><script>{RUNS}</script>",
    "script in a comment": "<!--<script>",
    "image": f"<img src=x onerror={RUNS}>",
    "image from elsewhere": f"<img src={AWAY}/a.png><svg onload={RUNS}>",
    "style end": f"</style><style>*{{background:url({AWAY}/b.png)}}</style>",
    "title end": f"</title></textarea></noscript><iframe srcdoc='<script>{RUNS}</script>'>",
    "attribute": f'" onmouseover="{RUNS}" style=\'background:url({AWAY}/c.png)\' x="',
    "base": f"<base href={AWAY}/><meta http-equiv=refresh content='0;url={AWAY}'>",
    "script URL": f"javascript:{RUNS}",
    "CDATA": "]]>]]&gt;<![CDATA[<?php",
    "entities": "&lt;img src=x&gt;&#60;b&#62;&amp",
    "quotes": "'\"`\\ \\\\u003cb> \\x3c ${" + RUNS + "} */ //",
    "templates": "{{ 7 * 7 }}{% raw %}{# x #}<%= 7 %>",
    "separators": "a\u2028b\u2029c\x85d\r\ne\tf",
    "control": "\x00\x01\x08\x1b[31m\x7f\ufeff\ufffe",
    "directions": "\u202e\u2067\u200fdesrever\u2069\u2069",
    "prototype": "__proto__",
    "constructor": "constructor",
    "parent folder": "../../etc/passwd",
    "URL": f"%00%2F%zz&run=x#question=y+z?{AWAY}",
    "link": f"[x](javascript:{RUNS}) ![y]({AWAY}/d.png) <{AWAY}> | **b** `c` # d",
    "formula": f'=HYPERLINK("{AWAY}";"x")',
    "formula with a sign": "@SUM(1+1)*cmd|' /C calc'!A0",
    "marks": "Z" + "\u0335\u0317" * 60,
    "blank": " ",
    "rich": "[/b][red]:smile:[link=x]",
}


def letters_part(texts: Iterable[str]) -> Part:
    """Make a part whose questions have each text as their id, text, option and edit."""

    def made(text: str) -> Part:
        control = {"edit": text, "target": 2, "control": True}
        rows = [(WHOLE, 1, False), ((0, 1, 1), 0, True, {"edit": text}), ((0, 2), 2, True, control)]
        options = {"options": [text, "b", text], "control": 2, "control_reached": True}
        return letters(text, rows, text=text, best=(0, 1, 1), **options)

    return merged(map(made, texts))


def decoded_part(texts: Iterable[str]) -> Part:
    """Make a part whose completions and answers are each text."""

    def made(text: str) -> Part:
        columns = {"text": text, "edit": text}
        rows = [(WHOLE, text, False, columns), ((0, 3), text, True, columns)]
        return answers(text, rows, text=text, options=[text, text], best=(0, 3), control=None)

    return merged(map(made, texts))


def start_of(text: str) -> dict[str, Any]:
    """Make the record of a start in which all fields are this text."""
    return START | {
        "origin": {"kind": "hub", "name": text, "revision": text},
        "versions": {text: text},
        **dict.fromkeys(("model", "task", "split", "device", "date", "command"), text),
    }


def settings_of(text: str) -> dict[str, Any]:
    """Make settings that are this text wherever any text is allowed."""
    names = ("model", "task", "grader", "decoys", "dtype", "strategy")
    return {
        "preset": {text: text},
        "variants": {text: text},
        "prompt": {"format": {"name": text}, "shots": []},
        **dict.fromkeys(names, text),
    }
