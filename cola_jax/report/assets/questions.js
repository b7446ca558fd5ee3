// The list of questions. Details come in chunks, from within the page or from the files beside it.

const LISTED = 100; // questions at once, to keep long lists responsive
const LINKED = 2000; // characters of an id that has a link
const browser = document.getElementById("browser");
const list = document.getElementById("questions");
const [more, found] = [browser.querySelector(".more"), browser.querySelector("[role=status]")];
const chunks = new Map(); // by number: a promise of its questions

// Loads the chunk of this number, once.
function loadChunk(number) {
  if (!chunks.has(number))
    chunks.set(number, data.files.length ? fetchChunk(number) : Promise.resolve(embedded(`chunk-${number}`)));
  return chunks.get(number);
}

// A script, as a page that is opened from a disk may not read other files.
function fetchChunk(number) {
  const name = data.files[number];
  return new Promise((resolve, reject) => {
    arrivals.set(number, { resolve, reject });
    const script = element("script", { src: name.split("/").map(encodeURIComponent).join("/") });
    script.addEventListener("error", () =>
      reject(new Error(`${name} is missing: copy the folder along with this page.`)),
    );
    document.head.append(script);
  }).catch((error) => {
    chunks.delete(number);
    throw error;
  });
}

const arrivals = new Map();
window.colaQuestions = (token, number, questions) => {
  const { resolve, reject } = arrivals.get(number);
  if (token === data.token) resolve(questions);
  else reject(new Error(`${data.files[number]} is of another report: write this one again.`));
};

const change = ({ best }) => (best === null ? "no correct path" : `${data.layers} → ${best} layers`);
const keyOf = (question) => JSON.stringify([question.run, question.id]);
const items = new Map(); // by key: the <details> of a question that is listed

function questionItem(question) {
  const outcome = { "W→C": "corrected", "W→W": "uncorrected" }[question.kind] ?? "";
  const details = element(
    "details",
    { class: "question" },
    element(
      "summary",
      {},
      element("span", { class: `kind ${outcome}` }, question.kind),
      many
        ? element(
            "span",
            { class: "run", style: { "--colour": `var(--run-${question.run + 1})` } },
            data.runs[question.run],
          )
        : null,
      element("span", { class: "text" }, question.text),
      question.moved ? element("span", { class: "mark control" }, "moved") : null,
      element("span", { class: "change" }, change(question)),
    ),
  );
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) openQuestion(details, question);
    const hash = details.open && hashOf(question);
    if (hash) history.replaceState(null, "", hash);
  });
  items.set(keyOf(question), details);
  return details;
}

async function openQuestion(details, question) {
  const body = element("div", { class: "body" }, element("p", { class: "note" }, "Loading …"));
  details.append(body);
  try {
    const [chunk, place] = question.at;
    fillQuestion(body, question, (await loadChunk(chunk))[place]);
  } catch (error) {
    body.replaceChildren(element("p", { class: "failure", role: "alert" }, error.message));
    details.addEventListener("toggle", () => body.remove(), { once: true });
  }
}

// A link to a question: #question=ID, and its run where there are several; null for a long id,
// whose address would take a browser seconds.
function hashOf(question) {
  if (question.id.length > LINKED) return null;
  const run = many ? `&run=${encodeURIComponent(data.runs[question.run])}` : "";
  return `#question=${encodeURIComponent(question.id)}${run}`;
}

function openLinked() {
  const wanted = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  const [id, run] = [wanted.get("question"), wanted.get("run")];
  if (id === null) return;
  const question = data.questions.find(
    (one) => one.id === id && (run === null || data.runs[one.run] === run),
  );
  if (!question) {
    found.textContent = `This report has no question ${id}.`;
    browser.scrollIntoView();
    return;
  }
  if (!items.has(keyOf(question))) {
    search.value = question.id;
    if (running) running.selectedIndex = 0;
    showKind("all");
    update();
  }
  const details = items.get(keyOf(question));
  details.open = true;
  details.scrollIntoView({ block: "start" });
  details.querySelector("summary").focus({ preventScroll: true });
}

const kinds = {
  all: () => true,
  "C→C": (question) => question.kind === "C→C",
  "C→C shorter": (question) => question.kind === "C→C" && question.best < data.layers,
  "W→C": (question) => question.kind === "W→C",
  "W→W": (question) => question.kind === "W→W",
  moved: (question) => question.moved,
  "ungraded before": (question) => question.kind.startsWith("?"),
};
const last = Number.MAX_SAFE_INTEGER;
const orders = {
  "order of the run": () => 0,
  "fewest layers": (a, b) => (a.best ?? last) - (b.best ?? last),
  "most layers": (a, b) => (b.best ?? -1) - (a.best ?? -1),
  "found first": (a, b) => (a.first ?? last) - (b.first ?? last),
  "found last": (a, b) => (b.first ?? -1) - (a.first ?? -1),
  id: (a, b) => a.id.localeCompare(b.id, "en", { numeric: true }),
};
const search = browser.querySelector("[type=search]");
const [sorting, running] = [browser.querySelector("[name=order]"), browser.querySelector("[name=run]")];
const searchable = new Map();
let [kind, matches, shown] = ["all", data.questions, 0];

function textOf(question) {
  if (!searchable.has(question)) searchable.set(question, `${question.id}\n${question.text}`.toLowerCase());
  return searchable.get(question);
}

function showMore() {
  const next = matches.slice(shown, shown + LISTED);
  list.append(...next.map(questionItem));
  shown += next.length;
  more.hidden = shown === matches.length;
  more.textContent = `Show ${Math.min(LISTED, matches.length - shown)} more`;
}

function update() {
  const query = search.value.trim().toLowerCase();
  const run = running ? running.selectedIndex - 1 : -1; // the first are all runs
  matches = data.questions
    .filter(
      (one) => kinds[kind](one) && (run < 0 || one.run === run) && (!query || textOf(one).includes(query)),
    )
    .sort(orders[sorting.value]);
  found.textContent = `${grouped(matches.length)} of ${grouped(data.questions.length)}`;
  items.clear();
  list.replaceChildren();
  shown = 0;
  showMore();
}

function showKind(name) {
  kind = name;
  browser.querySelector(`input[value="${CSS.escape(name)}"]`).checked = true;
}

for (const [name, belongs] of Object.entries(kinds)) {
  const count = data.questions.filter(belongs).length;
  if (!count) continue;
  const input = element("input", { type: "radio", name: "kind", value: name });
  input.checked = name === kind;
  input.addEventListener("change", () => {
    kind = name;
    update();
  });
  browser
    .querySelector("fieldset")
    .append(element("label", {}, input, element("span", {}, `${name} ${grouped(count)}`)));
}
sorting.append(...Object.keys(orders).map((name) => element("option", {}, name)));
if (running) running.append(...["all runs", ...data.runs].map((name) => element("option", {}, name)));
for (const control of [sorting, running].filter(Boolean)) control.addEventListener("change", update);
search.addEventListener("input", update);
more.addEventListener("click", showMore);
document.getElementById("path-legend").append(pathLegend(data.decodes));
browser.hidden = false;
update();
openLinked();
addEventListener("hashchange", openLinked);
