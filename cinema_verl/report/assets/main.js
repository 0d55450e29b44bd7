// Fill the filters, draw everything once, and draw again what a filter changes.

const form = $("filters");
function fill(select, words, first) {
  const named = (word) => (word.length > 60 ? `${word.slice(0, 60)}…` : word || "no action");
  select.replaceChildren(h("option", { value: "" }, first), ...words.map((word) => h("option", { value: `=${word}` }, named(word))));
}
const wordsOf = (kind) => [...new Set(RUNS.flatMap((run) => run.mix[kind]))];

function readFilters() {
  const chosen = (select) => (select.value ? select.value.slice(1) : null); // a word may be empty: no action
  Object.assign(filters, { source: chosen(form.source), type: chosen(form.type), correct: Number(form.correct.value), pattern: chosen(form.pattern) });
  drawPatterns();
  drawGroups();
}

function fillSteps() {
  const steps = [...new Set(RUNS[choice.run].groups.map((group) => group.step))];
  const select = $("group-step");
  select.replaceChildren(h("option", { value: "-1" }, "all steps"), ...steps.map((step) => h("option", { value: step }, step)));
  if (steps.includes(choice.step)) select.value = choice.step;
  else choice.step = -1;
}

drawCurves();
$("smoothing").addEventListener("change", () => {
  for (const chart of document.querySelectorAll("figure.panel")) chart.redraw();
  if (anyRollouts) drawPatterns();
});

const anyRollouts = RUNS.some((run) => run.total.rollouts);
$("counted").replaceChildren(...RUNS.map((run, i) => h("span", {}, RUNS.length > 1 ? [runName(i), ": "] : null,
  run.total.rollouts ? `${plural(run.total.rollouts, "rollout")} in ${plural(run.total.groups, "group")}${run.validation ? " of the validations" : ""}, all counted below. ` : "no rollouts. ")));
if (anyRollouts) {
  fill(form.source, wordsOf("sources").sort(), "all");
  fill(form.type, wordsOf("types").sort(), "all");
  fill(form.pattern, wordsOf("patterns"), "all");
  $("key").append(...DATA.actions.map((action) => h("span", {}, chip(action), action)));

  const slider = $("tree-step");
  slider.max = treeSteps.length - 1;
  slider.value = slider.max;
  slider.addEventListener("input", drawTrees);
  form.addEventListener("change", readFilters);
  form.addEventListener("reset", () => setTimeout(readFilters));
  form.addEventListener("submit", (event) => event.preventDefault());

  $("group-run").replaceChildren(...RUNS.map((run, i) => h("option", { value: i }, run.name)));
  $("group-run").parentElement.hidden = RUNS.length === 1;
  $("group-run").addEventListener("change", (event) => { choice.run = Number(event.target.value); fillSteps(); drawGroups(); });
  $("group-step").addEventListener("change", (event) => { choice.step = Number(event.target.value); drawGroups(); });
  $("previous").addEventListener("click", () => select(choice.at - 1, false));
  $("next").addEventListener("click", () => select(choice.at + 1, false));
  $("group-list").addEventListener("keydown", (event) => {
    const to = { ArrowDown: choice.at + 1, ArrowUp: choice.at - 1, Home: 0, End: choice.groups.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(to, true);
  });
  fillSteps();
  readFilters();
} else {
  form.querySelector(".controls").hidden = true;
  for (const id of ["patterns", "violations", "groups"]) {
    const section = $(id);
    section.replaceChildren(section.querySelector("h2"), empty("There are no rollouts on the disk: set trainer.rollout_data_dir, as the recipes do."));
  }
}
