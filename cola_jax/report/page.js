"use strict";
// Draws the questions. All text goes in as text nodes, so nothing in a run can become markup.
(() => {
  const { layers: L, open, decodes, questions } = JSON.parse(document.getElementById("data").textContent);
  const AT_ONCE = 200; // questions listed at first, so that a long list opens at once
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const SVG = "http" + "://www.w3.org/2000/svg"; // a name, never fetched
  const browser = document.getElementById("browser");
  const list = document.getElementById("questions");
  const [more, status] = [browser.querySelector(".more"), browser.querySelector("[role=status]")];

  function element(name, attributes = {}, ...children) {
    const drawn = ["svg", "rect", "path", "text", "g", "title"].includes(name);
    const node = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  // The text form of a path: 0-5,7,7,(8-9)x2
  function parse(text) {
    return text.split(/,(?![^()]*\))/).flatMap((part) => {
      const group = part.match(/^\((.*)\)x(\d+)$/);
      const block = (group ? group[1] : part).split(",").flatMap((item) => {
        const [first, last = first] = item.split("-").map(Number);
        return Array.from({ length: last - first + 1 }, (_, i) => first + i);
      });
      return Array(group ? Number(group[2]) : 1).fill(block).flat();
    });
  }

  // A cell per layer: hatched where it is skipped, darker with a count where it runs again, framed
  // where it runs after a later layer for the first time; an arc for each way back.
  function strip(path, right, size) {
    const [counts, moved, jumps] = [Array(L).fill(0), new Set(), new Map()];
    let highest = -1;
    path.forEach((layer, i) => {
      if (!counts[layer]++ && layer < highest) moved.add(layer);
      highest = Math.max(highest, layer);
      const before = path[i - 1];
      if (i && layer <= before) jumps.set(`${before} ${layer}`, [before, layer]);
    });
    const [top, height] = [9, 14];
    const svg = element("svg", {
      class: right === null ? "wrong ungraded" : right ? "right" : "wrong", width: L * size, height: top + height + 1, role: "img",
      "aria-label": describe(counts, moved),
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
      svg.append(element("path", { class: "back", d: `M${a} ${top} C${a} 0 ${b} 0 ${b} ${top}` }));
    }
    return svg;
  }

  function describe(counts, moved) {
    const skipped = counts.flatMap((count, layer) => (count ? [] : [layer]));
    const again = counts.flatMap((count, layer) => (count > 1 ? [`${layer} ×${count}`] : []));
    const said = [];
    if (skipped.length) said.push(`skips ${skipped.join(", ")}`);
    if (again.length) said.push(`repeats ${again.join(", ")}`);
    if (moved.size) said.push(`out of order ${[...moved].join(", ")}`);
    return said.join("; ") || "every layer once, in order";
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

  // What a path answered. It may be a model's text, so it stands in an element of its own, where
  // its direction cannot turn what is around it.
  function answered(question, answer, margin, reply) {
    if (reply) return reply[0] === null ? "no answer found" : element("bdi", {}, reply[0]);
    if (!open) return letter(answer);
    if (margin === null) return "no answer";
    return answer === question.gold ? "gold" : answer === question.control ? "control" : "other";
  }

  function ending([, , finish, cut, decoded]) {
    const ended = cut ? ", cut by the token limit" : finish === "not finite" ? ", then not finite" : "";
    return ` · ${decoded} token${decoded === 1 ? "" : "s"}${ended}`;
  }

  function replyText(text) {
    return element("details", { class: "reply" },
      element("summary", {}, "decoded text"), element("pre", {}, text));
  }

  function pathItem(question, [text, right, margin, answer, node, parent, edit, best, front, at], size) {
    const path = parse(text);
    const reply = at === undefined ? null : question.replies[at];
    const names = [
      node ? "" : "identity path", best ? "shortest right" : "",
      front && right === 0 ? "shortest wrong" : "", right === null ? "ungraded" : "",
    ].filter(Boolean);
    const said = element("div", { class: "said" },
      element("span", { class: `verdict ${right ? "right" : ""}` },
        right === null ? "? " : right ? "✓ " : "✗ ", answered(question, answer, margin, reply)),
      ` · ${path.length} layers`,
      margin === null ? " · margin not finite" : right === null ? "" : ` · margin ${signed(margin)}`,
      reply ? ending(reply) : "",
      names.length ? element("b", {}, ` · ${names.join(", ")}`) : "",
      element("br"),
      element("span", { class: "mono" }, text),
      element("span", { class: "soft" },
        node ? `  #${node}${edit === null ? "" : ` = #${parent ?? "?"}, ${edit}`}` : "  #0"),
      reply ? replyText(reply[1]) : "");
    const box = element("div", { class: "wide" }, strip(path, right, size));
    return element("li", {}, box, said);
  }

  function optionItem(question, option, j) {
    const marks = [];
    const mark = (kind, text) => marks.push(element("span", { class: `mark ${kind}` }, text));
    if (j === question.gold && !open) mark("gold", "right answer");
    if (j === question.first) mark("first", "answered before");
    const reached = question.reached ? "reached" : "not reached";
    if (j === question.control) mark("control", open ? reached : `control: ${reached}`);
    const role = j === question.gold ? "right answer" : j === question.control ? "control" : "no control";
    return element("li", { class: j === question.gold ? "gold" : "" },
      element("span", { class: open ? "role" : "letter" }, open ? role : letter(j)),
      element("bdi", { class: "option" }, option), ...marks);
  }

  function fill(details, question) {
    const body = element("div", { class: "body" });
    details.append(body);
    const room = body.clientWidth - (innerWidth > 992 ? 430 : 30);
    const size = Math.max(10, Math.min(20, Math.floor(room / L)));
    const outcome = decodes ? ["another text", "the same text"] : ["wrong", "right"];
    const kept = question.confirmed === null ? "" : ` · shortest right path in float32: ${outcome[Number(question.confirmed)]}`;
    body.append(
      element("p", { class: "note" },
        `${question.id} · ${question.evaluations} evaluations, ${question.paths.length} shown${kept}`),
      element("ul", { class: "options" }, ...question.options.map((option, j) => optionItem(question, option, j))),
      element("ul", { class: "paths" },
        element("li", { "aria-hidden": "true" }, element("div", { class: "wide" }, ruler(size))),
        ...question.paths.map((path) => pathItem(question, path, size))));
  }

  function questionItem(question) {
    const { kind, best } = question;
    const mood = { "W→C": "fixed", "W→W": "lost" }[kind] ?? "";
    const details = element("details", { class: "question" },
      element("summary", {},
        element("span", { class: `kind ${mood}` }, kind),
        element("span", { class: "text" }, question.text),
        element("span", { class: "change" }, best === null ? "no right path" : `${L} → ${best} layers`)));
    details.addEventListener("toggle", () => fill(details, question), { once: true });
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
  const said = (q) => q.replies.map(([answer]) => answer ?? "");
  const words = new Map(
    questions.map((q) => [q, [q.id, q.text, ...q.options, ...said(q)].join("\n").toLowerCase()]));
  const search = browser.querySelector("[type=search]");
  let [kind, matches, shown] = ["all", questions, 0];

  function showMore() {
    const next = matches.slice(shown, shown + AT_ONCE);
    list.append(...next.map(questionItem));
    shown += next.length;
    more.hidden = shown === matches.length;
    more.textContent = `Show ${Math.min(AT_ONCE, matches.length - shown)} more`;
  }

  function update() {
    const wanted = search.value.trim().toLowerCase();
    matches = questions.filter((q) => kinds[kind](q) && words.get(q).includes(wanted));
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
    [[0], true, "run once, path right"], [[0], false, "run once, path wrong"],
    [[0, 0], true, "run twice; an arc leads back"], [[], true, "skipped"],
    [[1, 0], true, "framed: first run after a later layer"],
  ];
  if (questions.some((q) => q.paths.some((path) => path[1] === null))) {
    samples.push([[0], null, "pale: path ungraded"]);
  }
  for (const [path, right, text] of samples) {
    const drawn = strip(path, right, 16);
    drawn.setAttribute("width", path.includes(1) ? 32 : 16);
    drawn.setAttribute("aria-hidden", "true");
    browser.querySelector(".key").append(element("li", {}, drawn, text));
  }
  browser.hidden = false;
  update();
})();
