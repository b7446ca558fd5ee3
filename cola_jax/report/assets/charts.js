// Axes and lines. A panel is one <svg>, drawn at the width that it is shown at.

const EDGE = { top: 36, bottom: 38, left: 48 };

// Round numbers from low to high, about `count` of them.
function ticksOf(low, high, count, integer) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step =
    power * (integer ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).find((factor) => factor * power >= raw * 0.999);
  if (integer) step = Math.max(1, Math.round(step));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(10)));
}

// Removes the middle of a text that is wider than `width` pixels, as SVG does not wrap; `each` is the
// width of a character.
function fitted(text, width, each = 7.5) {
  const most = Math.max(8, Math.floor(width / each));
  if (text.length <= most) return text;
  const head = Math.floor(most / 3);
  return `${text.slice(0, head)}…${text.slice(head + 1 - most)}`;
}

// An <svg> with axes; returns it with the scales. `x` and `y` have label, low, high, format; `x` may
// have names of its own for numbers.
function axesPanel({ title, x, y, width, height = 260, right = 14 }) {
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "panel", "aria-hidden": "true" });
  const [plotWidth, plotHeight] = [width - EDGE.left - right, height - EDGE.top - EDGE.bottom];
  const scaleX = (value) => EDGE.left + (plotWidth * (value - x.low)) / (x.high - x.low || 1);
  const scaleY = (value) => EDGE.top + plotHeight * (1 - (value - y.low) / (y.high - y.low || 1));
  const base = EDGE.top + plotHeight;
  svg.append(shape("text", { class: "title", x: 0, y: 12 }, fitted(title, width, 8)));
  for (const tick of ticksOf(y.low, y.high, 4, y.integer)) {
    const at = scaleY(tick);
    svg.append(
      shape("line", { class: "grid", x1: EDGE.left, x2: EDGE.left + plotWidth, y1: at, y2: at }),
      shape("text", { class: "tick", x: EDGE.left - 7, y: at + 4, "text-anchor": "end" }, y.format(tick)),
    );
  }
  const room = Math.max(2, Math.min(10, Math.floor(plotWidth / 55)));
  for (const tick of x.names ? x.names.keys() : ticksOf(x.low, x.high, room, x.integer)) {
    const at = scaleX(tick);
    svg.append(
      shape("line", { class: "axis", x1: at, x2: at, y1: base, y2: base + 4 }),
      shape(
        "text",
        { class: "tick", x: at, y: base + 17, "text-anchor": "middle" },
        x.names?.[tick] ?? grouped(tick),
      ),
    );
  }
  svg.append(
    shape("line", { class: "axis", x1: EDGE.left, x2: EDGE.left + plotWidth, y1: base, y2: base }),
    shape(
      "text",
      { class: "label", x: EDGE.left + plotWidth / 2, y: height - 5, "text-anchor": "middle" },
      x.label,
    ),
  );
  return { svg, scaleX, scaleY, base, plotWidth, plotHeight };
}

// A panel of lines. Each of `series` has name, colour, dashed and rows of x, share, low, high, n.
// Lines that are steps hold their value until the next row.
function linePanel({
  title,
  x,
  y,
  series,
  steps = true,
  bands = true,
  marks = [],
  reference,
  direct,
  width,
}) {
  const right = direct ? 58 : 14;
  const panel = axesPanel({ title, x, y, width, right });
  const { svg, scaleX, scaleY, plotHeight } = panel;
  if (reference && reference.x >= x.low && reference.x <= x.high) {
    const at = scaleX(reference.x);
    svg.append(
      shape("line", { class: "reference", x1: at, x2: at, y1: EDGE.top, y2: EDGE.top + plotHeight }),
      shape("text", { class: "tick", x: at, y: EDGE.top - 5, "text-anchor": "middle" }, reference.label),
    );
  }
  const drawn = series.filter((one) => one.rows.length);
  for (const one of bands ? drawn : []) {
    const edge = (key) =>
      corners(one.rows, x.high, steps).map(([at, row]) => `${scaleX(at)} ${scaleY(row[key])}`);
    const d = `M${[...edge("high"), ...edge("low").reverse()].join("L")}Z`;
    svg.append(shape("path", { class: "band", d, style: { fill: one.colour } }));
  }
  for (const one of drawn) {
    const points = corners(one.rows, x.high, steps).map(([at, row]) => `${scaleX(at)} ${scaleY(row.share)}`);
    svg.append(
      shape("path", {
        class: `line${one.dashed ? " dashed" : ""}`,
        d: `M${points.join("L")}`,
        style: { stroke: one.colour },
      }),
    );
  }
  if (direct) svg.append(...endLabels(drawn, panel, steps ? x.high : null));
  for (const mark of marks) {
    const node = shape("circle", {
      class: mark.hollow ? "dot hollow" : "dot",
      cx: scaleX(mark.x),
      cy: scaleY(mark.share),
      r: 4.5,
      style: { "--colour": mark.colour },
    });
    svg.append(node);
  }
  follow(panel, drawn, x, steps, marks);
  return svg;
}

