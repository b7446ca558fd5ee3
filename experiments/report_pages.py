"""Measure the page of a large search: its weight, and how fast it opens in Chromium.

Write a run of made-up verdicts with real sizes and its page. Opening it needs the package
`playwright` and a Chromium; without them only the weight is measured.

    python -m experiments.report_pages --output /tmp/pages --browser /usr/bin/chromium
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from cola_jax.report import summarise, write_search_page
from cola_jax.runs.run import Run

LAYERS = 30
WORDS = ("what", "heat", "water", "energy", "planet", "force", "plant", "light", "the", "of", "is")
START = {"num_layers": LAYERS, "model": "made-up-model", "task": "made-up-task"}


@dataclasses.dataclass(frozen=True)
class ReportPages:
    """Write the page of a made-up search and measure it."""

    output: Path
    """Where the run and the page go."""
    questions: int = 3000
    paths: int = 40
    """Paths evaluated for each question, and for its control search."""
    characters: int = 300
    """Length of a question's text."""
    browser: str | None = None
    """Chromium to open the page with."""

    def run(self) -> None:
        run = Run(self.output / "run")
        if not run.directory.exists():
            settings = {"command": "search", "questions": self.questions, "simulations": self.paths}
            random = np.random.default_rng(0)
            with run.open(settings, START):
                for first in range(0, self.questions, 50):
                    names = [f"made-up-{i}" for i in range(first, min(first + 50, self.questions))]
                    made = [make_question(name, self, random) for name in names]
                    run.write([row for rows, _ in made for row in rows], [q for _, q in made])
        page = self.output / "report.html"
        started = time.perf_counter()
        write_search_page([run], [summarise(run)], page)
        files = sorted((self.output / "report_files").glob("*"))
        beside = sum(file.stat().st_size for file in files)
        print(f"written in {time.perf_counter() - started:.1f} s")
        print(f"page {page.stat().st_size / 1e6:.2f} MB, {len(files)} files {beside / 1e6:.1f} MB")
        if self.browser is not None:
            for name, milliseconds in opening_times(page, self.browser).items():
                print(f"{name}: {milliseconds:.0f} ms")


def make_question(
    name: str, sizes: ReportPages, random: np.random.Generator
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Make the evaluations of a question and of its control search, and the question's row."""
    plain = int(random.integers(2))  # the pretrained model's answer
    own, control = (make_search(name, sizes.paths, random, target, plain) for target in (0, 2))
    right, reached = ([row for row in rows if row["verdict"]] for rows in (own, control))
    best, other = (
        min((row["path"] for row in rows), key=len, default=None) for rows in (right, reached)
    )
    words = " ".join(random.choice(WORDS, sizes.characters // 4))
    question = {
        "question": name,
        "text": words[: sizes.characters],
        "options": [" ".join(random.choice(WORDS, 5)) for _ in range(4)],
        "gold": 0,
        "baseline": plain == 0,
        "baseline_answer": plain,
        "best": best,
        "confirmed": None if best is None else True,
        "front": [] if best is None else [best],
        "baseline_scores": [[-1.0 if j == plain else -2.0 - j for j in range(4)]],
        "controls": [{"target": 2, "best": other, "evaluations": sizes.paths, "shared": 8}],
        "answers": len({row["answer"] for row in own}),
        "evaluations": len(own),
    }
    return own + control, question


def make_search(
    name: str, paths: int, random: np.random.Generator, target: int, plain: int
) -> list[dict[str, Any]]:
    """Make the evaluations of one search."""
    rows = []
    for node in range(paths):
        path = edited(random) if node else list(range(LAYERS))
        answer = int(random.choice(4, p=(0.05, 0.8, 0.03, 0.12))) if node else plain
        margin = abs(float(random.normal()))
        rows.append(
            {
                "question": name,
                "path": path,
                "length": len(path),
                "verdict": answer == target,
                "margin": margin if answer == target else -margin,
                "answer": answer,
                "finite": True,
                "node": node,
                "wave": -(-node // 16),
                "parent": int(random.integers(node)) if node else None,
                "edit": "skip 2 at 11" if node else None,
                "target": target,
                "control": target != 0,
            }
        )
    return rows


def edited(random: np.random.Generator) -> list[int]:
    """Make a path by two or three skips, repeats and moves of blocks."""
    path = list(range(LAYERS))
    for kind in random.integers(0, 3, random.integers(2, 4)):
        start, size = int(random.integers(len(path) - 4)), int(random.integers(1, 5))
        block = path[start : start + size]
        path[start : start + (0 if kind == 1 else size)] = block if kind == 1 else []
        if kind == 2:
            at = int(random.integers(len(path)))
            path[at:at] = block
    return path


def opening_times(page: Path, browser: str) -> dict[str, float]:
    """Open the page and return the milliseconds until its parts are there."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    watch = """new MutationObserver((_, observer) => {
        if (!document.querySelector("figure svg")) return;
        window.firstFigure = performance.now();
        observer.disconnect();
    }).observe(document, { childList: true, subtree: true });"""
    read = """() => ({
        "first figure drawn": window.firstFigure,
        "page loaded": performance.getEntriesByType("navigation")[0].loadEventEnd,
    })"""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=flags)
        tab = chromium.new_page(viewport={"width": 1400, "height": 900})
        tab.add_init_script(watch)
        tab.goto(page.resolve().as_uri())
        times = tab.evaluate(read)
        started = time.perf_counter()
        tab.locator("#questions summary").first.click()
        tab.locator("#questions .paths li").first.wait_for()
        times["first question opened after the click"] = 1000 * (time.perf_counter() - started)
        chromium.close()
    return times


if __name__ == "__main__":
    tyro.cli(ReportPages).run()
