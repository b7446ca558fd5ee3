// Bars, heat maps, and points with intervals.

// A row of stacked segments for each of `bars`: label, n, noun, colour, and segments of name, count,
// share and css.
function barsPanel({ title, bars, width }) {
  const [top, pitch, thick] = [22, 50, 24];
  const height = top + bars.length * pitch - 6;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "panel", "aria-hidden": "true" });
  svg.append(shape("text", { class: "title", x: 0, y: 12 }, title));
  bars.forEach((bar, i) => {
    const y = top + i * pitch;
    const about = `${grouped(bar.n)} ${bar.noun}`;
    svg.append(
      shape(
        "text",
        { class: "tick", x: 0, y: y + 12, style: bar.colour ? { fill: bar.colour } : {} },
        (bar.label ? `${fitted(bar.label, width - 7.5 * (about.length + 3))} · ` : "") + about,
      ),
    );
    let x = 0;
    for (const segment of bar.segments) {
      const size = segment.share * width;
      const rect = shape("rect", {
        class: `segment ${segment.css}`,
        x,
        y: y + 17,
        width: Math.max(0, size - 1.5),
        height: thick,
      });
      explain(rect, bar.label ? `${bar.label} · ${segment.name}` : segment.name, [
        [`${grouped(segment.count)} of ${grouped(bar.n)}, ${percent(segment.share)}`],
      ]);
      svg.append(rect);
      const text = `${segment.name} ${grouped(segment.count)}`;
      const short = [text, grouped(segment.count)].find((one) => one.length * 7 + 8 < size);
      if (short) svg.append(shape("text", { class: `inside ${segment.css}`, x: x + 6, y: y + 33 }, short));
      x += size;
    }
  });
  return svg;
}

// Columns of stacked counts over whole numbers. Each of `stacks` has name, colour, counts by number.
function columnsPanel({ title, x, y, stacks, reference, width }) {
  const panel = axesPanel({ title, x, y, width, height: 220 });
  const { svg, scaleX, scaleY, base } = panel;
  const size = Math.max(2, (scaleX(1) - scaleX(0)) * 0.82);
  const at = scaleX(reference.x);
  svg.append(
    shape("line", { class: "reference", x1: at, x2: at, y1: EDGE.top, y2: base }),
    shape("text", { class: "tick", x: at, y: EDGE.top - 4, "text-anchor": "middle" }, reference.label),
  );
  for (let value = Math.ceil(x.low); value <= x.high; value++) {
    let below = 0;
    const lines = stacks.map((stack) => [
      `${stack.name}: ${grouped(stack.counts.get(value) ?? 0)}`,
      stack.colour,
    ]);
    for (const stack of stacks) {
      const count = stack.counts.get(value) ?? 0;
      if (!count) continue;
      const y0 = scaleY(below + count);
      const rect = shape("rect", {
        x: scaleX(value) - size / 2,
        y: y0,
        width: size,
        height: Math.max(0, scaleY(below) - y0 - 0.5),
        style: { fill: stack.colour },
      });
      explain(rect, `${value} layers`, lines);
      svg.append(rect);
      below += count;
    }
  }
  return svg;
}

// Cells shaded from nothing to the full colour. `values` are [rows][columns], null for no cell.
function heatPanel({ title, rows, values, columns, colour, format, describe, width }) {
  const narrow = width < 560;
  const label = narrow ? 0 : Math.min(width / 3, 12 + 7.5 * Math.max(...rows.map((row) => row.length)));
  const pitch = narrow ? 36 : 21;
  const [top, cell] = [24, (width - label) / columns];
  const height = top + rows.length * pitch + 20;
  const largest = Math.max(0.01, ...values.flat().filter((value) => value !== null));
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "panel", "aria-hidden": "true" });
  svg.append(
    shape("text", { class: "title", x: 0, y: 12 }, title),
    ...ramp(width - 96, 2, colour, "0", format(largest)),
  );
  rows.forEach((row, i) => {
    const y = top + i * pitch;
    const name = fitted(row, narrow ? width : label);
    svg.append(shape("text", { class: "tick", x: 0, y: y + (narrow ? 11 : 14) }, name));
    values[i].forEach((value, j) => {
      const rect = shape("rect", {
        class: "cell",
        x: label + j * cell,
        y: y + (narrow ? 15 : 0),
        width: cell - 1,
        height: 19,
        style: { fill: colour, "fill-opacity": (value ?? 0) / largest },
      });
      explain(rect, `${row}, layer ${j}`, describe(i, j));
      svg.append(rect);
    });
  });
  for (const tick of ticksOf(0, columns - 1, Math.min(15, (width - label) / 32), true)) {
    svg.append(
      shape(
        "text",
        { class: "tick", x: label + (tick + 0.5) * cell, y: height - 5, "text-anchor": "middle" },
        tick,
      ),
    );
  }
  return svg;
}

