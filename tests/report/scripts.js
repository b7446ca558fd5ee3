// Checks the functions of the page that touch no document, and the drawing of every kind of panel:
// node scripts.js dom.js figures.js questions.js

const assert = require("node:assert/strict");
const fs = require("node:fs");
const vm = require("node:vm");

const made = [];
class Node {
  constructor(name) { this.name = name; this.attributes = {}; made.push(this); }
  setAttribute(key, value) {
    assert.doesNotMatch(String(value), /NaN|undefined/, `${this.name} ${key}`);
    this.attributes[key] = value;
  }
  append(...children) {
    for (const child of children) {
      assert.notEqual(child, null);
      if (!(child instanceof Node)) this.text = (this.text ?? "") + child;
    }
  }
  addEventListener() {}
  get style() { return { setProperty() {} }; }
}
globalThis.document = {
  createElement: (name) => new Node(name), createElementNS: (_, name) => new Node(name),
  getElementById: () => ({ textContent: '{"runs": [], "layers": 4, "figures": []}' }),
  body: new Node("body"), addEventListener() {},
};
globalThis.window = globalThis;
for (const file of process.argv.slice(2)) vm.runInThisContext(fs.readFileSync(file, "utf8"));

assert.deepEqual(ticksOf(0, 33, 6, true), [0, 10, 20, 30]);
assert.deepEqual(ticksOf(0, 1, 4, true), [0, 1]);
assert.deepEqual(parsePath("0-2,1-3,7"), [0, 1, 2, 1, 2, 3, 7]);
assert.equal(leftOut(300, 300), "");
assert.match(leftOut(301, 300), /^1 more question is not printed: /);
assert.match(leftOut(1500, 300), /^1,200 more questions are not printed: /);
assert.deepEqual(
  parseSteps("0,(1-2)*0.5,3a,3m*1.5").map(({ layer, part, share }) => [layer, part, share]),
  [[0, 0, 1], [1, 0, 0.5], [2, 0, 0.5], [3, 1, 1], [3, 2, 1.5]],
);
assert.equal(lengthOf(parseSteps("0-2,(1-2)*0.5")), 5);
assert.equal(lengthOf(parseSteps("0,1a,1m,2m")), 2.5); // half of a layer each, of runs without costs
data.parts = [[0.25, 0.75], [0.4, 0.6], [0.25, 0.75], [0.25, 0.75]];
assert.equal(lengthOf(parseSteps("0,1a,2m")), 2.15);
/** Draws a path; returns the height and the class of each cell, and what they say. */
const cells = (text) => {
  made.length = 0;
  pathDiagram(parseSteps(text), 1, 16);
  const titles = made.filter(({ name }) => name === "title").map((node) => node.text);
  const rects = made.filter(({ name }) => name === "rect").map(({ attributes }) => attributes);
  return { titles, rects };
};
assert.deepEqual(cells("0-3").rects.map((rect) => [rect.height, rect.class, rect["fill-opacity"]]), Array(4).fill([13, "c1", undefined]));
const drawn = cells("0,1a,1*0.5,2*0.5,3m");
assert.deepEqual(drawn.rects.map(({ height, class: css }) => [height, css]), [
  [13, "c1"], [6, "c2"], [6, "c1"], [13, "c1"], [6, "c0"], [6, "c1"],
]);
assert.equal(drawn.rects[3]["fill-opacity"], 0.35);
assert.match(drawn.titles[1], /^layer 1: run 2× \(attention, whole \*0.5\)$/);
const use = usesOf(parsePath("0-1,3,2,2"));
assert.deepEqual([use.counts, [...use.moved]], [[1, 1, 2, 1], [2]]);
assert.equal(csvOf([["a", "b"], ['x,"y"', 0.5], ["=1+1", null]]), 'a,b\n"x,""y""",0.5\n\'=1+1,\n');
for (const formula of ["+1", "-1", "@x", "\t=1", "＝1"]) {
  assert.equal(csvOf([[formula]]), `'${formula}\n`);
}
for (const value of ["x", -1]) assert.equal(csvOf([[value]]), `${value}\n`);

/** Draws a panel; returns its ticks, once all whiskers are within its frame. */
const ticks = (kind, rows, more) => {
  made.length = 0;
  const series = ["search", "tried"].map((name) => ({ name, css: name, rows }));
  drawPanel({ kind, title: "t", x: "x", integer: true, series, ...more }, 400);
  for (const { attributes } of made) {
    if (attributes.class !== "whisker") continue;
    for (const y of [attributes.y1, attributes.y2]) assert.ok(y >= 32 && y <= 232, `${kind} ${y}`);
  }
  return made.filter((node) => node.attributes["text-anchor"] === "end").map(({ text }) => text);
};
ticks("points", [[0, 0.75, 0.1, 2.3, 9], [1, 1, 0.5, 1.5, 9]], { reference: { y: 1 } });
ticks("bars", [[0, -12.5, -40, 3, 9]]);
const shares = ticks("steps", [[0, 0.25, 0.1, 0.4, 9], [4, 0.5, 0.3, 0.7, 9]], { percent: true });
assert.deepEqual(shares, ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
assert.ok(ticks("points", [[0, 0.75, 0.6, 0.9, 9]]).every((text) => text.length < 5));
const block = [[0, 0, 1, 0.5, 1.5, 0.01], [0, 1, -1, -2, 0, 0.5]];
const map = { best: ["skip", 0, 0], series: [{ name: "skip", rows: block }] };
drawPanel({ kind: "map", title: "t", layers: 4, ...map }, 400);
const strip = [{ name: "W→C", css: "search", rows: [[0.9, 0.92, 0.8, 1, 11]] }];
const strips = drawPanel({ kind: "strip", title: "", series: strip }, 400);
assert.match(strips.attributes["aria-label"], /reached 90.0 %; expected 92.0 % \(80.0 % to 100.0 %\); n = 11/);
pathDiagram(parseSteps("0,2,1,1"), 1, 16);