// The corners of a line as [x, row]; steps go on to the end of the axis.
function corners(rows, end, steps) {
  if (!steps) return rows.map((row) => [row.x, row]);
  return rows.flatMap((row, i) => [
    [row.x, row],
    [rows[i + 1]?.x ?? end, row],
  ]);
}

// Names of lines at their ends, moved apart where they would overlap.
function endLabels(series, { scaleX, scaleY, base }, end) {
  const places = series
    .map((one) => ({ one, y: scaleY(one.rows.at(-1).share) + 4 }))
    .sort((a, b) => a.y - b.y);
  places.forEach((place, i) => {
    if (i) place.y = Math.max(place.y, places[i - 1].y + 13);
  });
  for (let i = places.length - 1; i >= 0; i--) {
    places[i].y = Math.min(places[i].y, (places[i + 1]?.y ?? base + 13) - 13);
  }
  return places.map(({ one, y }) =>
    shape(
      "text",
      { class: "name", x: scaleX(end ?? one.rows.at(-1).x) + 6, y, style: { fill: one.colour } },
      one.label,
    ),
  );
}

// Shows the values at the pointer.
function follow({ svg, scaleX, scaleY, plotHeight }, series, x, steps, marks) {
  const places = [...new Set(series.flatMap((one) => one.rows.map((row) => row.x)))].sort((a, b) => a - b);
  if (!places.length) return;
  const rule = shape("line", {
    class: "rule",
    y1: EDGE.top,
    y2: EDGE.top + plotHeight,
    visibility: "hidden",
  });
  svg.append(rule);
  const at = (one, place) =>
    steps
      ? one.rows.findLast((row) => row.x <= place)
      : one.rows.reduce((a, b) => (Math.abs(b.x - place) < Math.abs(a.x - place) ? b : a));
  const show = (place, clientX, clientY) => {
    rule.setAttribute("x1", scaleX(place));
    rule.setAttribute("x2", scaleX(place));
    rule.setAttribute("visibility", "visible");
    const lines = series
      .map((one) => [one, at(one, place)])
      .filter(([, row]) => row)
      .map(([one, row]) => {
        const where = steps ? "" : ` at ${decimal(row.x, 1)}`;
        return [
          `${one.name}${where}: ${percent(row.share)}${between(row)}, n = ${grouped(row.n)}`,
          one.colour,
        ];
      });
    const points = marks.map((mark) => [
      `${mark.name}: ${percent(mark.share)} on ${decimal(mark.x, 1)} layers`,
      mark.colour,
    ]);
    showTip(clientX, clientY, `${x.label}: ${steps ? grouped(place) : decimal(place, 1)}`, [
      ...lines,
      ...points,
    ]);
  };
  track(
    svg,
    (event) => {
      const box = svg.getBoundingClientRect();
      const here = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const value = x.low + ((here - scaleX(x.low)) / (scaleX(x.high) - scaleX(x.low))) * (x.high - x.low);
      const place = steps
        ? Math.round(Math.max(x.low, Math.min(x.high, value)))
        : places.reduce((a, b) => (Math.abs(b - value) < Math.abs(a - value) ? b : a));
      show(place, event.clientX, event.clientY);
    },
    () => {
      rule.setAttribute("visibility", "hidden");
      hideTip();
    },
  );
}
