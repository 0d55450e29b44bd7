// How rollouts are distributed over patterns, action paths and violations, counted under the page's filters.

const SOURCE = 0, TYPE = 1, PATTERN = 2, CORRECT = 3, BROKEN = 4, COUNT = 5, FIELDS = 6;
const COLORS = 8; // patterns with a colour of their own
const AREA = 300; // height of the area chart
const filters = { source: null, type: null, correct: -1, pattern: null }; // null and -1: all

// Calls found(pattern, count, correct, violations) for each counted cell of a point in time that the filters let through.
function eachCell(run, point, found) {
  const { cells, sources, types, patterns, violations, sets } = run.mix;
  const flat = cells[point];
  for (let i = 0; i < flat.length; i += FIELDS) {
    if (filters.source !== null && sources[flat[i + SOURCE]] !== filters.source) continue;
    if (filters.type !== null && types[flat[i + TYPE]] !== filters.type) continue;
    if (filters.correct >= 0 && flat[i + CORRECT] !== filters.correct) continue;
    found(patterns[flat[i + PATTERN]], flat[i + COUNT], flat[i + CORRECT], () => sets[flat[i + BROKEN]].map((code) => violations[code]));
  }
}

// One run's rollouts under the filters: per point the total and a Map from pattern to count; and sums over the run.
function countPatterns(run) {
  const points = run.mix.cells.map((_, point) => {
    const counts = new Map();
    let total = 0;
    eachCell(run, point, (pattern, count) => { counts.set(pattern, (counts.get(pattern) || 0) + count); total += count; });
    return { counts, total };
  });
  const overall = new Map();
  run.mix.cells.forEach((_, point) => eachCell(run, point, (pattern, count, correct) => {
    const sum = overall.get(pattern) || { count: 0, correct: 0, known: 0 };
    sum.count += count;
    if (correct !== 2) { sum.known += count; sum.correct += correct * count; }
    overall.set(pattern, sum);
  }));
  return { points, overall, total: points.reduce((sum, point) => sum + point.total, 0) };
}

// Shares of the coloured patterns and of all the others, summing to 1; means over `window` steps.
function sharesOver(kept, top, window) {
  const shares = top.map((name) => average(kept.map((point) => (point.counts.get(name) || 0) / point.total), window));
  const rest = (i) => 1 - shares.reduce((sum, one) => sum + one[i], 0);
  return [...shares, kept.map((_, i) => (rest(i) > 1e-9 ? rest(i) : 0))]; // floats: three thirds are not quite one
}
const color = (place, top) => (place < 0 || place >= top.length ? "var(--other)" : `var(--p${place})`);

function areaChart(run, index, counted, top) {
  const title = h("h3", {}, RUNS.length > 1 ? runName(index) : "Mix over steps");
  const kept = counted.points.map((point, i) => ({ ...point, step: run.mix.to[i] })).filter((point) => point.total);
  if (!kept.length) return h("div", { class: "area" }, title, empty(run.total.rollouts ? "No rollout passes the filters." : "This run has no rollouts."));
  const svg = s("svg", { height: AREA }), reading = h("div", { class: "reading" });
  const block = h("div", { class: "area" }, title, svg, reading);
  const steps = kept.map((point) => point.step), names = [...top, null]; // null: all the others
  const exact = sharesOver(kept, top, 1), shares = sharesOver(kept, top, smoothing());
  let x = null, box = null, cursorLine = null;
  followsCursor(svg, `Share of each pattern, ${run.name}. Step`, steps, () => box);
  svg.addEventListener("click", () => { if (cursor.step !== null) showTreesAt(cursor.step); });

  function read(step) {
    const i = step === null ? steps.length - 1 : nearest(steps, step);
    reading.replaceChildren(h("span", { class: "at" }, `step ${steps[i]}`), ...names.map((name, place) => h("span", { class: filters.pattern !== null && filters.pattern === name ? "chosen" : undefined },
      h("i", { class: "swatch block", style: { "--c": color(place, top) } }), name === null ? "others" : pattern(name), " ", h("b", {}, percent(exact[place][i])))));
    announce(svg, steps[i], `step ${steps[i]}: ${names.map((name, place) => `${name === null ? "others" : name.replaceAll(">", " ") || "no action"} ${percent(exact[place][i])}`).join(", ")}`);
    if (!cursorLine) return;
    cursorLine.style.display = step === null ? "none" : "";
    for (const end of ["x1", "x2"]) cursorLine.setAttribute(end, x(steps[i]));
  }

  whenSized(svg, (width) => {
    const first = steps[0], last = steps[steps.length - 1];
    box = { left: 46, right: width - 10, top: 16, bottom: AREA - 32 };
    svg.setAttribute("viewBox", `0 0 ${width} ${AREA}`);
    x = (step) => (last === first ? (box.left + box.right) / 2 : box.left + ((step - first) / (last - first)) * (box.right - box.left));
    const y = (share) => box.bottom - share * (box.bottom - box.top);
    svg.replaceChildren();
    frame(svg, box, steps, [0, 0.25, 0.5, 0.75, 1], x, y, true, [run]);
    const half = last === first ? 20 : 0; // a single step is a bar, not a line without area
    let below = steps.map(() => 0);
    names.forEach((name, place) => {
      const above = below.map((share, i) => share + shares[place][i]);
      const corner = (share, i, side) => `${(x(steps[i]) + side * half).toFixed(1)},${y(share).toFixed(1)}`;
      const edge = (values) => [...(half ? [corner(values[0], 0, -1)] : []), ...values.map((share, i) => corner(share, i, 1))];
      svg.append(s("path", {
        d: `M${[...edge(above), ...edge(below).reverse()].join("L")}Z`, style: { fill: color(place, top) },
        class: filters.pattern !== null && filters.pattern !== name ? "dim" : undefined,
      }));
      below = above;
    });
    cursorLine = s("line", { class: "cursor", y1: box.top, y2: box.bottom });
    svg.append(...svg.querySelectorAll(".mark"), cursorLine); // over the areas
    read(cursor.step);
  });
  cursor.charts.add(read);
  block.forget = () => cursor.charts.delete(read);
  read(null);
  return block;
}

