// The maps of a scan: repeats above the diagonal, skips below it.

const { layers, figures: maps, best } = embedded("data");
const MAPS = {
  accuracy: {
    value: "difference",
    write: (x) => signed(100 * x, 1),
    unit: "points of accuracy",
    mark: best.accuracy,
  },
  margin: { value: "margin", write: (x) => signed(x), unit: "nats of margin", mark: best.margin },
};

// Row and column of a block: from its first layer to the one after its last, or the reverse.
const placeOf = ({ kind, start, stop }) => (kind === "repeat" ? [start, stop] : [stop, start]);
const nameOf = ({ kind, start, stop }) => `${kind} ${start}${stop - start > 1 ? `-${stop - 1}` : ""}`;

function scanMap(cells, { value, write, unit, mark }, width) {
  const [left, top, size] = [44, 8, layers + 1];
  const cell = (Math.min(width, 620) - left - 4) / size;
  const height = top + size * cell + 78;
  const svg = shape("svg", {
    viewBox: `0 0 ${Math.min(width, 620)} ${height}`,
    class: "panel map",
    "aria-hidden": "true",
  });
  const values = cells.map((one) => one[value]).sort((a, b) => a - b);
  // what most blocks do to the model would hide what the best ones do
  const largest = Math.max(values.at(-1), -values[Math.floor(values.length / 2)], 0.01);
  for (const one of cells) {
    const [row, column] = placeOf(one);
    const rect = shape("rect", {
      class: "cell",
      x: left + column * cell,
      y: top + row * cell,
      width: cell - 0.5,
      height: cell - 0.5,
      style: {
        fill: one[value] > 0 ? "var(--better)" : "var(--worse)",
        "fill-opacity": Math.min(1, Math.abs(one[value]) / largest),
      },
    });
    explain(rect, nameOf(one), [
      [`${write(one[value])} ${unit} (${write(one[`${value}_low`])} to ${write(one[`${value}_high`])})`],
      [`${percent(one.correct)} correct on ${one.layers} layers`],
      [`p = ${one[value === "margin" ? "p_margin" : "p"].toFixed(3)}`],
    ]);
    svg.append(rect);
  }
  const [row, column] = placeOf(mark);
  const centre = (at) => (at + 0.5) * cell;
  svg.append(
    shape("line", { class: "axis", x1: left, y1: top, x2: left + size * cell, y2: top + size * cell }),
    shape("circle", {
      class: "best",
      cx: left + centre(column),
      cy: top + centre(row),
      r: Math.max(6, cell * 0.7),
    }),
  );
  const end = top + size * cell;
  for (const tick of ticksOf(0, layers, Math.min(12, width / 40), true)) {
    svg.append(
      shape("text", { class: "tick", x: left + centre(tick), y: end + 15, "text-anchor": "middle" }, tick),
      shape("text", { class: "tick", x: left - 6, y: top + centre(tick) + 4, "text-anchor": "end" }, tick),
    );
  }
  svg.append(
    shape(
      "text",
      { class: "label", x: left + (size * cell) / 2, y: end + 33, "text-anchor": "middle" },
      "repeated up to, or skipped from, layer",
    ),
    shape(
      "text",
      {
        class: "label",
        transform: `translate(12 ${top + (size * cell) / 2}) rotate(-90)`,
        "text-anchor": "middle",
      },
      "repeated from, or skipped up to, layer",
    ),
    ...diverging(left, end + 50, largest, write),
  );
  return svg;
}

// The scale of colour, from worse to better.
function diverging(x, y, largest, write) {
  const steps = Array.from({ length: 17 }, (_, i) => (i - 8) / 8);
  return [
    ...steps.map((step, i) =>
      shape("rect", {
        x: x + 60 + i * 9,
        y,
        width: 9,
        height: 11,
        style: { fill: step > 0 ? "var(--better)" : "var(--worse)", "fill-opacity": Math.abs(step) },
      }),
    ),
    shape("text", { class: "tick", x: x + 54, y: y + 10, "text-anchor": "end" }, `≤ ${write(-largest)}`),
    shape("text", { class: "tick", x: x + 60 + 8.5 * 9, y: y + 24, "text-anchor": "middle" }, "0"),
    shape("text", { class: "tick", x: x + 66 + 17 * 9, y: y + 10 }, write(largest)),
  ];
}

for (const [name, map] of Object.entries(MAPS)) {
  const cells = records(maps[name]);
  fillFigure(name, maps[name], { panels: [(width) => scanMap(cells, map, width)] });
}
