// One line chart: axes, the stages of training, and a cursor that all charts of the page share.

const cursor = {
  step: null,
  charts: new Set(),
  move(step) { this.step = step; for (const chart of this.charts) chart(step); },
};

function ticks(low, high, count) {
  const span = high - low || 1, raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / size - 1e-9); k * size <= high + span * 1e-9; k++) found.push(+(k * size).toPrecision(12));
  return found;
}
const label = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(value)).replace("-", "−");

function smooth(values, width) {
  return values.map((value, i) => {
    if (value === null || width < 2) return value;
    const known = values.slice(Math.max(0, i - width + 1), i + 1).filter((one) => one !== null);
    return known.reduce((sum, one) => sum + one, 0) / known.length;
  });
}

// The index of the step nearest to one, by halves: steps are ascending.
function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (steps[middle] < step) low = middle; else high = middle; }
  return Math.abs(steps[low] - step) <= Math.abs(steps[high] - step) ? low : high;
}

function polyline(steps, values, x, y) {
  let path = "", pen = "M";
  const lonely = [];
  values.forEach((value, i) => {
    if (value === null) { pen = pen === "M" || values.slice(i + 1).every((one) => one === null) ? pen : "L"; return; }
    path += `${pen}${x(steps[i]).toFixed(1)},${y(value).toFixed(1)}`;
    pen = "L";
    lonely.push(i);
  });
  return { path, points: lonely.length <= 60 && lonely.length < values.length / 2 ? lonely : [] };
}

// Axis, bands and marks that the area chart uses, too.
function frame(svg, box, steps, yTicks, x, y, percentages) {
  const stages = RUNS.length === 1 ? RUNS[0].stages : [];
  for (const stage of stages) {
    if (stage.stage !== 2) continue;
    const left = Math.max(box.left, x(stage.from)), right = Math.min(box.right, x(stage.to));
    svg.append(s("rect", { class: "band", x: left, y: box.top, width: Math.max(0, right - left), height: box.bottom - box.top }));
  }
  for (const value of yTicks) {
    svg.append(s("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, percentages ? `${Math.round(value * 100)} %` : label(value)));
  }
  const last = steps[steps.length - 1];
  for (const step of ticks(steps[0], last, Math.max(2, Math.floor((box.right - box.left) / 70)))) {
    if (!Number.isInteger(step)) continue;
    svg.append(s("text", { x: x(step), y: box.bottom + 15, "text-anchor": "middle" }, step));
  }
  svg.append(s("text", { x: box.right, y: box.bottom + 28, "text-anchor": "end" }, "step"));
  RUNS.forEach((run, index) => run.stages.forEach((stage) => {
    if (stage.stage !== 2 || stage.from < steps[0] || stage.from > last) return;
    const at = x(stage.from), near = at > (box.left + box.right) / 2;
    const style = RUNS.length > 1 ? { stroke: `var(--run${index})` } : {};
    svg.append(s("line", { class: "mark", x1: at, x2: at, y1: box.top, y2: box.bottom, style }));
    if (RUNS.length === 1) {
      svg.append(s("text", { x: at - 4, y: box.top - 4, "text-anchor": "end" }, "stage 1"));
      svg.append(s("text", { x: at + 4, y: box.top - 4, "text-anchor": near && box.right - at < 45 ? "middle" : "start" }, "stage 2"));
    }
  }));
}

// lines: [{label, color, dashed, run, steps, values}]
function lineChart({ title, unit, share, height = 190, lines, actions }) {
  const reading = h("div", { class: "reading" });
  const svg = s("svg", { role: "slider", tabindex: "0", "aria-orientation": "horizontal", height });
  const figure = h("figure", { class: "panel" },
    h("figcaption", {}, title, h("small", {}, unit)), actions || null, reading, svg);
  const steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const at = (line, step) => {
    const i = nearest(line.steps, step);
    return line.steps[i] === step ? i : -1;
  };
  svg.setAttribute("aria-label", `${typeof title === "string" ? title : "Metric"}, ${unit}. Step`);
  svg.setAttribute("aria-valuemin", steps[0]);
  svg.setAttribute("aria-valuemax", steps[steps.length - 1]);

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
      ...lines.map((line, i) => h("span", {}, h("i", { class: line.dashed ? "swatch dashed" : "swatch", style: { "--c": line.color } }),
        lines.length > 1 ? `${line.label} ` : "", h("b", {}, show(values[i])))));
    svg.setAttribute("aria-valuenow", where ?? steps[steps.length - 1]);
    svg.setAttribute("aria-valuetext", `${where === null ? "last" : `step ${where}`}: ${lines.map((line, i) => `${line.label} ${show(values[i])}`).join(", ")}`);
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
    const window = Number($("smoothing").value);
    const all = lines.flatMap((line) => line.values).filter((value) => value !== null);
    let low = share ? 0 : Math.min(...all), high = share ? 1 : Math.max(...all);
    if (!share) {
      const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      low = low >= 0 && low - margin < 0 ? 0 : low - margin;
      high += margin;
    } else high = Math.max(1, ...all), low = Math.min(0, ...all);
    const yTicks = ticks(low, high, 4);
    box = { left: 14 + 6.2 * Math.max(...yTicks.map((value) => label(value).length)), right: width_ - 8, top: 16, bottom: height - 32 };
    const first = steps[0], last = steps[steps.length - 1];
    x = (step) => box.left + (last === first ? 0.5 : (step - first) / (last - first)) * (box.right - box.left);
    y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
    frame(svg, box, steps, yTicks, x, y, false);
    for (const line of lines) {
      const style = { "--c": line.color, ...(line.dashed ? { "stroke-dasharray": "5 3" } : {}) };
      const raw = polyline(line.steps, line.values, x, y);
      if (window > 1) svg.append(s("path", { class: "line raw", d: raw.path, style: { "--c": line.color } }));
      svg.append(s("path", { class: "line", d: window > 1 ? polyline(line.steps, smooth(line.values, window), x, y).path : raw.path, style }));
      for (const i of raw.points) svg.append(s("circle", { class: "dot", r: 2.5, cx: x(line.steps[i]), cy: y(line.values[i]), style }));
    }
    cursorLine = s("line", { class: "cursor", y1: box.top, y2: box.bottom });
    dots = lines.map((line) => s("circle", { class: "dot", r: 4, style: { "--c": line.color } }));
    svg.append(cursorLine, ...dots);
    read(cursor.step);
  }

  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect(), span = steps[steps.length - 1] - steps[0];
    const part = (event.clientX - place.left - box.left) / (box.right - box.left);
    cursor.move(steps[nearest(steps, steps[0] + Math.min(1, Math.max(0, part)) * span)]);
  });
  svg.addEventListener("pointerleave", () => { if (document.activeElement !== svg) cursor.move(null); });
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

  figure.append(lazyTable("Table", ["step", ...lines.map((line) => line.label)],
    () => steps.map((step) => [step, ...lines.map((line) => { const i = at(line, step); return show(i < 0 ? null : line.values[i]); })])));
  cursor.charts.add(read);
  figure.forget = () => cursor.charts.delete(read);
  figure.redraw = () => { if (svg.clientWidth) draw(Math.round(svg.clientWidth)); };
  read(null);
  whenSized(svg, draw);
  return figure;
}
