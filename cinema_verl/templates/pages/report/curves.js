// The panels that the report opens with, and one in which any metric can be chosen.

const LINE_COLORS = ["var(--run0)", "var(--wrong)", "var(--right)"];

// The lines of a panel: a colour for each run where there are two, else for each line; dashes tell the other apart.
function linesOf(panel) {
  return RUNS.flatMap((run, index) => panel.lines.flatMap((line, place) => {
    const name = line.metrics.find((metric) => Object.hasOwn(run.series, metric));
    if (name === undefined) return [];
    const alone = panel.lines.length === 1;
    return [{
      label: RUNS.length === 1 ? line.label : alone ? run.name : `${run.name} ${line.label}`,
      color: RUNS.length > 1 ? `var(--run${index})` : LINE_COLORS[place % LINE_COLORS.length],
      dashed: RUNS.length > 1 ? place > 0 || (alone && index > 0) : place > 0,
      steps: run.steps, values: run.series[name],
    }];
  })).filter((line) => line.steps.length);
}

function drawCurves() {
  const charts = [];
  for (const panel of DATA.panels) {
    const lines = linesOf(panel);
    if (lines.length) charts.push(lineChart({ title: panel.title, unit: panel.unit, share: panel.share, lines }));
  }
  $("panels").append(...charts);
  if (!charts.length) $("panels").append(empty("No metrics were found: there is nothing to draw."));
  if (RUNS.length > 1) $("legend").append(...RUNS.map((_, index) => runName(index)));

  const names = [...new Set(RUNS.flatMap((run) => Object.keys(run.series)))].sort();
  if (!names.length) return charts;
  const select = h("select", { id: "any-metric" }, names.map((name) => h("option", {}, name)));
  const holder = h("div", {});
  const choose = () => {
    holder.firstChild?.forget();
    const lines = linesOf({ lines: [{ metrics: [select.value], label: select.value }] });
    holder.replaceChildren(lineChart({ title: select.value, unit: "", height: 240, lines }));
  };
  select.addEventListener("change", choose);
  $("explore").append(h("h3", {}, "Any metric"),
    h("div", { class: "controls" }, h("label", {}, `Metric (${names.length})`, select)), holder);
  choose();
  $("smoothing").addEventListener("change", () => { for (const chart of [...charts, holder.firstChild]) chart.redraw(); });
  return charts;
}
