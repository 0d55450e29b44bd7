// The panels that the report opens with, and one in which any metric can be chosen.

const LINE_COLORS = ["var(--run0)", "var(--right)", "var(--wrong)"];

// The lines of a panel: a colour for each run where there are two, else for each line; dashes tell them apart, too.
function linesOf(panel) {
  return RUNS.flatMap((run, index) => panel.lines.flatMap((line, place) => {
    const name = line.metrics.find((metric) => Object.hasOwn(run.series, metric));
    if (name === undefined) return [];
    const alone = panel.lines.length === 1;
    return [{
      label: RUNS.length === 1 ? line.label : alone ? run.name : `${run.name} ${line.label}`,
      color: RUNS.length > 1 ? `var(--run${index})` : LINE_COLORS[place % LINE_COLORS.length],
      dash: alone ? index : place,
      steps: run.steps, values: run.series[name],
    }];
  })).filter((line) => line.steps.length);
}

function drawCurves() {
  const longest = Math.max(0, ...RUNS.map((run) => run.steps.length));
  $("smoothing").value = longest < 50 ? "1" : longest < 150 ? "5" : "15"; // our choice, by eye: the shape and some noise are visible
  const charts = [];
  for (const panel of DATA.panels) {
    const lines = linesOf(panel);
    if (lines.length) charts.push(lineChart({ title: panel.title, unit: panel.unit, share: panel.share, lines }));
  }
  $("panels").append(...charts);
  if (!charts.length) $("panels").append(empty("No metrics were found: there is nothing to draw."));
  if (RUNS.length > 1) $("legend").append(...RUNS.map((_, index) => runName(index)));

  const names = [...new Set(RUNS.flatMap((run) => Object.keys(run.series)))].sort();
  if (!names.length) return;
  const kinds = Map.groupBy(names, (name) => name.split("/")[0]);
  const select = h("select", { id: "any-metric" }, [...kinds].map(([kind, members]) =>
    h("optgroup", { label: kind }, members.map((name) => h("option", {}, name)))));
  const holder = h("div", {});
  const choose = () => {
    const lines = linesOf({ lines: [{ metrics: [select.value], label: select.value }] });
    replaceCharts(holder, [lineChart({ title: select.value, unit: "as logged", height: 240, lines })]);
  };
  select.addEventListener("change", choose);
  $("explore").append(h("h3", {}, "Any metric"),
    h("div", { class: "controls" }, h("label", {}, `Metric (${names.length})`, select)), holder);
  choose();
}
