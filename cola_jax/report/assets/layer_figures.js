// How paths use the layers.

const THIRDS = ["early third", "middle third", "late third"];

// The points of one group of paths, a run after the other; a single one with its control.
function ratioLines(rows, group) {
  const lines = data.runs.flatMap((run) => (many ? [{ run }] : [{ run }, { run, control: true }]));
  return lines
    .map(({ run, control = false }) => ({
      name: many ? run : control ? "control" : "search",
      colour: control ? "var(--muted)" : colourOf(run),
      dashed: control,
      rows: rows
        .filter((row) => row.run === run && row.paths === (control ? `control of ${group}` : group))
        .map((row) => ({ ...row, value: row.ratio })),
    }))
    .filter((line) => line.rows.length);
}

function countsOf(series) {
  const counts = series.map((line) => grouped(line.rows[0].n));
  if (many) return `${counts.join(" / ")} paths`;
  return counts.map((count, i) => `${count} ${series[i].dashed ? "of the control" : "paths"}`).join(", ");
}

function drawRatios() {
  const table = data.figures.ratios;
  const rows = records(table);
  const groups = ["C→C", "W→C"].filter((name) => rows.some((row) => row.paths === name));
  const size = data.layers;
  const [early, middle] = [Math.ceil(size / 3), Math.ceil((size - Math.ceil(size / 3)) / 2)];
  const edges = [0, early, early + middle, size];
  const values = rows.map((row) => row.ratio).filter((value) => !missing(value));
  const y = {
    low: Math.max(0, Math.min(0.95, ...values) - 0.1),
    high: Math.max(1.05, ...values) + 0.1,
    format: (value) => decimal(value, 1),
  };
  const layered = groups.map((group) => (width) => {
    const series = ratioLines(rows, group).map((line) => ({
      ...line,
      thirds: THIRDS.map((name) => line.rows.find((row) => row.layers === name)?.value),
      rows: line.rows
        .filter((row) => !THIRDS.includes(row.layers))
        .map((row) => ({ ...row, at: Number(row.layers) })),
    }));
    const spans = THIRDS.map((name, i) => ({
      name: width > 480 ? name : name.split(" ")[0],
      first: edges[i],
      last: edges[i + 1] - 1,
      values: series.map((line) => line.thirds[i]),
    }));
    return pointsPanel({
      title: `${group}: ${countsOf(series)}`,
      x: { label: "layer", low: -0.7, high: size - 0.3, integer: true },
      y,
      count: size,
      series,
      spans,
      width,
      height: 280,
      step: 6,
    });
  });
  const thirds = groups.map(
    (group) => (width) =>
      pointsPanel({
        title: `${group} by thirds of the layers`,
        x: { label: "", low: -0.5, high: 2.5, names: THIRDS },
        y: thirdsRange(rows),
        count: 3,
        width,
        height: 205,
        step: 26,
        series: ratioLines(rows, group).map((line) => ({
          ...line,
          rows: line.rows
            .filter((row) => THIRDS.includes(row.layers))
            .map((row) => ({ ...row, at: THIRDS.indexOf(row.layers) })),
        })),
      }),
  );
  const legend = many
    ? runsLegend
    : [
        { name: "shortest paths to the correct answer", colour: colourOf(data.runs[0]), css: "disc" },
        { name: "shortest paths of control searches", colour: "var(--muted)", css: "ring" },
      ];
  fillFigure("ratios", table, { panels: [...layered, ...thirds], legend, least: 340, most: 2 });
}

function thirdsRange(rows) {
  const own = rows.filter((row) => THIRDS.includes(row.layers) && !missing(row.ratio));
  const { low, high } = extent([...own.flatMap((row) => [row.low, row.high]), 1], 0.03);
  return { low: Math.max(0, low), high, format: (value) => decimal(value, 2) };
}

const MAPS = [
  ["skipped", "Share of paths that skip the layer", "var(--accent)", percent],
  ["extra_runs", "Extra runs of the layer, per path", "var(--accent)", decimal],
  ["moved", "Share of paths that move the layer", "var(--accent)", percent],
];

function drawUse() {
  const table = data.figures.use;
  const rows = records(table);
  // of several runs the control searches are in the table alone, or the maps would be long
  const drawn = rows.filter((row) => !many || !row.paths.startsWith("control"));
  const groups = [...new Map(drawn.map((row) => [`${row.run}\n${row.paths}`, row])).values()];
  // by repeats and skips together, a few of the paths tried move a layer where there are no moves
  const occurs = (row, key) => row[key] > (row.paths === "all paths tried" ? 0.01 : 0);
  const panels = MAPS.filter(([key]) => drawn.some((row) => occurs(row, key))).map(
    ([key, title, colour, format]) =>
      (width) => {
        const each = groups.map((group) =>
          rows.filter((row) => row.run === group.run && row.paths === group.paths),
        );
        return heatPanel({
          title,
          colour,
          format,
          width,
          columns: data.layers,
          rows: groups.map((group) => `${many ? `${group.run}: ` : ""}${group.paths} (${grouped(group.n)})`),
          values: each.map((own) => own.map((row) => row[key])),
          describe: (i, j) =>
            MAPS.map(([name, text, , write]) => [`${text.toLowerCase()}: ${write(each[i][j][name])}`]),
        });
      },
  );
  fillFigure("use", table, { panels, most: 1 });
}

drawRatios();
drawUse();
