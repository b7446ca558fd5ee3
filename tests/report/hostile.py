"""Texts that would do harm in a page, in Markdown or in a spreadsheet, and runs that have them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.small_runs import START, WHOLE, Part, answers, letters, merged

TEXTS: dict[str, str] = json.loads(Path(__file__).with_name("hostile.json").read_text())


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
