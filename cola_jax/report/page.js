"use strict";
// Draws the question browser. Inserts all text as text nodes, so that no text of a run can become markup.
(() => {
  const { layers: L, open, decodes, questions } = JSON.parse(document.getElementById("data").textContent);
  const PAGE_SIZE = 200; // questions listed at once, to keep long lists responsive
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const SVG = "http" + "://www.w3.org/2000/svg"; // a namespace, never fetched
  const browser = document.getElementById("browser");
  const list = document.getElementById("questions");
  const [more, status] = [browser.querySelector(".more"), browser.querySelector("[role=status]")];

  function element(name, attributes = {}, ...children) {
    const isSvg = ["svg", "rect", "path", "text", "g", "title"].includes(name);
    const node = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  // Parses the text form of a path, such as 0-5,7,7,(8-9)x2.
  function parsePath(text) {
    return text.split(/,(?![^()]*\))/).flatMap((part) => {
      const group = part.match(/^\((.*)\)x(\d+)$/);
      const block = (group ? group[1] : part).split(",").flatMap((item) => {
        const [first, last = first] = item.split("-").map(Number);
        return Array.from({ length: last - first + 1 }, (_, i) => first + i);
      });
      return Array(group ? Number(group[2]) : 1).fill(block).flat();
    });
  }

  // Draws a cell per layer: hatched if skipped, darker with a count if repeated, framed if it first
  // runs after a later layer. An arc marks each jump back.
  function pathDiagram(path, correct, size) {
    const [counts, moved, jumps] = [Array(L).fill(0), new Set(), new Map()];
    let highest = -1;
    path.forEach((layer, i) => {
      if (!counts[layer]++ && layer < highest) moved.add(layer);
      highest = Math.max(highest, layer);
      const previous = path[i - 1];
      if (i && layer <= previous) jumps.set(`${previous} ${layer}`, [previous, layer]);
    });
    const [top, height] = [9, 14];
    const svg = element("svg", {
      class: correct === null ? "wrong ungraded" : correct ? "correct" : "wrong",
      width: L * size, height: top + height + 1, role: "img", "aria-label": describe(counts, moved),
    });
    counts.forEach((count, layer) => {
      const cell = element("rect", {
        class: `c${Math.min(count, 3)}${moved.has(layer) ? " moved" : ""}`,
        x: layer * size + 0.75, y: top + 0.5, width: size - 1.5, height: height - 1,
      });
      cell.append(element("title", {}, `layer ${layer}: ${count ? `run ${count}×` : "skipped"}`));
      svg.append(cell);
      if (count > 1) {
        const name = count > 9 ? "count small" : "count";
        svg.append(element("text", { class: name, x: (layer + 0.5) * size, y: top + 10.5 }, count));
      }
    });
    for (const [from, to] of jumps.values()) {
      const [a, b] = [(from + 0.5 + (from === to) * 0.28) * size, (to + 0.5 - (from === to) * 0.28) * size];
      svg.append(element("path", { class: "loop", d: `M${a} ${top} C${a} 0 ${b} 0 ${b} ${top}` }));
    }
    return svg;
  }

  function describe(counts, moved) {
    const skipped = counts.flatMap((count, layer) => (count ? [] : [layer]));
    const repeated = counts.flatMap((count, layer) => (count > 1 ? [`${layer} ×${count}`] : []));
    const parts = [];
    if (skipped.length) parts.push(`skips ${skipped.join(", ")}`);
    if (repeated.length) parts.push(`repeats ${repeated.join(", ")}`);
    if (moved.size) parts.push(`out of order ${[...moved].join(", ")}`);
    return parts.join("; ") || "every layer once, in order";
  }

  function ruler(size) {
    const svg = element("svg", { width: L * size, height: 12, "aria-hidden": "true" });
    const step = L * size < 300 ? 10 : 5;
    for (let layer = 0; layer < L; layer += step) {
      svg.append(element("text", { class: "ruler", x: (layer + 0.5) * size, y: 10 }, layer));
    }
    return svg;
  }

  const letter = (answer) => (answer < 0 ? "no answer" : LETTERS[answer] ?? String(answer));
  const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);

  // The answer on a path. A model's text gets an element of its own, so that its direction cannot
  // affect what surrounds it.
  function answerOf(question, answer, margin, completion) {
    if (completion) return completion[0] === null ? "no answer found" : element("bdi", {}, completion[0]);
    if (!open) return letter(answer);
    if (margin === null) return "no answer";
    return answer === question.gold ? "gold" : answer === question.control ? "control" : "other";
  }

  function ending([, , finish, truncated, tokens]) {
    const reason = truncated ? ", truncated by the token limit" : finish === "not finite" ? ", then not finite" : "";
    return ` · ${tokens} token${tokens === 1 ? "" : "s"}${reason}`;
  }

  function completionText(text) {
    return element("details", { class: "completion" },
      element("summary", {}, "decoded text"), element("pre", {}, text));
  }

  function pathItem(question, [text, correct, margin, answer, node, parent, edit, best, front, index], size) {
    const path = parsePath(text);
    const completion = index === undefined ? null : question.completions[index];
    const names = [
      node ? "" : "identity path", best ? "shortest correct" : "",
      front && correct === 0 ? "shortest wrong" : "", correct === null ? "ungraded" : "",
    ].filter(Boolean);
    const outcome = element("div", { class: "outcome" },
      element("span", { class: `verdict ${correct ? "correct" : ""}` },
        correct === null ? "? " : correct ? "✓ " : "✗ ", answerOf(question, answer, margin, completion)),
      ` · ${path.length} layer${path.length === 1 ? "" : "s"}`,
      margin === null ? " · margin not finite" : correct === null ? "" : ` · margin ${signed(margin)}`,
      completion ? ending(completion) : "",
      names.length ? element("b", {}, ` · ${names.join(", ")}`) : "",
      element("br"),
      element("span", { class: "mono" }, text),
      element("span", { class: "muted" },
        node ? `  #${node}${edit === null ? "" : ` = #${parent ?? "?"}, ${edit}`}` : "  #0"),
      completion ? completionText(completion[1]) : "");
    const box = element("div", { class: "wide" }, pathDiagram(path, correct, size));
    return element("li", {}, box, outcome);
  }

  function optionItem(question, option, j) {
    const marks = [];
    const mark = (kind, text) => marks.push(element("span", { class: `mark ${kind}` }, text));
    if (j === question.gold && !open) mark("gold", "correct answer");
    if (j === question.baseline) mark("baseline", "answered before");
    const reached = question.control_reached ? "reached" : "not reached";
    if (j === question.control) mark("control", open ? reached : `control: ${reached}`);
    const role = j === question.gold ? "correct answer" : j === question.control ? "control" : "no control";
    return element("li", { class: j === question.gold ? "gold" : "" },
      element("span", { class: open ? "role" : "letter" }, open ? role : letter(j)),
      element("bdi", { class: "option" }, option), ...marks);
  }

  function fillDetails(details, question) {
    const body = element("div", { class: "body" });
    details.append(body);
    const room = body.clientWidth - (innerWidth > 992 ? 430 : 30);
    const size = Math.max(10, Math.min(20, Math.floor(room / L)));
    const outcomes = decodes ? ["different text", "same text"] : ["wrong", "correct"];
    const confirmed = question.confirmed === null ? ""
      : ` · shortest correct path in float32: ${outcomes[Number(question.confirmed)]}`;
    body.append(
      element("p", { class: "note" },
        `${question.id} · ${question.evaluations} evaluations, ${question.paths.length} shown${confirmed}`),
      element("ul", { class: "options" }, ...question.options.map((option, j) => optionItem(question, option, j))),
      element("ul", { class: "paths" },
        element("li", { "aria-hidden": "true" }, element("div", { class: "wide" }, ruler(size))),
        ...question.paths.map((path) => pathItem(question, path, size))));
  }

  function questionItem(question) {
    const { kind, best } = question;
    const outcome = { "W→C": "corrected", "W→W": "uncorrected" }[kind] ?? "";
    const details = element("details", { class: "question" },
      element("summary", {},
        element("span", { class: `kind ${outcome}` }, kind),
        element("span", { class: "text" }, question.text),
        element("span", { class: "change" }, best === null ? "no correct path" : `${L} → ${best} layers`)));
    details.addEventListener("toggle", () => fillDetails(details, question), { once: true });
    return details;
  }

  const kinds = {
    all: () => true,
    "C→C": (q) => q.kind === "C→C",
    "C→C shorter": (q) => q.kind === "C→C" && q.best < L,
    "W→C": (q) => q.kind === "W→C",
    "W→W": (q) => q.kind === "W→W",
  };
  const ungraded = (q) => q.kind.startsWith("?");
  if (questions.some(ungraded)) kinds["ungraded before"] = ungraded;
  const answers = (q) => q.completions.map(([answer]) => answer ?? "");
  const searchable = new Map(
    questions.map((q) => [q, [q.id, q.text, ...q.options, ...answers(q)].join("\n").toLowerCase()]));
  const search = browser.querySelector("[type=search]");
  let [kind, matches, shown] = ["all", questions, 0];

  function showMore() {
    const next = matches.slice(shown, shown + PAGE_SIZE);
    list.append(...next.map(questionItem));
    shown += next.length;
    more.hidden = shown === matches.length;
    more.textContent = `Show ${Math.min(PAGE_SIZE, matches.length - shown)} more`;
  }

  function update() {
    const query = search.value.trim().toLowerCase();
    matches = questions.filter((q) => kinds[kind](q) && searchable.get(q).includes(query));
    status.textContent = `${matches.length} of ${questions.length}`;
    list.replaceChildren();
    shown = 0;
    showMore();
  }

  for (const [name, belongs] of Object.entries(kinds)) {
    const input = element("input", { type: "radio", name: "kind", value: name });
    input.checked = name === kind;
    input.addEventListener("change", () => { kind = name; update(); });
    browser.querySelector("fieldset").append(
      element("label", {}, input, element("span", {}, `${name} ${questions.filter(belongs).length}`)));
  }
  search.addEventListener("input", update);
  more.addEventListener("click", showMore);

  const samples = [
    [[0], true, "run once, path correct"], [[0], false, "run once, path wrong"],
    [[0, 0], true, "run twice; the arc is the jump back"], [[], true, "skipped"],
    [[1, 0], true, "framed: first run after a later layer"],
  ];
  if (questions.some((q) => q.paths.some((path) => path[1] === null))) {
    samples.push([[0], null, "pale: path ungraded"]);
  }
  for (const [path, correct, text] of samples) {
    const diagram = pathDiagram(path, correct, 16);
    diagram.setAttribute("width", path.includes(1) ? 32 : 16);
    diagram.setAttribute("aria-hidden", "true");
    browser.querySelector(".legend").append(element("li", {}, diagram, text));
  }
  browser.hidden = false;
  update();
})();
