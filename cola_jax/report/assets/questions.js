// The list of questions; the details of each come in chunks, from the page or from files beside it.

const LISTED = 20; // questions, and paths of a question, shown at once
const PRINTED = 300; // questions on paper
const LINKED = 2000; // characters of an id that has a link: a longer address takes seconds
const many = data.runs.length > 1;
const letter = (answer) => (answer < 0 ? "no answer" : ("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[answer] ?? `${answer}`));
// Say how many questions are left out on paper; nothing where all of them are listed.
function leftOut(found, listed) {
  const left = found - listed;
  if (left <= 0) return "";
  const those = left === 1 ? "1 more question is" : `${grouped(left)} more questions are`;
  return `${those} not printed: filter the questions on the page, and print it again.`;
}

const span = (css, ...children) => element("span", { class: css }, ...children);
const fewest = (a, b) => a.length - b.length || b.margin - a.margin;
const attention = 1;
const mlp = 2;

// Parse the text form of a path, such as 0-5,7,7*0.5,8a,(9-10)m: a layer, part and share a step.
function parseSteps(text) {
  return text.split(",").flatMap((item) => {
    const [, first, last = first, letter, share = 1] = item.match(/^\(?(\d+)(?:-(\d+))?\)?([am]?)(?:\*([\d.]+))?$/);
    const part = { "": 0, a: attention, m: mlp }[letter];
    return Array.from({ length: last - first + 1 }, (_, i) => ({ layer: Number(first) + i, part, share: Number(share) }));
  });
}
const parsePath = (text) => parseSteps(text).map(({ layer }) => layer);

// Return the length of steps in layers, of which a part is a fraction.
function lengthOf(steps) {
  const sum = steps.reduce((total, { layer, part }) => total + (part ? (data.parts?.[layer][part - 1] ?? 0.5) : 1), 0);
  return Math.round(sum * 100) / 100;
}

// Say what a step runs of its layer.
function partOf({ part, share }) {
  return `${["whole", "attention", "MLP"][part]}${share === 1 ? "" : ` *${share}`}`;
}

// Count the runs of each layer, and list layers that first run after a later one, and jumps back.
function usesOf(path) {
  const [counts, moved, jumps] = [Array(data.layers).fill(0), new Set(), new Map()];
  let highest = -1;
  path.forEach((layer, i) => {
    if (!counts[layer]++ && layer < highest) moved.add(layer);
    highest = Math.max(highest, layer);
    if (i && layer <= path[i - 1]) jumps.set(`${path[i - 1]} ${layer}`, [path[i - 1], layer]);
  });
  return { counts, moved, jumps };
}

// Draw a cell for each layer: empty if skipped, darker with a count if repeated, framed if moved; an
// arc is a jump back. The upper half of a cell is the attention and the lower half the MLP, where
// they run apart; a cell is pale where a run adds a share of its update.
function pathDiagram(steps, correct, size, columns = data.layers) {
  const { counts, moved, jumps } = usesOf(steps.map(({ layer }) => layer));
  const css = { null: "ungraded", 1: "correct", 0: "wrong" }[correct];
  const svg = shape("svg", { class: `path ${css}`, width: columns * size, height: 24, role: "img" });
  counts.slice(0, columns).forEach((count, layer) => {
    const css = `c${Math.min(count, 3)}${moved.has(layer) ? " moved" : ""}`;
    const cell = { class: css, x: layer * size + 0.75, y: 9.5, width: size - 1.5, height: 13 };
    const own = steps.filter((step) => step.layer === layer);
    const shares = own.map(({ share }) => share);
    const divided = own.some(({ part, share }) => part || share !== 1);
    const kinds = divided ? ` (${own.map(partOf).join(", ")})` : "";
    const runs = `layer ${layer}: ${count ? `run ${count}×` : "skipped"}${kinds}${moved.has(layer) ? ", moved" : ""}`;
    if (shares.some((share) => share !== 1)) cell["fill-opacity"] = Math.max(0.3, Math.min(1, ...shares) * 0.7);
    if (own.some(({ part }) => part)) {
      for (const [half, y] of [[attention, 9.5], [mlp, 16.5]]) {
        const times = own.filter(({ part }) => !part || part === half).length;
        const css = `c${Math.min(times, 3)}${moved.has(layer) ? " moved" : ""}`;
        svg.append(shape("rect", { ...cell, class: css, y, height: 6 }, shape("title", {}, runs)));
      }
    } else svg.append(shape("rect", cell, shape("title", {}, runs)));
    const text = { class: count > 9 || size < 11 ? "count small" : "count", x: (layer + 0.5) * size, y: 19.5 };
    if (count > 1) svg.append(shape("text", text, count));
  });
  for (const [from, to] of jumps.values()) {
    const shift = from === to ? 0.28 : 0;
    const [a, b] = [(from + 0.5 + shift) * size, (to + 0.5 - shift) * size];
    svg.append(shape("path", { class: "loop", d: `M${a} 9 C${a} 0 ${b} 0 ${b} 9` }));
  }
  const layersWith = (belongs) => counts.flatMap((count, layer) => (belongs(count) ? [layer] : []));
  const [skipped, repeated] = [layersWith((count) => !count), layersWith((count) => count > 1)];
  const divided = steps.filter(({ part, share }) => part || share !== 1).map((step) => `${step.layer} ${partOf(step)}`);
  const rest = divided.length ? `; of layers ${divided.join(", ")}` : "";
  svg.setAttribute("aria-label", `skips ${skipped.join(", ") || "none"}; repeats ${repeated.join(", ") || "none"}${rest}`);
  return svg;
}

function ruler(size) {
  const svg = shape("svg", { class: "ruler", width: data.layers * size, height: 12, "aria-hidden": "true" });
  for (let layer = 0; layer < data.layers; layer += data.layers * size < 300 ? 10 : 5) {
    svg.append(shape("text", { x: (layer + 0.5) * size, y: 10 }, layer));
  }
  return svg;
}

// A model's text gets an element of its own, so that its direction cannot affect what surrounds it.
function answerOf(question, { answer, margin }, decoded) {
  if (decoded) return decoded[0] === null ? "no answer found" : element("bdi", {}, decoded[0]);
  if (!data.open) return letter(answer);
  if (margin === null) return "no answer";
  if (answer === question.gold) return "gold";
  return question.controls.some(([target]) => target === answer) ? "control" : "other";
}

function factsOf({ length, margin, correct, target, node, mark }, decoded) {
  const facts = [`${length} layers run`];
  if (margin === null) facts.push("margin not finite");
  else if (correct !== null) facts.push(`margin ${signed(margin)}`);
  if (decoded) facts.push(`${decoded[4]} tokens`);
  if (decoded?.[3]) facts.push("truncated by the token limit");
  else if (decoded?.[2] === "not finite") facts.push("then not finite");
  if (target !== null) facts.push(`${correct ? "reaches" : "misses"} the wrong target`);
  if (!node) facts.push("identity path");
  if (mark) facts.push(`shortest ${mark} path`);
  if (correct === null) facts.push("ungraded");
  return ` · ${facts.join(" · ")}`;
}

function pathItem(question, path, size) {
  const { text, correct, node, parent, edit, completion } = path;
  const decoded = question.completions[completion];
  const sign = { null: "? ", 1: "✓ ", 0: "✗ " }[correct];
  const made = edit === null ? "" : ` = #${parent ?? "?"}, ${edit}`;
  const outcome = element("div", { class: "outcome" });
  outcome.append(
    span(`verdict ${correct ? "correct" : ""}`, sign, answerOf(question, path, decoded)),
    factsOf(path, decoded), element("br"), span("mono", text), ` #${node}${made}`,
  );
  if (decoded) {
    const parts = [element("summary", {}, "decoded text"), element("pre", {}, decoded[1])];
    outcome.append(element("details", { class: "completion" }, ...parts));
  }
  return element("li", {}, element("div", { class: "wide" }, pathDiagram(path.steps, correct, size)), outcome);
}

function optionItem({ gold, baseline, controls }, option, j) {
  const item = element("li", { class: j === gold ? "gold" : "" });
  const control = controls.find(([target]) => target === j);
  if (!data.open) item.append(span("letter", letter(j)));
  item.append(element("bdi", { class: "option" }, option));
  if (j === gold) item.append(span("mark gold", "correct answer"));
  if (j === baseline) item.append(span("mark", "the model's answer"));
  if (control) item.append(span("mark", `control: ${control[1] ? "reached" : "not reached"}`));
  return item;
}

const pathKinds = {
  "all paths": () => true,
  right: ({ correct }) => correct === 1,
  wrong: ({ correct }) => correct === 0,
  ungraded: ({ correct }) => correct === null,
  shorter: ({ length }) => length < data.layers,
  repeating: ({ counts }) => counts.some((count) => count > 1),
  moving: ({ moved }) => moved.size > 0,
  "with parts": ({ steps }) => steps.some(({ part }) => part),
  "with shares": ({ steps }) => steps.some(({ share }) => share !== 1),
};
const pathOrders = {
  "order of the search": () => 0,
  "fewest layers": fewest,
  "largest margin": (a, b) => (b.margin ?? -Infinity) - (a.margin ?? -Infinity),
  "right first": (a, b) => (b.correct ?? 0.5) - (a.correct ?? 0.5) || fewest(a, b),
};

function choice(label, names, onChange) {
  const options = names.map((name) => element("option", {}, name));
  const select = element("select", { "aria-label": label }, ...options);
  select.addEventListener("change", onChange);
  return select;
}

function searchName(question, target) {
  if (target === null) return "search for the correct answer";
  if (target === question.baseline) return "search for the model's own answer";
  return `control search for ${data.open ? "a wrong answer" : letter(target)}`;
}

function fillQuestion(body, entry, question) {
  const fields = ["text", "correct", "margin", "answer", "node", "parent", "edit", "target", "completion"];
  const paths = question.paths.map((row) => {
    const path = Object.fromEntries(fields.map((name, i) => [name, row[i]]));
    const steps = parseSteps(path.text);
    return { ...path, steps, length: lengthOf(steps), ...usesOf(steps.map(({ layer }) => layer)) };
  });
  const shortest = paths.filter(({ target }) => target === null).sort(fewest);
  for (const mark of ["right", "wrong"]) Object.assign(shortest.find(pathKinds[mark]) ?? {}, { mark });
  const targets = [null, ...paths.map(({ target }) => target)];
  const different = new Set(paths.map(({ text }) => text)).size; // which searches share
  const searches = new Map(targets.map((target) => [searchName(question, target), target]));
  const room = body.clientWidth - (innerWidth > 992 ? 470 : 24);
  const size = Math.max(9, Math.min(18, Math.floor(room / data.layers)));
  const [list, count] = [element("ul", { class: "paths" }), span("note")];
  const rest = element("button", { type: "button", class: "more" }, "Show all");
  const show = (most) => {
    const [target, belongs] = [searches.get(choices[0].value), pathKinds[choices[1].value]];
    const chosen = paths.filter((path) => path.target === target && belongs(path));
    chosen.sort(pathOrders[choices[2].value]);
    const own = paths.filter((path) => path.target === target).length;
    count.textContent = `${grouped(chosen.length)} of ${grouped(own)} paths; ${grouped(different)} different paths in all searches`;
    rest.hidden = chosen.length <= most;
    const scale = element("li", {}, element("div", { class: "wide" }, ruler(size)));
    list.replaceChildren(scale, ...chosen.slice(0, most).map((path) => pathItem(question, path, size)));
  };
  const choices = [
    ["Search", [...searches.keys()]],
    ["Paths", Object.keys(pathKinds).filter((name) => paths.some(pathKinds[name]))],
    ["Order of paths", Object.keys(pathOrders)],
  ].map(([label, names]) => choice(label, names, () => show(LISTED)));
  choices[0].hidden = searches.size < 2;
  rest.addEventListener("click", () => show(Infinity));
  const head = element("p", { class: "note" }, element("bdi", { class: "id" }, question.id));
  if (!data.float32 && question.confirmed !== null) {
    const outcomes = data.decodes ? ["different text", "same text"] : ["wrong", "correct"];
    head.append(` · shortest right path in float32: ${outcomes[Number(question.confirmed)]}`);
  }
  const hash = hashOf(entry);
  if (hash) head.append(" · ", element("a", { href: hash }, "link"));
  const options = question.options.map((option, j) => optionItem(question, option, j));
  const prompt = question.prompt === null ? [] : [element("details", { class: "completion" },
    element("summary", {}, "prompt, as the model reads it"), element("pre", {}, question.prompt))];
  const pictures = question.picture
    ? [element("img", { class: "picture", src: addressOf(question.picture), alt: "picture of the question" })] : [];
  body.replaceChildren(
    head, ...pictures, element("p", { class: "prompt" }, question.text), element("ul", { class: "options" }, ...options),
    ...prompt, element("div", { class: "tools" }, ...choices, count), list, rest,
  );
  show(LISTED);
}

// Load a chunk of details once: from the page, or from a script, as a page on a disk reads no files.
const [chunks, arrivals] = [new Map(), new Map()];
function loadChunk(number) {
  if (!chunks.has(number)) {
    chunks.set(number, data.files.length ? fetchChunk(number) : Promise.resolve(embedded(`chunk-${number}`)));
    chunks.get(number).catch(() => chunks.delete(number));
  }
  return chunks.get(number);
}

const addressOf = (name) => name.split("/").map(encodeURIComponent).join("/");

function fetchChunk(number) {
  const name = data.files[number];
  return new Promise((resolve, reject) => {
    arrivals.set(number, { resolve, reject });
    const script = element("script", { src: addressOf(name) });
    const missing = new Error(`${name} is missing: copy the folder along with this page.`);
    script.addEventListener("error", () => reject(missing));
    document.head.append(script);
  });
}
window.colaQuestions = (token, number, questions) => {
  const { resolve, reject } = arrivals.get(number);
  if (token === data.token) resolve(questions);
  else reject(new Error(`${data.files[number]} is of another report: write this one again.`));
};

const outcomes = { "C→C": "right before", "W→C": "right on some path", "W→W": "wrong on all" };
const kinds = {
  all: () => true,
  "right on some path (W→C)": ({ kind }) => kind === "W→C",
  "right before (C→C)": ({ kind }) => kind === "C→C",
  "right on fewer layers too": ({ kind, best }) => kind === "C→C" && best < data.layers,
  "wrong on all (W→W)": ({ kind }) => kind === "W→W",
  moved: ({ moved }) => moved,
  "ungraded before": ({ kind }) => kind.startsWith("?"),
};
const orders = {
  "order of the run": () => 0,
  "fewest layers": (a, b) => (a.best ?? 1e9) - (b.best ?? 1e9),
  "found first": (a, b) => (a.first ?? 1e9) - (b.first ?? 1e9),
  "found last": (a, b) => (b.first ?? -1) - (a.first ?? -1),
};

// Return a link to a question: #question=ID, and its run where there are several.
function hashOf({ id, run }) {
  if (id.length > LINKED) return null;
  return `#question=${encodeURIComponent(id)}${many ? `&run=${encodeURIComponent(data.runs[run])}` : ""}`;
}

function questionItem(question) {
  const { run, kind, text, moved, best, at: [chunk, place] } = question;
  const summary = element("summary", {});
  summary.append(span(kind === "W→C" ? "kind corrected" : "kind", outcomes[kind] ?? "ungraded before"));
  if (many) summary.append(span(`run series run-${run + 1}`, data.runs[run]));
  summary.append(span("text", text));
  if (moved) summary.append(span("mark", "moved"));
  summary.append(span("note", best === null ? "–" : `${best} of ${data.layers} layers`));
  const details = element("details", { class: "question" }, summary);
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    const hash = hashOf(question);
    if (hash) history.replaceState(null, "", hash);
    if (details.children.length > 1) return;
    const body = element("div", { class: "body" }, element("p", { class: "note" }, "Loading …"));
    details.append(body);
    try {
      fillQuestion(body, question, (await loadChunk(chunk))[place]);
    } catch (error) {
      body.replaceChildren(element("p", { class: "failure", role: "alert" }, error.message));
      details.addEventListener("toggle", () => body.remove(), { once: true });
    }
  });
  return details;
}

