// The details of one question: its options, and all paths that its searches evaluated.

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const PATHS = 100; // drawn at once
const FIELDS = [
  "text",
  "correct",
  "margin",
  "answer",
  "node",
  "parent",
  "edit",
  "shortest",
  "target",
  "completion",
];
const letter = (answer) => (answer < 0 ? "no answer" : (LETTERS[answer] ?? String(answer)));

// The answer on a path. A model's text gets an element of its own, so that its direction cannot
// affect what surrounds it.
function answerOf(question, { answer, margin }, completion) {
  if (completion) return completion[0] === null ? "no answer found" : element("bdi", {}, completion[0]);
  if (!data.open) return letter(answer);
  if (margin === null) return "no answer";
  return answer === question.gold ? "gold" : question.controls.some(([target]) => target === answer) ? "control" : "other";
}

function ending([, , finish, truncated, tokens]) {
  const reason = truncated
    ? ", truncated by the token limit"
    : finish === "not finite"
      ? ", then not finite"
      : "";
  return ` · ${tokens} token${tokens === 1 ? "" : "s"}${reason}`;
}

function pathItem(question, path, size) {
  const { text, correct, margin, node, parent, edit, shortest, completion: index } = path;
  const completion = index === undefined ? null : question.completions[index];
  const names = [
    node ? "" : "identity path",
    ["shortest wrong", "shortest correct"][shortest] ?? "",
    correct === null ? "ungraded" : "",
  ].filter(Boolean);
  const reached =
    path.target === null ? "" : correct ? " · reaches the wrong target" : " · misses the wrong target";
  const made = node ? `#${node}${edit === null ? "" : ` = #${parent ?? "?"}, ${edit}`}` : "#0";
  return element(
    "li",
    {},
    element("div", { class: "wide" }, pathDiagram(path.layers, correct, size)),
    element(
      "div",
      { class: "outcome" },
      element(
        "span",
        { class: `verdict ${correct ? "correct" : ""}` },
        correct === null ? "? " : correct ? "✓ " : "✗ ",
        answerOf(question, path, completion),
      ),
      ` · ${path.layers.length} layer${path.layers.length === 1 ? "" : "s"}`,
      margin === null ? " · margin not finite" : correct === null ? "" : ` · margin ${signed(margin)}`,
      completion ? ending(completion) : "",
      reached,
      names.length ? element("b", {}, ` · ${names.join(", ")}`) : "",
      element("br"),
      element("span", { class: "mono" }, text),
      element("span", { class: "muted" }, `  ${made}`),
      completion
        ? element(
            "details",
            { class: "completion" },
            element("summary", {}, "decoded text"),
            element("pre", {}, completion[1]),
          )
        : "",
    ),
  );
}

function optionItem(question, option, j) {
  const { gold, baseline } = question;
  const control = question.controls.find(([target]) => target === j);
  const reached = control?.[1] ? "reached" : "not reached";
  const marks = [
    j === gold && !data.open ? ["gold", "correct answer"] : null,
    j === baseline ? ["baseline", "answered before"] : null,
    control ? ["control", data.open ? reached : `control: ${reached}`] : null,
  ].filter(Boolean);
  const role = j === gold ? "correct answer" : control ? "control" : "no control";
  return element(
    "li",
    { class: j === gold ? "gold" : "" },
    element("span", { class: data.open ? "role" : "letter" }, data.open ? role : letter(j)),
    element("bdi", { class: "option" }, option),
    ...marks.map(([css, text]) => element("span", { class: `mark ${css}` }, text)),
  );
}

const pathKinds = {
  "all paths": () => true,
  correct: ({ correct }) => correct === 1,
  wrong: ({ correct }) => correct === 0,
  ungraded: ({ correct }) => correct === null,
  shorter: ({ layers }) => layers.length < data.layers,
  repeating: ({ counts }) => counts.some((count) => count > 1),
  moving: ({ moved }) => moved.size > 0,
};
const pathOrders = {
  "order of the search": () => 0,
  "fewest layers": (a, b) => a.layers.length - b.layers.length || b.margin - a.margin,
  "largest margin": (a, b) => (b.margin ?? -Infinity) - (a.margin ?? -Infinity),
  "correct first": (a, b) => (b.correct ?? 0.5) - (a.correct ?? 0.5) || a.layers.length - b.layers.length,
};

function choice(label, names, onChange) {
  const select = element(
    "select",
    { "aria-label": label },
    ...names.map((name) => element("option", {}, name)),
  );
  select.addEventListener("change", onChange);
  return select;
}

function fillQuestion(body, entry, question) {
  const paths = question.paths.map((row) => {
    const path = Object.fromEntries(FIELDS.map((name, i) => [name, row[i]]));
    const layers = parsePath(path.text);
    return { ...path, layers, ...usesOf(layers) };
  });
  const targets = [...new Set(paths.map((path) => path.target).filter((target) => target !== null))];
  const searches = new Map([
    ["search for the correct answer", null],
    ...targets.map((target) => [
      target === question.baseline
        ? "search for the model's own answer"
        : `control search for ${data.open ? "a wrong answer" : letter(target)}`,
      target,
    ]),
  ]);
  const present = Object.keys(pathKinds).filter((name) => paths.some(pathKinds[name]));
  const outcomes = data.decodes ? ["different text", "same text"] : ["wrong", "correct"];
  const confirmed = missing(question.confirmed)
    ? ""
    : ` · shortest correct path in float32: ${outcomes[Number(question.confirmed)]}`;
  const rows = element("ul", { class: "paths" });
  const count = element("span", { class: "note" });
  const rest = element("button", { type: "button", class: "more" }, "Show all");
  const size = Math.max(
    9,
    Math.min(18, Math.floor((body.clientWidth - (innerWidth > 992 ? 470 : 24)) / data.layers)),
  );
  const show = (most) => {
    const target = searches.get(choices[0].value) ?? null;
    const own = paths
      .filter((path) => path.target === target && pathKinds[choices[1].value](path))
      .sort(pathOrders[choices[2].value]);
    count.textContent = `${grouped(own.length)} of ${grouped(paths.length)} evaluations`;
    rest.hidden = own.length <= most;
    rows.replaceChildren(
      element("li", { "aria-hidden": "true" }, element("div", { class: "wide" }, ruler(size))),
      ...own.slice(0, most).map((path) => pathItem(question, path, size)),
    );
  };
  const names = [
    ["Search", [...searches.keys()]],
    ["Paths", present],
    ["Order of paths", Object.keys(pathOrders)],
  ];
  const choices = names.map(([label, each]) => choice(label, each, () => show(PATHS)));
  choices[0].hidden = searches.size < 2;
  rest.addEventListener("click", () => show(Infinity));
  const hash = hashOf(entry);
  const link = hash ? [" · ", element("a", { href: hash }, "link")] : [];
  body.replaceChildren(
    element("p", { class: "note" }, element("bdi", { class: "id" }, question.id), confirmed, ...link),
    element("p", { class: "prompt" }, question.text),
    element(
      "ul",
      { class: "options" },
      ...(question.options ?? []).map((option, j) => optionItem(question, option, j)),
    ),
    element("div", { class: "tools" }, ...choices, count),
    rows,
    rest,
  );
  show(PATHS);
}
