// The figures of searches. A run has one colour in all of them; a control search is dashed.

const data = embedded("data");
const many = data.runs.length > 1;
const colourOf = (run) => `var(--run-${data.runs.indexOf(run) + 1})`;
const runsLegend = data.runs.map((run) => ({ name: run, colour: colourOf(run) }));
const SEARCHES = ["search", "control"];
const searchLegend = [
  { name: "search for the correct answer", colour: "var(--ink)" },
  { name: "control search for a wrong one", colour: "var(--ink)", dashed: true }];
const shares = { low: 0, high: 1, format: (value) => `${Math.round(100 * value)} %` };

// Lines of one group of questions, a run's search and control after each other.
function linesOf(rows, questions, xName) {
  return data.runs.flatMap((run) => SEARCHES.map((search) => ({
    name: many ? `${run}, ${search}` : search,
    label: search,
    colour: colourOf(run),
    dashed: search === "control",
    rows: rows
      .filter((row) => row.run === run && row.questions === questions && row.search === search)
      .map((row) => ({ ...row, x: row[xName] })),
  }))).filter((line) => line.rows.length);
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
    .map(([questions, series]) => (width) => linePanel({
      title: panelTitle(questions), x: x(rows), y: shares, series, width,
      direct: !many && series.length > 1, bands: data.runs.length < 3, ...options.panel?.(questions, table),
    }));
  fillFigure(name, table, { panels, legend: many ? [...runsLegend, ...searchLegend] : [] });
}

function drawSearches() {
  drawShares("evaluations", ["all questions", "wrong before"],
    (rows) => ({ label: "evaluations per question", low: 0, high: 1.01 * Math.max(...rows.map((row) => row.evaluations)), integer: true }),
    { xName: "evaluations" });
  const reference = { x: data.layers, label: `L = ${data.layers}` };
  drawShares("depth", ["all questions", "correct before", "wrong before"],
    (rows) => ({ label: "layers allowed", ...extent([...rows.map((row) => row.layers), data.layers], 0.5), integer: true }),
    { xName: "layers", panel: () => ({ reference }) });
  drawShares("front", ["all questions", "wrong before"],
    (rows) => ({ label: "layers, mean over questions", ...extent([...rows.map((row) => row.layers), data.layers], 0.5) }),
    {
      xName: "layers",
      panel: (questions, table) => ({
        steps: false, reference, marks: records(table)
          .filter((row) => row.questions === questions && !SEARCHES.includes(row.search))
          .map((row) => ({
            name: many ? `${row.run}, ${row.search}` : row.search, x: row.layers, share: row.share,
            colour: row.search === "pretrained model" ? "var(--muted)" : colourOf(row.run), hollow: row.search === "pretrained model",
          })),
      }),
    });
}

const TRANSITIONS = { "C→C": "cc", "W→C": "wc", "C→W": "cw", "W→W": "ww" };

function drawTransitions() {
  const rows = records(data.figures.transitions);
  const panels = ["shortest correct path", "all paths tried"].map((paths) => (width) => barsPanel({
    title: panelTitle(paths), width,
    bars: data.runs.map((run) => {
      const own = rows.filter((row) => row.run === run && row.paths === paths);
      return {
        label: many ? `${run} · ` : "", n: own[0]?.n ?? 0, colour: many ? colourOf(run) : null,
        noun: paths === "all paths tried" ? "evaluations" : "questions",
        segments: own.filter((row) => row.count).map((row) => ({ name: row.transition, count: row.count, share: row.share, css: TRANSITIONS[row.transition] })),
      };
    }),
  }));
  const legend = Object.entries({
    "C→C": "correct before and after", "W→C": "wrong, then correct",
    "C→W": "correct, then wrong", "W→W": "wrong before and after",
  }).map(([name, text]) => ({ name: `${name} ${text}`, css: TRANSITIONS[name] }));
  fillFigure("transitions", data.figures.transitions, { panels, legend });
}

function drawLengths() {
  const rows = records(data.figures.lengths);
  if (!rows.length) return fillFigure("lengths", data.figures.lengths, {});
  const x = { label: "layers", ...extent([...rows.map((row) => row.layers), data.layers], 1), integer: true };
  const legend = [{ name: "C→C", css: "cc" }, { name: "W→C", css: "wc" }];
  const panels = data.runs.map((run) => (width) => {
    const stacks = legend.map(({ name, css }) => ({
      name, colour: `var(--${css})`,
      counts: new Map(rows.filter((row) => row.run === run && row.paths === name).map((row) => [row.layers, row.questions])),
    }));
    const totals = rows.filter((row) => row.run === run).map((row) =>
      stacks.reduce((sum, stack) => sum + (stack.counts.get(row.layers) ?? 0), 0));
    return columnsPanel({
      title: many ? run : "Questions", x, stacks, width, reference: { x: data.layers, label: `L = ${data.layers}` },
      y: { low: 0, high: Math.max(1, ...totals), format: grouped, integer: true },
    });
  });
  fillFigure("lengths", data.figures.lengths, { panels, legend });
}

