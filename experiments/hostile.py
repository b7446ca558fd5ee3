"""Opens the pages of hostile runs in Chromium: nothing runs, nothing loads, all text is shown.

Makes runs whose ids, texts, options, settings and names are markup, script ends, separators or a
megabyte long, by hand and by `cola search` and `cola scan` with a tiny random model. Every page is
opened from disk and used (questions, links, filters, tables, downloads, hovering), as it is and
without its policy, where escaping alone must hold; every Markdown file is opened as HTML; and
markup put into a page must be stopped by the policy alone. Needs the package `playwright` and a
Chromium.

    python -m experiments.hostile --output /tmp/hostile
"""

import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tyro
from markdown_it import MarkdownIt

from tests.report.hostile import AWAY, RUNS

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SCREENS = {"desktop": (1400, 900), "phone": (390, 844)}
SLOW = 5.0  # seconds to open a page or a question, on a busy machine
LINKED = 2000  # characters of an id that has a link
MARKUP = {  # what the policy has to stop, by what it says then
    "script-src-elem inline": f"<script>{RUNS}</script>",
    "script-src-attr inline": f"<svg onload={RUNS}></svg>",
    f"script-src-elem {AWAY}/a.js": f"<script src={AWAY}/a.js></script>",
    "style-src-elem inline": "<style>p { color: red }</style>",
    f"img-src {AWAY}/a.png": f"<img src={AWAY}/a.png>",
    f"frame-src {AWAY}": f"<iframe src={AWAY}></iframe>",
}
BLOCKED = "blocked by the policy: "
WATCH = """
window.trouble = [];
Object.defineProperty(window, "pwned", { set: () => trouble.push("the script of a text ran") });
for (const name of ["alert", "confirm", "prompt", "open"]) {
  window[name] = () => trouble.push(`${name} was called`);
}
document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
  trouble.push(`blocked by the policy: ${violatedDirective} ${blockedURI}`));
window.globals = [...Object.getOwnPropertyNames(window), "globals"];
"""
USE = """async () => {  // everything that a reader can press but the questions
  const wait = () => new Promise((done) => setTimeout(done));
  const details = document.querySelectorAll("details.settings, .figure-tools details");
  for (const node of details) node.open = true;
  for (const input of document.querySelectorAll("fieldset input")) { input.click(); await wait(); }
  document.querySelector("fieldset input")?.click();
  for (const select of document.querySelectorAll("select")) {
    for (let i = select.options.length - 1; i >= 0; i--) {
      select.selectedIndex = i;
      select.dispatchEvent(new Event("change"));
    }
  }
  const search = document.querySelector("[type=search]");
  for (const value of search ? ["<img", "__proto__", ""] : []) {
    search.value = value;
    search.dispatchEvent(new Event("input"));
    await wait();
  }
  for (const button of document.querySelectorAll(".figure-tools button, .more")) button.click();
  for (const node of [...document.querySelectorAll("svg, svg *")].slice(0, 3000)) {
    for (const type of ["pointermove", "pointerdown", "pointerleave"]) {
      node.dispatchEvent(new PointerEvent(type, { bubbles: true, clientX: 300, clientY: 300 }));
    }
  }
}"""
OPEN = """async (at) => {  // a question, its paths in every order, its completions
  const details = document.querySelectorAll("#questions > details")[at];
  const started = performance.now();
  details.open = true;
  while (!details.querySelector(".paths li")) await new Promise((done) => setTimeout(done, 5));
  details.scrollIntoView();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const seconds = (performance.now() - started) / 1000;
  for (const select of details.querySelectorAll("select")) {
    for (let i = select.options.length - 1; i >= 0; i--) {
      select.selectedIndex = i;
      select.dispatchEvent(new Event("change"));
    }
  }
  for (const one of details.querySelectorAll(".completion")) one.open = true;
  const texts = (css) => [...details.querySelectorAll(css)].map((node) => node.textContent);
  details.open = false;
  return {
    seconds,
    texts: [".id", ".prompt", ".option", ".verdict bdi", ".completion pre"].map(texts),
  };
}"""
OPENED = """() => [...document.querySelectorAll("#questions > details[open] .id")]
  .map((node) => node.textContent)"""
FOREIGN = """() => {  // elements and attributes that no page of ours has
  const names = "img, iframe, object, embed, base, link, audio, video, textarea, body style";
  const events = (node) => node.getAttributeNames().some((name) => name.startsWith("on"));
  const address = (node) => /^(https?|javascript|data):/.test(node.getAttribute("href") ?? "");
  return [...document.querySelectorAll("*")]
    .filter((node) => node.matches(names) || events(node) || address(node))
    .map((node) => node.outerHTML);
}"""


@dataclasses.dataclass(frozen=True)
class Hostile:
    """Make the pages of hostile runs, and use each of them in Chromium."""

    output: Path
    """New folder for the runs, their pages and pictures of them."""
    browser: Path = Path("/usr/bin/chromium")
    """Chromium."""

    def run(self) -> None:
        if importlib.util.find_spec("playwright") is None or not self.browser.exists():
            print(f"skipped: needs the package playwright, and a Chromium at {self.browser}.")
            return
        from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

        from experiments.hostile_runs import make_pages

        (self.output / "pictures").mkdir(parents=True)
        pages, failed = list(make_pages(self.output)), 0
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=str(self.browser), args=FLAGS)
            for name, page in [*pages, *variants(pages)]:
                visit = Visit(name, page, self.output / "pictures")
                visit.run(chromium)
                failed += bool(visit.troubles)
                print(name, visit.seconds, *(visit.troubles[:5] or ["ok"]), sep="\n  ", flush=True)
            chromium.close()
        sys.exit(f"{failed} pages have trouble." if failed else 0)


