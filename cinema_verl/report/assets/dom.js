// Small helpers. Whatever comes from a run reaches the page as a text node or an attribute value, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
// A metric that few steps logged comes as [places, values].
for (const run of RUNS) {
  for (const [name, values] of Object.entries(run.series)) {
    if (!Array.isArray(values[0])) continue;
    const full = run.steps.map(() => null);
    values[0].forEach((place, i) => { full[place] = values[1][i]; });
    run.series[name] = full;
  }
}
const $ = (id) => document.getElementById(id);

function make(namespace, tag, attributes, children) {
  const node = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const h = (tag, attributes, ...children) => make("http://www.w3.org/1999/xhtml", tag, attributes, children);
const s = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);

// A number with three or four significant digits, at a fixed width within one column.
function show(value) {
  if (value === null || value === undefined) return "–";
  if (!value) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || (size < 1e-3)) return value.toExponential(2).replace("-", "−");
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return value.toFixed(digits).replace("-", "−");
}
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

const LETTERS = new Set(DATA.actions);
function chip(action) {
  return LETTERS.has(action)
    ? h("span", { class: `chip ${action}`, "aria-hidden": "true", title: action }, action[0].toUpperCase())
    : h("span", { class: "chip", "aria-hidden": "true" }, action.slice(0, 24));
}
// A pattern as letters; a screen reader hears the words.
function pattern(text) {
  if (!text) return h("span", { class: "pattern quiet" }, "no action");
  const actions = text.split(">");
  return h("span", { class: "pattern", title: text.slice(0, 500) },
    actions.slice(0, 16).map(chip), actions.length > 16 ? h("span", { class: "chip" }, `+${actions.length - 16}`) : null,
    h("span", { class: "hidden" }, actions.slice(0, 16).join(", ")));
}
const runName = (index) => h("span", { class: `run run${index}` }, RUNS[index].name);
const empty = (...text) => h("p", { class: "empty" }, text);

// A table that is made when it is opened: the same numbers, for screen readers and for copying.
function lazyTable(summary, columns, rows) {
  const details = h("details", {}, h("summary", {}, summary));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    details.append(h("div", { class: "long", tabindex: "0", role: "region", "aria-label": summary }, table(columns, rows())));
  });
  return details;
}
function table(columns, rows) {
  return h("table", { class: "numbers" },
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {},
      row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell)))))));
}

// Draw again when the width changes; what is not on the screen yet is drawn when it comes near.
function whenSized(node, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.round(node.clientWidth);
    if (now > 0 && now !== width) { width = now; draw(width); }
  }).observe(node);
}
