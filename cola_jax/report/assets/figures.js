// The figures of searches. A run has one colour in all of them; a control search is dashed.

const data = embedded("data");
const many = data.runs.length > 1;
const colourOf = (run) => `var(--run-${data.runs.indexOf(run) + 1})`;
const runsLegend = data.runs.map((run) => ({ name: run, colour: colourOf(run) }));
const SEARCHES = ["search", "control"];
const searchLegend = [
  { name: "search for the correct answer", colour: "var(--ink)" },
  { name: "control search for a wrong one", colour: "var(--ink)", dashed: true },
];
const shares = { low: 0, high: 1, format: (value) => `${Math.round(100 * value)} %` };

// Lines of one group of questions, a run's search and control after each other.
function linesOf(rows, questions, xName) {
  return data.runs
    .flatMap((run) =>
      SEARCHES.map((search) => ({
        name: many ? `${run}, ${search}` : search,
        label: search,
        colour: colourOf(run),
        dashed: search === "control",
        rows: rows
          .filter((row) => row.run === run && row.questions === questions && row.search === search)
          .map((row) => ({ ...row, x: row[xName] })),
      })),
    )
    .filter((line) => line.rows.length);
}

function extent(values, pad = 0) {
  return { low: Math.min(...values) - pad, high: Math.max(...values) + pad };
}

const panelTitle = (questions) => questions[0].toUpperCase() + questions.slice(1);

function drawShares(name, groups, x, options) {
  const table = data.figures[name];
  const rows = records(table).filter((row) => SEARCHES.includes(row.search));
  const panels = groups
    .map((questions) => [questions, linesOf(rows, questions, options.xName)])
    .filter(([, series]) => series.length)
    .map(
      ([questions, series]) =>
        (width) =>
          linePanel({
            title: panelTitle(questions),
            x: x(rows),
            y: shares,
            series,
            width,
            direct: !many && series.length > 1,
            bands: data.runs.length < 3,
            ...options.panel?.(questions, table),
          }),
    );
  fillFigure(name, table, { panels, legend: many ? [...runsLegend, ...searchLegend] : [] });
}

function drawSearches() {
  drawShares(
    "evaluations",
    ["all questions", "wrong before"],
    (rows) => ({
      label: "evaluations per question",
      low: 0,
      high: 1.01 * Math.max(...rows.map((row) => row.evaluations)),
      integer: true,
    }),
    { xName: "evaluations" },
  );
  const reference = { x: data.layers, label: `L = ${data.layers}` };
  drawShares(
    "depth",
    ["all questions", "correct before", "wrong before"],
    (rows) => ({
      label: "layers allowed",
      ...extent([...rows.map((row) => row.layers), data.layers], 0.5),
      integer: true,
    }),
    { xName: "layers", panel: () => ({ reference }) },
  );
  drawShares(
    "front",
    ["all questions", "wrong before"],
    (rows) => ({
      label: "layers, mean over questions",
      ...extent([...rows.map((row) => row.layers), data.layers], 0.5),
    }),
    {
      xName: "layers",
      panel: (questions, table) => ({
        steps: false,
        reference,
        marks: records(table)
          .filter((row) => row.questions === questions && !SEARCHES.includes(row.search))
          .map((row) => ({
            name: many ? `${row.run}, ${row.search}` : row.search,
            x: row.layers,
            share: row.share,
            colour: row.search === "pretrained model" ? "var(--muted)" : colourOf(row.run),
            hollow: row.search === "pretrained model",
          })),
      }),
    },
  );
}

const TRANSITIONS = { "C→C": "cc", "W→C": "wc", "C→W": "cw", "W→W": "ww" };

function drawTransitions() {
  const rows = records(data.figures.transitions);
  const panels = ["shortest correct path", "all paths tried"].map(
    (paths) => (width) =>
      barsPanel({
        title: panelTitle(paths),
        width,
        bars: data.runs.map((run) => {
          const own = rows.filter((row) => row.run === run && row.paths === paths);
          return {
            label: many ? run : "",
            n: own[0]?.n ?? 0,
            colour: many ? colourOf(run) : null,
            noun: paths === "all paths tried" ? "evaluations" : "questions",
            segments: own
              .filter((row) => row.count)
              .map((row) => ({
                name: row.transition,
                count: row.count,
                share: row.share,
                css: TRANSITIONS[row.transition],
              })),
          };
        }),
      }),
  );
  const legend = Object.entries({
    "C→C": "correct before and after",
    "W→C": "wrong, then correct",
    "C→W": "correct, then wrong",
    "W→W": "wrong before and after",
  }).map(([name, text]) => ({ name: `${name} ${text}`, css: TRANSITIONS[name] }));
  fillFigure("transitions", data.figures.transitions, { panels, legend });
}

const LENGTHS = { "C→C": "var(--cc)", "W→C": "var(--wc)", "correct evaluations": "var(--ww)" };

function drawLengths() {
  const table = data.figures.lengths;
  const rows = records(table);
  const all = [...rows.map((row) => row.layers), data.layers];
  const x = { label: "layers", ...extent(all, 1), integer: true };
  const columns = (run, title, names) => (width) => {
    const own = rows.filter((row) => row.run === run && names.includes(row.paths));
    const stacks = names.map((name) => ({
      name,
      colour: LENGTHS[name],
      counts: new Map(own.filter((row) => row.paths === name).map((row) => [row.layers, row.count])),
    }));
    const totals = own.map(({ layers }) =>
      stacks.reduce((sum, { counts }) => sum + (counts.get(layers) ?? 0), 0),
    );
    const y = { low: 0, high: Math.max(1, ...totals), format: grouped, integer: true };
    const reference = { x: data.layers, label: `L = ${data.layers}` };
    return columnsPanel({ title, x, y, stacks, reference, width });
  };
  const panels = data.runs.map((run) => columns(run, many ? run : "Questions", ["C→C", "W→C"]));
  if (!many) panels.push(columns(data.runs[0], "All correct evaluations", ["correct evaluations"]));
  const legend = ["C→C", "W→C"].map((name) => ({ name, colour: LENGTHS[name], css: TRANSITIONS[name] }));
  fillFigure("lengths", table, { panels, legend });
}

drawSearches();
drawTransitions();
drawLengths();