def variants(pages: list[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Writes pages without the policy, the Markdown as HTML, and a page with markup put in."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for name, page in pages:
        if not page.with_name(f"{page.stem}_files").exists():
            content = page.read_text()
            start, end = content.index("<meta http-equiv"), content.index("<title>")
            yield f"{name}, without its policy", written(page, content[:start] + content[end:])
        if page.with_suffix(".md").exists():
            content = reader.render(page.with_suffix(".md").read_text())
            yield f"{name}, Markdown", written(page, f'<meta charset="utf-8">{content}')
    name, page = pages[0]
    content = page.read_text().replace("<main>", f"<main>{''.join(MARKUP.values())}")
    yield f"{name}, markup put in", written(page, content)


def written(page: Path, content: str) -> Path:
    """Writes a file beside a page."""
    number = len(list(page.parent.iterdir()))
    file = page.with_name(f"variant-{number}.html")
    file.write_text(content)
    return file


class Visit:
    """One page: what went wrong there, and how long it took."""

    def __init__(self, name: str, page: Path, pictures: Path):
        self.name, self.page, self.pictures = name, page.resolve(), pictures
        self.troubles: list[str] = []
        self.seconds: dict[str, float] = {}

    def run(self, chromium: Any) -> None:
        tab = chromium.new_page()
        tab.add_init_script(WATCH)
        tab.on("request", self.note_request)
        tab.on("console", lambda message: self.note(f"console: {message.text}"))
        tab.on("pageerror", lambda error: self.note(f"error: {error}"))
        tab.on("dialog", lambda dialog: (self.note("a dialog"), dialog.dismiss()))
        started = time.perf_counter()
        tab.goto(self.page.as_uri())
        self.took("open", time.perf_counter() - started)
        if "put in" in self.name:
            tab.wait_for_timeout(500)
            blocked = {one.removeprefix(BLOCKED) for one in tab.evaluate("trouble")}
            self.troubles = [f"blocked otherwise: {one}" for one in blocked ^ set(MARKUP)]
        else:
            self.use(tab)
            self.look(tab)
        tab.close()

    def note(self, text: str) -> None:
        self.troubles.append(text if len(text) < 200 else f"{text[:200]}…")

    def took(self, what: str, seconds: float) -> None:
        self.seconds[what] = max(round(seconds, 2), self.seconds.get(what, 0))
        if seconds > SLOW:
            self.note(f"{what}: {seconds:.1f} s")

    def note_request(self, request: Any) -> None:
        """Notes requests other than for the page, the files beside it and its downloads."""
        address = unquote(request.url.partition("#")[0])
        beside = f"file://{self.page.parent / self.page.stem}_files/questions-"
        if address != f"file://{self.page}" and not address.startswith((beside, "blob:")):
            self.note(f"request: {address}")

    def use(self, tab: Any) -> None:
        """Presses everything, opens every question, and compares what it shows."""
        tab.evaluate(USE)
        if tab.locator("#questions").count():
            questions = json.loads(tab.locator("#data").text_content())["questions"]
            for at, question in enumerate(questions):
                self.compare(question["id"], tab.evaluate(OPEN, at))
            for question in questions:
                self.follow(tab, question["id"])
        for one in (*tab.evaluate("trouble"), *tab.evaluate(FOREIGN)):
            self.note(f"trouble: {one}")
        made = tab.evaluate("Object.getOwnPropertyNames(window)")
        if new := set(made) - {*tab.evaluate("globals"), "colaQuestions"}:
            self.note(f"globals: {new}")

    def compare(self, text: str, shown: dict[str, Any]) -> None:
        """Compares an open question with what it was made from: all its texts are its id."""
        self.took("open a question", shown["seconds"])
        [id, [prompt], [option, *_], answers, completions] = shown["texts"]
        for one in (*id, prompt, option, *answers, *completions):
            if one != text and "characters left out" not in one:
                self.note(f"{text[:60]!r} is shown as {one[:60]!r}")

    def follow(self, tab: Any, id: str) -> None:
        """Follows the link to a question."""
        if len(id) > LINKED:
            return
        tab.evaluate("(id) => { location.hash = `#question=${encodeURIComponent(id)}`; }", id)
        tab.wait_for_timeout(20)
        if id not in (opened := tab.evaluate(OPENED)):
            self.note(f"the link to {id[:60]!r} opens {str(opened)[:100]}")

    def look(self, tab: Any) -> None:
        """Takes pictures on each screen, and notes where a page is wider than its screen."""
        if "Markdown" in self.name:  # has no style of ours
            return
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            for screen, (width, height) in SCREENS.items():
                tab.set_viewport_size({"width": width, "height": height})
                tab.wait_for_timeout(100)
                wide = tab.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    self.note(f"{wide} pixels wide on a {screen} of {width}")
                file = f"{self.name}-{screen}-{scheme}.png".replace(" ", "-")
                tab.screenshot(path=self.pictures / file)


if __name__ == "__main__":
    tyro.cli(Hostile).run()
