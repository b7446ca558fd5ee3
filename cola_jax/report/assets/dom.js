// Elements, numbers and the box of hover values. All text is set as text nodes, so that no text of
// a run can become markup.

const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
const data = embedded("data");

function fill(node, { style = {}, ...attributes }, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  for (const [key, value] of Object.entries(style)) node.style.setProperty(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}
const element = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);
const shape = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const grouped = (x) => x.toLocaleString("en-US");
const fixed = (x, digits) => x.toFixed(digits).replace("-", "−");
const signed = (x, digits = 2) => (x < 0 ? "" : "+") + fixed(x, digits);

const tip = element("div", { class: "tip", "aria-hidden": "true", hidden: "" });
document.body.append(tip);

// Show lines of [text, class of its colour] beside a place of the window.
function showTip({ clientX: x, clientY: y }, title, lines) {
  tip.replaceChildren(
    element("b", {}, title),
    ...lines.map(([text, css]) => element("div", {}, css ? element("i", { class: css }) : null, text)),
  );
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth ? x - width - 14 : x + 14;
  const top = y - height - 10;
  tip.style.left = `${Math.max(4, left) + scrollX}px`;
  tip.style.top = `${(top < 4 ? y + 18 : top) + scrollY}px`;
}

// Call `show` while the pointer is over a node or taps it.
function track(node, show) {
  for (const type of ["pointermove", "pointerdown"]) node.addEventListener(type, show);
  node.addEventListener("pointerleave", ({ pointerType }) => (tip.hidden = pointerType !== "touch"));
}
document.addEventListener("pointerdown", () => (tip.hidden = true), true);
