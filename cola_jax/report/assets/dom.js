// Elements, numbers and the box of hover values. All text is set as text nodes, so that no text of
// a run can become markup.

const SVG = "http://www.w3.org/2000/svg"; // a namespace, never fetched

function element(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

function furnish(node, { style = {}, ...attributes }, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  for (const [key, value] of Object.entries(style)) node.style.setProperty(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const embedded = (id) => JSON.parse(document.getElementById(id).textContent);

const missing = (x) => x === null || x === undefined;
const percent = (x) => (missing(x) ? "–" : `${(100 * x).toFixed(1)} %`);
const decimal = (x, digits = 2) => (missing(x) ? "–" : x.toFixed(digits).replace("-", "−"));
const signed = (x, digits = 2) => (x < 0 ? "" : "+") + decimal(x, digits);
const grouped = (x) => x.toLocaleString("en-US");
const between = ({ low, high }) =>
  missing(low) ? "" : ` (${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`;

const tip = element("div", { class: "tip", "aria-hidden": "true", hidden: "" });
document.body.append(tip);

// Shows lines of [text, colour] beside a place of the window.
function showTip(x, y, title, lines) {
  tip.replaceChildren(
    element("b", {}, title),
    ...lines.map(([text, colour]) => {
      const swatch = colour ? element("i", { style: { background: colour } }) : null;
      return element("div", {}, ...[swatch, text].filter(Boolean));
    }),
  );
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const [left, top] = [x + 14 + width > innerWidth ? x - width - 14 : x + 14, y - height - 10];
  tip.style.left = `${Math.max(4, left) + scrollX}px`;
  tip.style.top = `${(top < 4 ? y + 18 : top) + scrollY}px`;
}

const hideTip = () => {
  tip.hidden = true;
};
document.addEventListener("pointerdown", hideTip, true);

// Calls `show` while the pointer is over a node, and at a tap, after which `hide` waits for the next.
function track(node, show, hide) {
  for (const type of ["pointermove", "pointerdown"]) node.addEventListener(type, show);
  node.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") hide();
  });
}

// Shows values while the pointer is over a node.
function explain(node, title, lines) {
  track(node, (event) => showTip(event.clientX, event.clientY, title, lines), hideTip);
}

function download(name, text) {
  const link = element("a", { download: name });
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
