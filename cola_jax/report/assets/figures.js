// Figures: panels of steps, points, bars or maps, each with a legend, a table and a CSV file.

const [GAP, LEAST, PAPER] = [28, 330, 720]; // pixels between panels, of a panel, and of printed ones
const EDGE = { top: 32, right: 14, bottom: 38, left: 46 };

// Return round numbers from low to high, about `count` of them.
function ticksOf(low, high, count, integer) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  if (integer) step = Math.max(1, Math.round(step));
  const first = Math.ceil(low / step - 1e-9);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length }, (_, i) => Number(((first + i) * step).toFixed(10)));
}

const digitsOf = (ticks) => [0, 1, 2, 3].find((d) => ticks.every((x) => Number(x.toFixed(d)) === x)) ?? 4;

function valueOf({ percent }, [, value, low, high, n]) {
  const format = (x) => (percent ? `${(100 * x).toFixed(1)} %` : fixed(x, 2));
  const interval = low === null ? "" : ` (${format(low)} to ${format(high)})`;
  return `${format(value)}${interval}, n = ${grouped(n)}`;
}

// Return the range of the values and intervals, so that no error bar leaves the frame.
function rangeOf({ percent, kind, reference, series }) {
  if (percent) return [0, 1];
  const values = series.flatMap(({ rows }) => rows.flatMap((row) => row.slice(1, 4)));
  values.push(...(kind === "bars" ? [0] : []), ...(reference?.y === undefined ? [] : [reference.y]));
  const known = values.filter((value) => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const pad = 0.05 * (high - low || 1);
  return [low < 0 || low > pad ? low - pad : 0, high + pad];
}

// Draw the frame of a panel; return it with its scales and its last place across.
function frameOf(panel, width, height = 270) {
  const { series, reference, kind } = panel;
  const pad = kind === "steps" ? 0 : 0.7;
  const xs = series.flatMap(({ rows }) => rows.map(([x]) => x)).concat(reference?.x ?? []);
  const [least, most] = [Math.min(...xs), Math.max(...xs)];
  // the last step is as long as can be seen
  const [first, last] = [least - pad, most + (kind === "steps" ? 0.02 * (most - least) : pad)];
  const [low, high] = rangeOf(panel);
  const [top, base, left, end] = [EDGE.top, height - EDGE.bottom, EDGE.left, width - EDGE.right];
  const X = (x) => left + ((end - left) * (x - first)) / (last - first || 1);
  const Y = (y) => base - ((base - top) * (y - low)) / (high - low || 1);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "panel", "aria-hidden": "true" });
  const line = (css, x1, y1, x2, y2) => svg.append(shape("line", { class: css, x1, y1, x2, y2 }));
  const write = (css, x, y, anchor, text) =>
    svg.append(shape("text", { class: css, x, y, "text-anchor": anchor }, text));
  write("title", 0, 12, "start", panel.title);
  const scale = panel.percent ? 100 : 1;
  const ticks = ticksOf(scale * low, scale * high, 5, false);
  for (const tick of ticks) {
    line("grid", left, Y(tick / scale), end, Y(tick / scale));
    const text = fixed(tick, digitsOf(ticks)) + (panel.percent ? " %" : "");
    write("tick", left - 6, Y(tick / scale) + 4, "end", text);
  }
  for (const x of ticksOf(first, last, Math.max(2, Math.min(10, (end - left) / 55)), true)) {
    line("axis", X(x), base, X(x), base + 4);
    write("tick", X(x), base + 17, "middle", grouped(x));
  }
  line("axis", left, base, end, base);
  write("label", (left + end) / 2, height - 5, "middle", panel.x);
  if (reference?.x !== undefined) {
    line("reference", X(reference.x), top, X(reference.x), base);
    write("tick", Math.min(X(reference.x), end - 24), top - 5, "middle", reference.label);
  }
  if (reference?.y !== undefined) line("reference", left, Y(reference.y), end, Y(reference.y));
  if (kind === "bars") line("axis", left, Y(0), end, Y(0));
  return { svg, X, Y, last };
}

// Draw a series into its group as steps with a band.
function drawSteps(add, { rows }, { X, Y, last }, banded) {
  const path = (at) =>
    rows.map((row, i) => `${X(row[0])} ${Y(row[at])}L${X(rows[i + 1]?.[0] ?? last)} ${Y(row[at])}`);
  const back = path(2).reverse().map(turned);
  if (banded && rows[0][2] !== null) add("path", { class: "band", d: `M${[...path(3), ...back].join("L")}Z` });
  add("path", { class: "line", d: `M${path(1).join("L")}` });
}