// A scale of colour, from nothing to the full one.
function ramp(x, y, colour, low, high) {
  const cells = Array.from({ length: 8 }, (_, i) =>
    shape("rect", {
      x: x + i * 6,
      y,
      width: 6,
      height: 10,
      style: { fill: colour, "fill-opacity": (i + 1) / 8 },
    }),
  );
  return [
    ...cells,
    shape("text", { class: "tick", x: x - 4, y: y + 9, "text-anchor": "end" }, low),
    shape("text", { class: "tick", x: x + 52, y: y + 9 }, high),
  ];
}

// Points with intervals over `count` layers or thirds, against a line at 1. Each of `series` has name,
// colour and rows of at, value, low, high; each of `spans` has name, first, last, and values by series.
function pointsPanel({ title, x, y, count, series, spans = [], width, height, step }) {
  const panel = axesPanel({ title, x, y, width, height });
  const { svg, scaleX, scaleY, base } = panel;
  const inside = (value) => scaleY(Math.max(y.low, Math.min(y.high, value)));
  const one = scaleY(1);
  svg.append(shape("line", { class: "reference", x1: scaleX(x.low), x2: scaleX(x.high), y1: one, y2: one }));
  spans.forEach(({ name, first, last }, i) => {
    const [from, to] = [scaleX(first - 0.5), scaleX(last + 0.5)];
    if (i) svg.append(shape("line", { class: "grid", x1: from, x2: from, y1: EDGE.top, y2: base }));
    svg.append(
      shape("text", { class: "tick", x: (from + to) / 2, y: EDGE.top - 4, "text-anchor": "middle" }, name),
    );
  });
  series.forEach((line, k) => {
    const shift =
      (k - (series.length - 1) / 2) * Math.min(step, (scaleX(1) - scaleX(0)) / (series.length + 1));
    for (const { first, last, values } of spans) {
      const value = values[k];
      if (missing(value)) continue;
      svg.append(
        shape("line", {
          class: "span",
          x1: scaleX(first - 0.4),
          x2: scaleX(last + 0.4),
          y1: inside(value),
          y2: inside(value),
          style: { stroke: line.colour },
        }),
      );
    }
    for (const row of line.rows.filter((each) => !missing(each.value))) {
      const at = scaleX(row.at) + shift;
      svg.append(
        shape("line", {
          class: "whisker",
          x1: at,
          x2: at,
          y1: inside(row.low),
          y2: inside(row.high),
          style: { stroke: line.colour },
        }),
        shape("circle", {
          class: line.dashed ? "dot hollow" : "dot",
          cx: at,
          cy: inside(row.value),
          r: 2.8,
          style: { "--colour": line.colour },
        }),
      );
    }
  });
  const wide = scaleX(1) - scaleX(0);
  for (let place = 0; place < count; place++) {
    const target = shape("rect", {
      class: "target",
      x: scaleX(place) - wide / 2,
      y: EDGE.top,
      width: wide,
      height: base - EDGE.top,
    });
    explain(
      target,
      x.names?.[place] ?? `layer ${place}`,
      series.flatMap((line) => {
        const row = line.rows.find((each) => each.at === place);
        return row
          ? [
              [
                `${line.name}: ${decimal(row.value)} (${decimal(row.low)} to ${decimal(row.high)}), n = ${grouped(row.n)}`,
                line.colour,
              ],
            ]
          : [];
      }),
    );
    svg.append(target);
  }
  return svg;
}