function patternTable(counted, top) {
  const names = [...new Set(counted.flatMap((one) => [...one.overall.keys()]))];
  const weight = (name) => counted.reduce((sum, one) => sum + (one.overall.get(name)?.count || 0) / (one.total || 1), 0);
  names.sort((a, b) => weight(b) - weight(a));
  if (!names.length) return empty("No rollout passes the filters.");
  const ends = counted.map((one) => { // first and last tenth, as in the overview
    const kept = one.points.filter((point) => point.total), width = Math.max(1, Math.floor(kept.length / 10));
    const shareOf = (points) => (name) => points.length ? points.reduce((sum, point) => sum + (point.counts.get(name) || 0) / point.total, 0) / points.length : null;
    return { first: shareOf(kept.slice(0, width)), last: shareOf(kept.slice(-width)) };
  });
  const row = (name) => {
    const place = top.indexOf(name);
    return h("tr", {},
      h("td", {}, h("i", { class: "swatch block", style: { "--c": color(place, top) } })),
      h("th", { scope: "row" }, pattern(name)),
      counted.map((one, i) => {
        const sum = one.overall.get(name);
        return [ends[i].first, ends[i].last].map((share) => h("td", {}, share(name) === null ? "–" : percent(share(name))))
          .concat(h("td", {}, (sum?.count || 0).toLocaleString("en")), h("td", {}, sum?.known ? percent(sum.correct / sum.known) : "–"));
      }));
  };
  const shown = names.slice(0, 12), body = h("tbody", {}, shown.map(row));
  const view = h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Patterns and their shares" },
    h("table", { class: "numbers" },
      h("caption", {}, "Shares in the first and the last tenth of the steps; rollouts and accuracy over the whole run"),
      h("thead", {}, RUNS.length > 1 ? h("tr", {}, h("td", {}), h("td", {}), RUNS.map((_, i) => h("th", { scope: "colgroup", colspan: 4 }, runName(i)))) : null,
        h("tr", {}, h("td", {}), h("th", { scope: "col" }, "Pattern"), RUNS.map(() => ["first", "last", "rollouts", "correct"].map((name) => h("th", { scope: "col" }, name))))),
      body));
  const more = names.length - shown.length;
  if (!more) return view;
  const button = h("button", { type: "button" }, `Show ${more} more`);
  button.addEventListener("click", () => { body.append(...names.slice(12).map(row)); button.remove(); });
  return h("div", {}, view, h("p", {}, button));
}

// The tree of action paths at one point: a node for each beginning of a pattern, with how many rollouts began so.
function pathTree(counts) {
  const root = { count: 0, children: new Map() };
  for (const [name, count] of counts) {
    root.count += count;
    let node = root;
    for (const action of name ? name.split(">").slice(0, 10) : ["no action"]) {
      if (!node.children.has(action)) node.children.set(action, { count: 0, children: new Map() });
      node = node.children.get(action);
      node.count += count;
    }
  }
  return root;
}
const largestFirst = (node) => [...node.children].sort((a, b) => b[1].count - a[1].count);