// Draw a series into its group as points or bars with intervals, moved aside by a share of a slot.
function drawMarks(add, { rows, css }, { X, Y }, kind, slot, shift) {
  for (const [x, value, low, high] of rows) {
    const at = X(x) + shift * slot;
    if (css === "tried") {
      add("line", { class: "line", x1: X(x - 0.45), x2: X(x + 0.45), y1: Y(value), y2: Y(value) });
      continue;
    }
    if (kind === "bars") {
      const [y, size] = [Math.min(Y(value), Y(0)), Math.max(0.5, Math.abs(Y(value) - Y(0)))];
      add("rect", { x: at - 0.45 * slot, y, width: 0.9 * slot, height: size });
    }
    if (low !== null) add("line", { class: "whisker", x1: at, x2: at, y1: Y(low), y2: Y(high) });
    if (kind === "points") add("circle", { cx: at, cy: Y(value), r: Math.min(3, slot * 0.45) });
  }
}

function drawPanel(panel, width) {
  if (panel.kind === "map") return drawMap(panel, width);
  if (panel.kind === "strip") return drawStrips(panel, Math.min(width, PAPER));
  const { series, kind } = panel;
  const frame = frameOf(panel, width);
  const { svg, X } = frame;
  const marked = series.filter(({ css }) => css !== "tried");
  const slot = (X(1) - X(0)) / (marked.length + 1);
  for (const each of series) {
    const group = shape("g", { class: `series ${each.css}` });
    const add = (name, attributes) => group.append(shape(name, attributes));
    svg.append(group);
    if (kind === "steps") drawSteps(add, each, frame, series.length < 5);
    else drawMarks(add, each, frame, kind, slot, marked.indexOf(each) - (marked.length - 1) / 2);
  }
  const places = [...new Set(series.flatMap(({ rows }) => rows.map(([x]) => x)))].sort((a, b) => a - b);
  track(svg, (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const place = places.reduce((a, b) => (Math.abs(X(b) - at) < Math.abs(X(a) - at) ? b : a));
    const lines = series.flatMap(({ name, css, rows }) => {
      const row = rows.findLast(([x]) => (kind === "steps" ? x <= place : x === place));
      return row ? [[`${name}: ${valueOf(panel, row)}`, `series ${css}`]] : [];
    });
    showTip(event, `${panel.x} ${grouped(place)}`, lines);
  });
  return svg;
}