function browse(browser) {
  const find = (css) => browser.querySelector(css);
  const [search, sorting, running] = [find("[type=search]"), find("[name=order]"), find("[name=run]")];
  const [status, more, list] = [find("[role=status]"), find(".more"), find("#questions")];
  const items = new Map(); // the <details> of the questions that are listed
  let [kind, matches] = ["all", []];
  const showMore = () => {
    const next = matches.slice(items.size, items.size + LISTED);
    for (const question of next) items.set(question, questionItem(question));
    list.append(...next.map((question) => items.get(question)));
    more.hidden = items.size === matches.length;
    more.textContent = `Show ${Math.min(LISTED, matches.length - items.size)} more`;
  };
  const update = () => {
    const query = search.value.trim().toLowerCase();
    const run = running ? running.selectedIndex - 1 : -1; // the first are all runs
    const belongs = ({ id, text }) => `${id}\n${text}`.toLowerCase().includes(query);
    matches = data.questions.filter((each) => kinds[kind](each) && (run < 0 || each.run === run) && belongs(each));
    matches.sort(orders[sorting.value]);
    status.textContent = `${grouped(matches.length)} of ${grouped(data.questions.length)}`;
    items.clear();
    list.replaceChildren();
    showMore();
  };
  for (const [name, belongs] of Object.entries(kinds)) {
    const count = data.questions.filter(belongs).length;
    if (!count) continue;
    const input = element("input", { type: "radio", name: "kind", value: name });
    input.checked = name === kind;
    input.addEventListener("change", () => {
      kind = name;
      update();
    });
    find("fieldset").append(element("label", {}, input, span("", `${name} ${grouped(count)}`)));
  }
  const openLinked = () => {
    const wanted = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
    const [id, run] = [wanted.get("question"), wanted.get("run")];
    if (id === null) return;
    const question = data.questions.find((each) => each.id === id && (!run || data.runs[each.run] === run));
    if (question && !items.has(question)) {
      search.value = question.id;
      if (running) running.selectedIndex = 0;
      find("input[value=all]").click();
      update();
    }
    if (!question) status.textContent = `This report has no question ${id}.`;
    else items.get(question).open = true;
    (items.get(question) ?? browser).scrollIntoView({ block: "start" });
  };
  const add = (select, names) => select?.append(...names.map((name) => element("option", {}, name)));
  add(sorting, Object.keys(orders));
  add(running, ["all runs", ...data.runs]);
  for (const control of [sorting, running]) control?.addEventListener("change", update);
  search.addEventListener("input", update);
  more.addEventListener("click", showMore);
  const samples = [
    ["0", 1, "layer run once, path right"], ["0", 0, "the same, path wrong"],
    ["0,0", 1, "run twice; the arc is the jump back"], ["", 1, "skipped"],
    ["1,0", 1, "framed: moved, first run after a later layer"],
    ...(data.parts ? [["0a", 1, "upper half: attention alone"], ["0m", 1, "lower half: MLP alone"]] : []),
    ...(data.parts ? [["0*0.5", 1, "paler: a share of the layer's update"]] : []),
    ...(data.decodes ? [["0", null, "pale: path ungraded"]] : []),
  ];
  for (const [path, correct, text] of samples) {
    const diagram = pathDiagram(path ? parseSteps(path) : [], correct, 16, path === "1,0" ? 2 : 1);
    find("#path-legend").append(element("li", {}, diagram, text));
  }
  browser.hidden = false;
  update();
  openLinked();
  addEventListener("hashchange", openLinked);
  const unprinted = element("p", { class: "note", hidden: "" });
  browser.append(unprinted);
  addEventListener("beforeprint", () => {
    while (items.size < Math.min(matches.length, PRINTED)) showMore();
    unprinted.textContent = leftOut(matches.length, items.size);
    unprinted.hidden = false;
  });
  addEventListener("afterprint", () => {
    unprinted.hidden = true;
  });
}

if (data.questions) browse(document.getElementById("browser"));
