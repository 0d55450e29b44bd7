// One line chart: axes, the stages of training, and a cursor that all charts of the page share.

const cursor = {
  step: null,
  charts: new Set(),
  move(step) { this.step = step; for (const chart of this.charts) chart(step); },
};

// Round numbers from low to high, about so many.
function ticks(low, high, count) {
  const span = high - low || 1, power = 10 ** Math.floor(Math.log10(span / count));
  const off = (size) => Math.abs(Math.log(span / size / count));
  const size = [1, 2, 2.5, 5, 10].map((factor) => factor * power).reduce((best, one) => (off(one) < off(best) ? one : best));
  const found = [];
  for (let k = Math.ceil(low / size - 1e-9); k * size <= high + span * 1e-9; k++) found.push(+(k * size).toPrecision(12));
  return found;
}
const label = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(value)).replace("-", "−");

// The mean of the known values in a window around each value.
function average(values, width) {
  const reach = Math.floor(width / 2);
  return values.map((value, i) => {
    if (value === null || !reach) return value;
    const near = values.slice(Math.max(0, i - reach), i + reach + 1).filter((one) => one !== null);
    return near.reduce((sum, one) => sum + one, 0) / near.length;
  });
}
// A curve that only rises or only falls, as that of the coefficient, has no noise and is not smoothed.
function smooth(values, width) {
  const known = values.filter((value) => value !== null);
  const oneWay = (sign) => known.every((value, i) => !i || sign * (value - known[i - 1]) >= 0);
  return oneWay(1) || oneWay(-1) ? values : average(values, width);
}
const smoothing = () => Number($("smoothing").value);

// The index of the step nearest to one, by halves: steps are ascending.
function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (steps[middle] < step) low = middle; else high = middle; }
  return Math.abs(steps[low] - step) <= Math.abs(steps[high] - step) ? low : high;
}

// A metric that most steps logged is a curve with gaps where a value is missing; the values of one that few steps logged,
// as validations, are joined. Points mark values that no line touches.
function polyline(steps, values, x, y) {
  const known = values.flatMap((value, i) => (value === null ? [] : [i]));
  const sparse = known.length <= values.length / 2 + 1; // every second step, both ends among them, is few
  const joined = (k) => k > 0 && k < known.length && (sparse || known[k - 1] === known[k] - 1);
  const path = known.map((i, k) => `${joined(k) ? "L" : "M"}${x(steps[i]).toFixed(1)},${y(values[i]).toFixed(1)}`).join("");
  return { path, points: known.filter((_, k) => (sparse ? known.length <= 60 : !joined(k) && !joined(k + 1))) };
}