// Draw a line for each series: the range of expected shares as a bar, their mean as a notch, and the
// share reached as a dot.
function drawStrips({ series }, width) {
  const [left, end, step, top] = [4, width - 40, 48, 22];
  const base = top + step * series.length;
  const X = (share) => left + (end - left) * share;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${base + 20}`, class: "panel strips", role: "img" });
  const draw = (name, attributes, ...children) => svg.append(shape(name, attributes, ...children));
  const write = (css, x, y, anchor, text) => draw("text", { class: css, x, y, "text-anchor": anchor }, text);
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    draw("line", { class: "grid", x1: X(tick), x2: X(tick), y1: top + 4, y2: base - 4 });
    write("tick", X(tick), base + 10, tick ? "middle" : "start", `${100 * tick} %`);
  }
  const words = series.map(({ name, css, rows: [[reached, expected, low, high, n]] }, i) => {
    const y = top + step * i;
    const counts = [`reached ${percent(reached)}`, `expected ${percent(expected)} (${percent(low)} to ${percent(high)})`];
    write("title", left, y, "start", `${series.length > 1 || width > 500 ? name : name.split(":")[0]}, n = ${grouped(n)}`);
    const group = shape("g", { class: "series control" });
    group.append(
      shape("rect", { class: "range", x: X(low), y: y + 9, width: Math.max(2, X(high) - X(low)), height: 14 }),
      shape("line", { class: "whisker", x1: X(expected), x2: X(expected), y1: y + 5, y2: y + 27 }),
    );
    const dot = shape("g", { class: `series ${css}` });
    dot.append(shape("circle", { class: "dot", cx: X(reached), cy: y + 16, r: 6 }));
    svg.append(group, dot);
    const text = `${name}: ${counts.join("; ")}; n = ${grouped(n)}`;
    track(group, (event) => showTip(event, name, counts.map((line) => [line])));
    track(dot, (event) => showTip(event, name, counts.map((line) => [line])));
    return text;
  });
  svg.setAttribute("aria-label", words.join(". "));
  return svg;
}

// Turn "x1 y1Lx2 y2" around, to go back along a line.
const turned = (text) => text.split("L").reverse().join("L");

// Draw blocks as cells: repeats above the diagonal, by first layer down and last layer across, and
// skips below it, the other way round.
function drawMap(panel, width) {
  const [left, top, size] = [40, 26, panel.layers + 1];
  const cell = (Math.min(width, 620) - left - 4) / size;
  const end = top + size * cell;
  const svg = shape("svg", {
    viewBox: `0 0 ${Math.min(width, 620)} ${end + 62}`, class: "panel map", "aria-hidden": "true",
  });
  const write = (x, y, anchor, text, css = "tick") =>
    svg.append(shape("text", { class: css, x, y, "text-anchor": anchor }, text));
  write(0, 12, "start", panel.title, "title");
  const blocks = panel.series.flatMap(({ name, rows }) => rows.map((row) => [name, ...row]));
  const values = blocks.map((block) => block[3]).sort((a, b) => a - b);
  // the large losses of most blocks would hide the gains of the best
  const largest = Math.max(values.at(-1), -values[Math.floor(values.length / 2)], 0.01);
  const colour = (share) => ({
    fill: share > 0 ? "var(--better)" : "var(--worse)", "fill-opacity": Math.min(1, Math.abs(share)),
  });
  let best;
  for (const [name, first, last, value, low, high, p] of blocks) {
    const [row, column] = name === "repeat" ? [first, last + 1] : [last + 1, first];
    const [x, y] = [left + column * cell, top + row * cell];
    const mark = shape("rect", {
      class: "cell", x, y, width: cell - 0.5, height: cell - 0.5, style: colour(value / largest),
    });
    svg.append(mark);
    const text = `${signed(value)} (${signed(low)} to ${signed(high)}), p = ${p.toFixed(3)}`;
    track(mark, (event) => showTip(event, `${name} ${first}${last > first ? `–${last}` : ""}`, [[text]]));
    if (panel.best.join() === [name, first, last].join()) best = { cx: x + cell / 2, cy: y + cell / 2, r: Math.max(6, cell * 0.7) };
  }
  svg.append(shape("circle", { class: "best", ...best }));
  for (const tick of ticksOf(0, panel.layers, Math.min(12, width / 40), true)) {
    write(left + (tick + 0.5) * cell, end + 15, "middle", tick);
    write(left - 6, top + (tick + 0.5) * cell + 4, "end", tick);
  }
  write(left + size * cell, end + 32, "end", "repeat: from layer ↓ to before layer →");
  write(left, end + 32, "start", "skip: from layer → to before layer ↓");
  for (let i = 0; i < 17; i++) {
    svg.append(shape("rect", {
      x: left + 60 + i * 9, y: end + 44, width: 9, height: 11, style: colour((i - 8) / 8),
    }));
  }
  write(left + size * cell, top + 12, "end", "repeated");
  write(left + 4, end - 6, "start", "skipped");
  write(left + 54, end + 54, "end", `≤ ${signed(-largest)}`);
  write(left + 220, end + 54, "start", signed(largest));
  return svg;
}

function csvOf(rows) {
  const cell = (value) => {
    let text = value === null ? "" : String(value);
    // a spreadsheet would take such a text as a formula
    if (typeof value === "string" && /^[=+\-@＝＋－＠\t\r\n]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function toolsOf(name, panels) {
  const columns = ["panel", "series", ...panels[0].columns];
  const rows = panels.flatMap(({ title, series }) =>
    series.flatMap((each) => each.rows.map((row) => [title, each.name, ...row])),
  );
  const file = new Blob([csvOf([columns, ...rows])], { type: "text/csv" });
  const link = element("a", { download: `${name}.csv`, href: URL.createObjectURL(file) }, "CSV");
  const details = element("details", {}, element("summary", {}, "Table"));
  const line = (cells, tag) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell ?? "–")));
  const fillTable = () => {
    const table = element("table", {}, line(columns, "th"), ...rows.map((row) => line(row, "td")));
    const region = { class: "wide", tabindex: "0", role: "region", "aria-label": "Numbers" };
    details.append(element("div", region, table));
  };
  details.addEventListener("toggle", fillTable, { once: true }); // few readers open it
  return element("div", { class: "figure-tools" }, link, details);
}

for (const { id, panels } of data.figures) {
  const figure = document.getElementById(`figure-${id}`);
  const plot = element("div", { class: "plot" });
  const names = new Map(panels.flatMap(({ kind, series }) => {
    if (kind === "map") return [];
    if (kind !== "strip") return series.map(({ name, css }) => [name, css]);
    return [["reached", "dot"], ["expected, with 95 % of draws", "range control"]];
  }));
  const legend = [...names].map(([name, css]) =>
    element("li", {}, element("i", { class: `series ${css}` }), name));
  const draw = (width) => {
    const across = Math.max(1, Math.min(panels.length, 2, Math.floor((width + GAP) / (LEAST + GAP))));
    plot.style.setProperty("grid-template-columns", `repeat(${across}, minmax(0, 1fr))`);
    const each = (width - GAP * (across - 1)) / across;
    plot.replaceChildren(...panels.map((panel) => drawPanel(panel, each)));
  };
  figure.querySelector("figcaption").before(element("ul", { class: "legend" }, ...legend), plot);
  if (panels[0].kind !== "strip") figure.append(toolsOf(id, panels)); // a table stands below
  let width = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth === width || !plot.clientWidth) return;
    width = plot.clientWidth;
    draw(width);
  }).observe(plot);
  addEventListener("beforeprint", () => draw(PAPER));
  addEventListener("afterprint", () => draw(width));
}
