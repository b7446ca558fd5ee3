// Drawings of paths: a cell for each layer.

// Parses the text form of a path, such as 0-5,7,7,8-29.
function parsePath(text) {
  return text.split(",").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

// How often each layer runs, which first run after a later one, and the jumps back.
function usesOf(path) {
  const [counts, moved, jumps] = [Array(data.layers).fill(0), new Set(), new Map()];
  let highest = -1;
  path.forEach((layer, i) => {
    if (!counts[layer]++ && layer < highest) moved.add(layer);
    highest = Math.max(highest, layer);
    const previous = path[i - 1];
    if (i && layer <= previous) jumps.set(`${previous} ${layer}`, [previous, layer]);
  });
  return { counts, moved, jumps };
}

// Hatched if skipped, darker with a count if repeated, framed if moved; an arc marks a jump back.
function pathDiagram(path, correct, size, columns = data.layers) {
  const { counts, moved, jumps } = usesOf(path);
  const [top, height] = [9, 14];
  const svg = shape("svg", {
    class: correct === null ? "path wrong ungraded" : correct ? "path correct" : "path wrong",
    width: columns * size,
    height: top + height + 1,
    role: "img",
    "aria-label": describe(counts, moved),
  });
  counts.slice(0, columns).forEach((count, layer) => {
    const cell = shape("rect", {
      class: `c${Math.min(count, 3)}${moved.has(layer) ? " moved" : ""}`,
      x: layer * size + 0.75,
      y: top + 0.5,
      width: size - 1.5,
      height: height - 1,
    });
    cell.append(
      shape(
        "title",
        {},
        `layer ${layer}: ${count ? `run ${count}×` : "skipped"}${moved.has(layer) ? ", after a later layer" : ""}`,
      ),
    );
    svg.append(cell);
    if (count > 1) {
      const name = count > 9 || size < 11 ? "count small" : "count";
      svg.append(shape("text", { class: name, x: (layer + 0.5) * size, y: top + 10.5 }, count));
    }
  });
  for (const [from, to] of jumps.values()) {
    const [a, b] = [(from + 0.5 + (from === to) * 0.28) * size, (to + 0.5 - (from === to) * 0.28) * size];
    svg.append(shape("path", { class: "loop", d: `M${a} ${top} C${a} 0 ${b} 0 ${b} ${top}` }));
  }
  return svg;
}

function describe(counts, moved) {
  const skipped = counts.flatMap((count, layer) => (count ? [] : [layer]));
  const repeated = counts.flatMap((count, layer) => (count > 1 ? [`${layer} ×${count}`] : []));
  const parts = [];
  if (skipped.length) parts.push(`skips ${skipped.join(", ")}`);
  if (repeated.length) parts.push(`repeats ${repeated.join(", ")}`);
  if (moved.size) parts.push(`out of order ${[...moved].join(", ")}`);
  return parts.join("; ") || "every layer once, in order";
}

function ruler(size) {
  const svg = shape("svg", { width: data.layers * size, height: 12, "aria-hidden": "true" });
  const step = data.layers * size < 300 ? 10 : 5;
  for (let layer = 0; layer < data.layers; layer += step) {
    svg.append(shape("text", { class: "ruler", x: (layer + 0.5) * size, y: 10 }, layer));
  }
  return svg;
}

// What the cells of a drawing mean.
function pathLegend(ungraded) {
  const samples = [
    [[0], true, "run once, path correct"],
    [[0], false, "run once, path wrong"],
    [[0, 0], true, "run twice; the arc is the jump back"],
    [[], true, "skipped"],
    [[1, 0], true, "framed: moved, first run after a later layer"],
    ...(ungraded ? [[[0], null, "pale: path ungraded"]] : []),
  ];
  return element(
    "ul",
    { class: "legend" },
    ...samples.map(([path, correct, text]) => {
      const diagram = pathDiagram(path, correct, 16, path.includes(1) ? 2 : 1);
      diagram.setAttribute("aria-hidden", "true");
      return element("li", {}, diagram, text);
    }),
  );
}