// Axes, and where the later stages of these runs begin: bands for one run, a line in its colour for each of two.
function frame(svg, box, steps, yTicks, x, y, percentages, runs) {
  const alone = runs.length === 1, last = steps[steps.length - 1];
  const later = runs.flatMap((run) => run.stages.slice(1).filter(({ from }) => from >= steps[0] && from <= last)
    .map(({ stage, from, to }) => ({ stage, from, to: Math.min(to, last), color: `var(--run${RUNS.indexOf(run)})` })));
  if (alone) for (const { from, to } of later.filter((_, i) => i % 2 === 0)) svg.append(s("rect", { class: "band", x: x(from), y: box.top, width: x(to) - x(from), height: box.bottom - box.top }));
  for (const value of yTicks) {
    svg.append(s("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, percentages ? `${Math.round(value * 100)} %` : label(value)));
  }
  for (const step of ticks(steps[0], last, Math.max(2, Math.floor((box.right - box.left) / 70)))) {
    if (!Number.isInteger(step)) continue;
    const near = box.right - x(step) < 12; // the last one would stick out
    svg.append(s("text", { x: near ? box.right : x(step), y: box.bottom + 15, "text-anchor": near ? "end" : "middle" }, step));
  }
  svg.append(s("text", { x: box.right, y: box.bottom + 28, "text-anchor": "end" }, "step"));
  if (alone && !later.length && runs[0].stages.length) svg.append(s("text", { x: box.left, y: box.top - 4 }, `stage ${runs[0].stages.at(-1).stage}`));
  for (const [i, { stage, from, to, color }] of later.entries()) {
    const at = x(from), end = i + 1 < later.length ? x(to) : box.right;
    svg.append(s("line", { class: "mark", x1: at, x2: at, y1: box.top, y2: box.bottom, style: alone ? {} : { stroke: color } }));
    if (alone && !i && at - box.left > 40) svg.append(s("text", { x: at - 4, y: box.top - 4, "text-anchor": "end" }, `stage ${runs[0].stages[0].stage}`));
    if (alone && end - at > 40) svg.append(s("text", { x: at + 4, y: box.top - 4 }, `stage ${stage}`));
  }
}

// A chart becomes a slider over its steps: pointer, finger and arrow keys move the cursor that all charts share.
function followsCursor(svg, name, steps, box) {
  for (const [attribute, value] of Object.entries({
    role: "slider", tabindex: "0", "aria-orientation": "horizontal", "aria-label": name,
    "aria-valuemin": steps[0], "aria-valuemax": steps[steps.length - 1],
  })) svg.setAttribute(attribute, value);
  const follow = (event) => {
    if (!box()) return; // just made, and not drawn before the next frame
    const place = svg.getBoundingClientRect(), { left, right } = box();
    const part = Math.min(1, Math.max(0, (event.clientX - place.left - left) / (right - left)));
    cursor.move(steps[nearest(steps, steps[0] + part * (steps[steps.length - 1] - steps[0]))]);
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch" && document.activeElement !== svg) cursor.move(null); });
  svg.addEventListener("blur", () => cursor.move(null));
  svg.addEventListener("keydown", (event) => {
    const now = cursor.step === null ? steps.length - 1 : nearest(steps, cursor.step);
    const page = Math.max(1, Math.round(steps.length / 10));
    const next = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageDown: now - page,
      PageUp: now + page, Home: 0, End: steps.length - 1 }[event.key];
    if (event.key === "Escape") cursor.move(null);
    if (next === undefined) return;
    event.preventDefault();
    cursor.move(steps[Math.min(steps.length - 1, Math.max(0, next))]);
  });
}
// What a screen reader says of the step.
function announce(svg, step, text) {
  svg.setAttribute("aria-valuenow", step);
  svg.setAttribute("aria-valuetext", text);
}

const DASHES = ["", "6 3", "2 3"];

// lines: [{label, color, dash, steps, values}]
function lineChart({ title, unit, share, height = 190, lines }) {
  const reading = h("div", { class: "reading" });
  const svg = s("svg", { height });
  const figure = h("figure", { class: "panel" },
    h("figcaption", {}, title, h("small", {}, unit)), reading, svg);
  const steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const at = (line, step) => {
    const i = nearest(line.steps, step);
    return line.steps[i] === step ? i : -1;
  };
  followsCursor(svg, `${title}, ${unit}. Step`, steps, () => box);

  let cursorLine = null, dots = [], x = null, y = null, box = null;
  function read(step) {
    const where = step === null ? null : steps[nearest(steps, step)];
    // Without a cursor: what the last step that logged it says.
    const values = lines.map((line) => {
      if (where !== null) { const i = at(line, where); return i < 0 ? null : line.values[i]; }
      return line.values.findLast((value) => value !== null) ?? null;
    });
    reading.replaceChildren(
      h("span", {}, where === null ? "last" : `step ${where}`),
      ...lines.map((line, i) => h("span", {}, h("i", { class: `swatch dash${line.dash}`, style: { "--c": line.color } }),
        lines.length > 1 ? `${line.label} ` : "", h("b", {}, show(values[i])))));
    announce(svg, where ?? steps[steps.length - 1],
      `${where === null ? "last" : `step ${where}`}: ${lines.map((line, i) => `${line.label} ${show(values[i])}`).join(", ")}`);
    if (!x) return;
    cursorLine.style.display = where === null ? "none" : "";
    if (where !== null) { cursorLine.setAttribute("x1", x(where)); cursorLine.setAttribute("x2", x(where)); }
    dots.forEach((dot, i) => {
      const value = where === null ? null : values[i];
      dot.style.display = value === null ? "none" : "";
      if (value !== null) { dot.setAttribute("cx", x(where)); dot.setAttribute("cy", y(value)); }
    });
  }

  function draw(width) {
    const width_ = Math.max(width, 160);
    svg.setAttribute("viewBox", `0 0 ${width_} ${height}`);
    svg.replaceChildren();
    const window = smoothing();
    const all = lines.flatMap((line) => line.values).filter((value) => value !== null);
    let low = share ? 0 : Math.min(...all), high = share ? 1 : Math.max(...all);
    if (!share) {
      if (low === high) low = Math.min(0, low), high = Math.max(0, high); // a constant: the axis begins at 0
      const margin = (high - low) * 0.06 || 1;
      low = low >= 0 && low - margin < 0 ? 0 : low - margin;
      high += margin;
    } else high = Math.max(1, ...all), low = Math.min(0, ...all);
    const yTicks = ticks(low, high, 4);
    box = { left: 14 + 6.2 * Math.max(...yTicks.map((value) => label(value).length)), right: width_ - 10, top: 16, bottom: height - 32 };
    const first = steps[0], last = steps[steps.length - 1];
    x = (step) => box.left + (last === first ? 0.5 : (step - first) / (last - first)) * (box.right - box.left);
    y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
    frame(svg, box, steps, yTicks, x, y, false, RUNS);
    for (const line of lines) {
      const style = { "--c": line.color, "stroke-dasharray": DASHES[line.dash] };
      const raw = polyline(line.steps, line.values, x, y);
      if (window > 1) svg.append(s("path", { class: "line raw", d: raw.path, style: { "--c": line.color } }));
      svg.append(s("path", { class: "line", d: window > 1 ? polyline(line.steps, smooth(line.values, window), x, y).path : raw.path, style }));
      for (const i of raw.points) svg.append(s("circle", { class: "dot", r: 2.5, cx: x(line.steps[i]), cy: y(line.values[i]), style: { "--c": line.color } }));
    }
    cursorLine = s("line", { class: "cursor", y1: box.top, y2: box.bottom });
    dots = lines.map((line) => s("circle", { class: "dot", r: 4, style: { "--c": line.color } }));
    svg.append(cursorLine, ...dots);
    read(cursor.step);
  }

  figure.append(lazyTable("Table", ["step", ...lines.map((line) => line.label)],
    () => steps.map((step) => [step, ...lines.map((line) => { const i = at(line, step); return show(i < 0 ? null : line.values[i]); })])));
  cursor.charts.add(read);
  figure.forget = () => cursor.charts.delete(read);
  figure.redraw = () => { if (svg.clientWidth) draw(Math.round(svg.clientWidth)); };
  read(null);
  whenSized(svg, draw);
  return figure;
}