const THIRDS = ["early third", "middle third", "late third"];

// The points of one group of paths, a run after the other; a single one with its control.
function ratioLines(rows, group) {
  const lines = data.runs.flatMap((run) => (many ? [{ run }] : [{ run }, { run, control: true }]));
  return lines.map(({ run, control = false }) => ({
    name: many ? run : control ? "control" : "search", colour: control ? "var(--muted)" : colourOf(run), dashed: control,
    rows: rows
      .filter((row) => row.run === run && row.paths === (control ? `control of ${group}` : group))
      .map((row) => ({ ...row, value: row.ratio })),
  })).filter((line) => line.rows.length);
}

function drawRatios() {
  const table = data.figures.ratios;
  const rows = records(table);
  const groups = ["C→C", "W→C"].filter((name) => rows.some((row) => row.paths === name));
  const size = data.layers;
  const [early, middle] = [Math.ceil(size / 3), Math.ceil((size - Math.ceil(size / 3)) / 2)];
  const edges = [0, early, early + middle, size];
  const values = rows.map((row) => row.ratio).filter((value) => !missing(value));
  const y = { low: Math.max(0, Math.min(0.95, ...values) - 0.1), high: Math.max(1.05, ...values) + 0.1, format: (value) => decimal(value, 1) };
  const layered = groups.map((group) => (width) => {
    const series = ratioLines(rows, group).map((line) => ({
      ...line, thirds: THIRDS.map((name) => line.rows.find((row) => row.layers === name)?.value),
      rows: line.rows.filter((row) => !THIRDS.includes(row.layers)).map((row) => ({ ...row, at: Number(row.layers) })),
    }));
    const spans = THIRDS.map((name, i) => ({
      name: width > 480 ? name : name.split(" ")[0], first: edges[i], last: edges[i + 1] - 1, values: series.map((line) => line.thirds[i]),
    }));
    return pointsPanel({
      title: `${group}: ${series.map((line) => `${grouped(line.rows[0].n)}${many ? "" : ` of the ${line.name}`}`).join(many ? " / " : ", ")} paths`,
      x: { label: "layer", low: -0.7, high: size - 0.3, integer: true }, y, count: size, series, spans, width, height: 280, step: 6,
    });
  });
  const thirds = groups.map((group) => (width) => pointsPanel({
    title: `${group} by thirds of the layers`, x: { label: "", low: -0.5, high: 2.5, names: THIRDS }, y: thirdsRange(rows), count: 3, width, height: 205, step: 26,
    series: ratioLines(rows, group).map((line) => ({
      ...line, rows: line.rows.filter((row) => THIRDS.includes(row.layers)).map((row) => ({ ...row, at: THIRDS.indexOf(row.layers) })),
    })),
  }));
  const legend = many ? runsLegend : [
    { name: "shortest paths to the correct answer", colour: colourOf(data.runs[0]), css: "disc" },
    { name: "shortest paths of control searches", colour: "var(--muted)", css: "ring" }];
  fillFigure("ratios", table, { panels: [...layered, ...thirds], legend, least: 480 });
}

function thirdsRange(rows) {
  const own = rows.filter((row) => THIRDS.includes(row.layers) && !missing(row.ratio));
  const { low, high } = extent([...own.flatMap((row) => [row.low, row.high]), 1], 0.03);
  return { low: Math.max(0, low), high, format: (value) => decimal(value, 2) };
}

const MAPS = [
  ["skipped", "Share of paths that skip the layer", "var(--accent)", percent],
  ["extra_runs", "Extra runs of the layer, per path", "var(--accent)", decimal],
  ["moved", "Share of paths that move the layer", "var(--accent)", percent]];

function drawUse() {
  const table = data.figures.use;
  const rows = records(table);
  // of several runs the control searches are in the table alone, or the maps would be long
  const drawn = rows.filter((row) => !many || !row.paths.startsWith("control"));
  const groups = [...new Map(drawn.map((row) => [`${row.run}\n${row.paths}`, row])).values()];
  // by repeats and skips together, a few of the paths tried move a layer where there are no moves
  const occurs = (row, key) => row[key] > (row.paths === "all paths tried" ? 0.01 : 0);
  const panels = MAPS.filter(([key]) => drawn.some((row) => occurs(row, key))).map(([key, title, colour, format]) => (width) => {
    const each = groups.map((group) => rows.filter((row) => row.run === group.run && row.paths === group.paths));
    return heatPanel({
      title, colour, format, width, columns: data.layers,
      rows: groups.map((group) => `${many ? `${group.run}: ` : ""}${group.paths} (${grouped(group.n)})`),
      values: each.map((own) => own.map((row) => row[key])),
      describe: (i, j) => MAPS.map(([name, text, , write]) => [`${text.toLowerCase()}: ${write(each[i][j][name])}`]),
    });
  });
  fillFigure("use", table, { panels, least: 4000 });
}

drawSearches();
drawTransitions();
drawLengths();
drawRatios();
drawUse();

