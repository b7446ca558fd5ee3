// A figure of the page: panels side by side, a legend, a CSV file and a table of the same numbers.

const [GAP, PAPER] = [28, 720]; // pixels between panels, and across a sheet of paper

// Rows of a figure as objects by column.
const records = ({ columns, rows }) =>
  rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));

// Fills the <figure> of this name. `panels` are functions of a width that return an <svg>; `legend`
// has name, colour, dashed, css; `least` is the smallest width of a panel, `most` the number of them
// side by side.
function fillFigure(name, { columns, rows }, { panels, legend = [], least = 330, most = 3 }) {
  const figure = document.getElementById(`figure-${name}`);
  if (!rows.length) {
    figure.remove();
    return;
  }
  const plot = element("div", { class: "plot" });
  const draw = (width) => {
    const across = Math.max(1, Math.min(panels.length, most, Math.floor((width + GAP) / (least + GAP))));
    const each = (width - GAP * (across - 1)) / across;
    plot.style.setProperty("grid-template-columns", `repeat(${across}, minmax(0, 1fr))`);
    plot.replaceChildren(...panels.map((panel) => panel(each)));
  };
  figure.querySelector("figcaption").before(...(legend.length > 1 ? [legendOf(legend)] : []), plot);
  figure.append(toolsOf(name, columns, rows));
  let width = plot.clientWidth;
  draw(width);
  const paper = figure.closest(".pair") ? (PAPER - GAP) / 2 : PAPER;
  addEventListener("beforeprint", () => draw(paper));
  addEventListener("afterprint", () => draw(width));
  new ResizeObserver(() => {
    if (plot.clientWidth === width || !plot.clientWidth) return;
    width = plot.clientWidth;
    draw(width);
  }).observe(plot);
}

function legendOf(entries) {
  return element(
    "ul",
    { class: "legend" },
    ...entries.map(({ name, colour, dashed, css }) => {
      const key = css ? `key ${css}` : dashed ? "key stroke dashed" : "key stroke";
      return element(
        "li",
        {},
        element("span", { class: key, style: colour ? { "--colour": colour } : {} }),
        name,
      );
    }),
  );
}

// The table is made when it is first opened, as few readers open it.
function toolsOf(name, columns, rows) {
  const button = element("button", { type: "button" }, "CSV");
  button.setAttribute("aria-label", `Download the numbers of this figure as ${name}.csv`);
  button.addEventListener("click", () => download(`${name}.csv`, csvOf(columns, rows)));
  const details = element("details", {}, element("summary", {}, "Table"));
  details.addEventListener("toggle", () => details.append(tableOf(columns, rows)), { once: true });
  return element("div", { class: "figure-tools" }, button, details);
}

function csvOf(columns, rows) {
  const cell = (value) => {
    let text = value === null ? "" : String(value);
    // a spreadsheet would take such a text as a formula
    if (typeof value === "string" && /^[=+\-@＝＋－＠\t\r\n]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function tableOf(columns, rows) {
  const head = element(
    "tr",
    {},
    ...columns.map((name) => element("th", { scope: "col" }, name.replaceAll("_", " "))),
  );
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      ...row.map((value) =>
        element(
          "td",
          {},
          value === null ? "–" : typeof value === "number" ? String(Number(value.toFixed(4))) : value,
        ),
      ),
    ),
  );
  return element(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": "Numbers of this figure" },
    element("table", { class: "numbers" }, element("thead", {}, head), element("tbody", {}, ...body)),
  );
}