function treeChart(run, index, counted, step) {
  const point = nearest(run.mix.to, step), { counts, total } = counted.points[point];
  const from = run.mix.from[point], to = run.mix.to[point];
  const title = h("h3", {}, RUNS.length > 1 ? runName(index) : null, h("small", { class: "quiet" }, ` ${from === to ? `step ${to}` : `steps ${from} to ${to}`}, ${plural(total, "rollout")}`));
  if (!total) return h("div", { class: "tree" }, title, empty("No rollout of this step passes the filters."));
  const root = pathTree(counts);
  const depth = (node) => Math.max(0, ...[...node.children.values()].map((child) => 1 + depth(child)));
  const levels = depth(root), height = 320;
  const svg = s("svg", { role: "img", height, "aria-label": "Tree of action paths; the list below has the shares" });
  whenSized(svg, (width) => {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const column = width / levels;
    const place = (node, level, top) => {
      for (const [action, child] of largestFirst(node)) {
        const size = (child.count / total) * height;
        if (size < 1) break; // the list has them
        const name = column > 84 ? action : LETTERS.has(action) ? action[0].toUpperCase() : action.slice(0, 1);
        svg.append(s("g", { class: `node ${LETTERS.has(action) ? action : ""}` },
          s("rect", { x: level * column, y: top, width: column, height: size, rx: 3 }),
          size >= 15 ? s("text", { x: level * column + 7, y: top + Math.min(size / 2 + 4, 18) },
            s("tspan", { class: "tag" }, name.slice(0, 12)), column > 40 ? ` ${percent(child.count / total)}` : "") : null,
          s("title", {}, `${action}: ${child.count} of ${total}`)));
        place(child, level + 1, top);
        top += size;
      }
    };
    place(root, 0, 0);
  });
  const list = (node) => h("ul", {}, largestFirst(node).map(([action, child]) => h("li", {}, `${action.slice(0, 40)} ${percent(child.count / total)}`, child.children.size ? list(child) : null)));
  const details = h("details", {}, h("summary", {}, "List"));
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(list(root)); });
  return h("div", { class: "tree" }, title, svg, details);
}

function violationCharts() {
  const totals = new Map();
  const shares = RUNS.map((run) => run.mix.cells.map((_, point) => {
    const found = new Map();
    let total = 0;
    eachCell(run, point, (name, count, correct, violations) => {
      if (filters.pattern !== null && name !== filters.pattern) return;
      total += count;
      for (const code of violations()) {
        found.set(code, (found.get(code) || 0) + count);
        totals.set(code, (totals.get(code) || 0) + count);
      }
    });
    return { total, found };
  }));
  const codes = [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a));
  if (!codes.length) return [empty(shares.flat().some((point) => point.total) ? "None: every rollout that passes the filters is well formed." : "No rollout passes the filters.")];
  return codes.map((code) => lineChart({
    title: code.replaceAll("_", " "), unit: DATA.meanings[code] || "share of rollouts", height: 140,
    lines: RUNS.map((run, index) => ({
      label: RUNS.length > 1 ? run.name : "share", color: RUNS.length > 1 ? `var(--run${index})` : "var(--wrong)", dash: index,
      steps: run.mix.to, values: shares[index].map(({ total, found }) => total ? (found.get(code) || 0) / total : null),
    })).filter((line) => line.steps.length),
  }));
}

let treeCounts = [];
function drawTrees() {
  const step = treeSteps[Number($("tree-step").value)];
  $("tree-at").textContent = step;
  $("tree-step").setAttribute("aria-valuetext", `step ${step}`);
  $("trees").replaceChildren(...RUNS.map((run, i) => run.mix.to.length ? treeChart(run, i, treeCounts[i], step) : empty(`${run.name} has no rollouts.`)));
}

function showTreesAt(step) {
  $("tree-step").value = nearest(treeSteps, step);
  drawTrees();
}

const treeSteps = [...new Set(RUNS.flatMap((run) => run.mix.to))].sort((a, b) => a - b);

// The patterns with a colour, the same under all filters: the most frequent over both runs.
const everyPattern = (() => {
  const weight = new Map();
  for (const counted of RUNS.map(countPatterns)) for (const [name, sum] of counted.overall) weight.set(name, (weight.get(name) || 0) + sum.count / counted.total);
  return [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a));
})();
function coloured() {
  const top = everyPattern.slice(0, COLORS);
  if (filters.pattern !== null && !top.includes(filters.pattern)) top[top.length - 1] = filters.pattern; // a chosen pattern has a colour
  return top;
}

function replaceCharts(holder, charts) {
  for (const old of holder.children) old.forget?.();
  holder.replaceChildren(...charts);
}

function drawPatterns() {
  treeCounts = RUNS.map(countPatterns);
  const top = coloured();
  replaceCharts($("mix"), RUNS.map((run, i) => areaChart(run, i, treeCounts[i], top)));
  $("pattern-table").replaceChildren(patternTable(treeCounts, top));
  replaceCharts($("faults"), violationCharts());
  drawTrees();
}
