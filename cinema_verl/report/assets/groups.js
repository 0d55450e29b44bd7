// The groups one by one: the question with its images, and the rollouts of the group side by side.

const LISTED = 400; // options in the list at once
let wanted = 0; // counts what was asked to be drawn: unpacking takes a moment, in which the reader may choose another group
const choice = { run: 0, step: -1, groups: [], at: 0 };

function rolloutPasses(run, [name, correct]) {
  return (filters.correct < 0 || correct === filters.correct) && (filters.pattern === null || run.mix.patterns[name] === filters.pattern);
}
function matching(run) {
  return run.groups.filter((group) =>
    (choice.step < 0 || group.step === choice.step) &&
    (filters.source === null || run.mix.sources[group.source] === filters.source) &&
    (filters.type === null || run.mix.types[group.type] === filters.type) &&
    group.rollouts.some((rollout) => rolloutPasses(run, rollout)));
}

const SIGNS = ["✗", "✓", "?"];
const SAID = ["incorrect", "correct", "not known"];
function verdicts(group) {
  const correct = group.rollouts.filter(([, one]) => one === 1).length;
  const known = group.rollouts.some(([, one]) => one !== 2);
  return known ? h("span", { class: "verdicts" }, `${correct} of ${group.rollouts.length} correct`) : h("span", {}, plural(group.rollouts.length, "rollout"));
}

// A question's text without the list of its images ("Image 1: <image>", …) before it, which the captions say; elsewhere
// a placeholder is the name of its image.
function told({ text, names }) {
  let image = 0;
  return text.replace(/^(?:(?:Image|Frame) \w{1,9}: ?<image>\s*)+(?=\S)/, (list) => { image = list.split("<image>").length - 1; return ""; })
    .replaceAll("<image>", () => `[${names[image++] ?? `Image ${image}`}]`);
}

function drawGroups() {
  const run = RUNS[choice.run];
  choice.groups = matching(run);
  choice.at = 0;
  const list = $("group-list");
  list.replaceChildren(...choice.groups.slice(0, LISTED).map((group, i) => h("div", {
    class: "option", role: "option", id: `option-${i}`, "aria-selected": "false", tabindex: "-1",
    onclick: () => select(i, true),
  }, h("div", { class: "top" }, h("b", {}, `step ${group.step}`), verdicts(group)),
  h("div", { class: "say" }, told(run.questions[group.question])))));
  const all = choice.step < 0 ? run.total.groups : (run.groupsPerStep.find(([step]) => step === choice.step) || [0, 0])[1];
  const parts = [`Showing ${plural(choice.groups.length, "group")} of ${all.toLocaleString("en")}${choice.step < 0 ? "" : ` at step ${choice.step}`}`];
  if (run.groups.length < run.total.groups) parts.push(`this page holds ${run.groups.length.toLocaleString("en")} in full, spread evenly over the run`);
  if (choice.groups.length > LISTED) parts.push(`the list has the first ${LISTED}: narrow it by step or filter`);
  $("group-count").textContent = `${parts.join("; ")}.`;
  list.hidden = !choice.groups.length;
  if (choice.groups.length) select(0, false);
  else {
    wanted++;
    $("group").setAttribute("aria-busy", "false");
    $("previous").disabled = $("next").disabled = true;
    $("group").replaceChildren(empty(run.total.groups ? "No group of this page passes the filters." : "This run has no rollouts: set trainer.rollout_data_dir, as the recipes do."));
  }
}

function select(index, focus) {
  choice.at = Math.min(choice.groups.length - 1, Math.max(0, index));
  for (const option of $("group-list").children) {
    const chosen = option.id === `option-${choice.at}`;
    option.setAttribute("aria-selected", chosen);
    option.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) option.focus({ preventScroll: true });
    if (chosen) { // scroll the list, never the page
      const list = $("group-list"), around = list.getBoundingClientRect(), own = option.getBoundingClientRect();
      list.scrollTop += Math.min(0, own.top - around.top) + Math.max(0, own.bottom - around.bottom);
    }
  }
  $("previous").disabled = choice.at === 0;
  $("next").disabled = choice.at === choice.groups.length - 1;
  drawGroup(RUNS[choice.run], choice.groups[choice.at]);
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function drawGroup(run, group) {
  const mine = ++wanted;
  $("group").setAttribute("aria-busy", "true");
  const rollouts = await unpack(group.packed);
  if (mine !== wanted) return;
  const question = run.questions[group.question];
  const distinct = new Set(rollouts.map((rollout) => rollout.pattern)).size;
  const meta = [["source", run.mix.sources[group.source]], ["type", run.mix.types[group.type]],
    ["gold", question.gold], ["diversity coefficient", rollouts[0].coefficient === undefined ? null : show(rollouts[0].coefficient)], ["question", question.uid]];
  $("group").replaceChildren(h("div", {},
    h("h3", {}, RUNS.length > 1 ? [runName(choice.run), " "] : null, `Step ${group.step}: `, verdicts(group), `, ${plural(distinct, "pattern")}`),
    h("div", { class: "meta" }, meta.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value)))),
    question.images.length ? h("div", { class: "images" }, question.images.map((place, i) => h("figure", {},
      place < 0 ? h("div", { class: "gone" }, "image missing") : h("img", { src: DATA.images[place], alt: `${question.names[i]}, of ${question.images.length + question.more}` }),
      h("figcaption", {}, question.names[i]))), question.more ? h("span", { class: "quiet" }, `and ${question.more} more`) : null) : null,
    group.condition ? h("p", { class: "quiet" }, `Asked again over ${group.condition} images: the rollouts did not see these.`) : null,
    h("p", { class: "question" }, told(question)),
    question.options.length ? h("ol", { class: "options", "aria-label": "Options" }, question.options.map((option, i) => h("li", {}, h("b", {}, `${String.fromCharCode(65 + i)}. `), option))) : null,
    h("div", { class: "rollouts", role: "region", "aria-label": "Rollouts", tabindex: "0" },
      rollouts.map((rollout, i) => rolloutCard(rollout, i, rolloutPasses(run, group.rollouts[i]))))));
  $("group").setAttribute("aria-busy", "false");
}

function terms(rollout) {
  const rows = [["accuracy", rollout.acc], ["format", rollout.format]].map(([name, value]) => [`${name} × 0.5`, value === undefined ? null : 0.5 * value]);
  if (rollout.overlong) rows.push(["too long", rollout.overlong]);
  const pay = rollout.penalty === undefined ? null : -rollout.penalty;
  rows.push([`pattern shared by ${rollout.alike} of ${rollout.size}`, pay]);
  const total = rollout.score === undefined ? null : rollout.score + (pay ?? 0);
  return h("dl", { class: "terms" },
    rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, show(value))]),
    h("dt", { class: "sum" }, pay === null ? "score" : "reward"), h("dd", { class: "sum" }, show(total)));
}

function rolloutCard(rollout, index, passes) {
  const correct = rollout.acc === undefined ? 2 : rollout.acc > 0 ? 1 : 0;
  return h("section", { class: `rollout is${correct}${passes ? "" : " other"}`, "aria-label": `Rollout ${index + 1}, ${SAID[correct]}` },
    h("h4", {}, `Rollout ${index + 1}`, h("span", { class: correct === 1 ? "right" : correct === 0 ? "wrong" : "quiet" }, `${SIGNS[correct]} ${SAID[correct]}`)),
    passes ? null : h("p", { class: "quiet codes" }, "outside the filter"),
    h("div", {}, pattern(rollout.pattern || "")),
    terms(rollout),
    h("p", { class: "quiet codes" }, [rollout.verdict && `verdict: ${rollout.verdict}`, rollout.tokens && `${rollout.tokens} tokens`, rollout.stop && `stopped by ${rollout.stop}`].filter(Boolean).join(" · ")),
    rollout.violations?.length ? h("p", { class: "wrong codes" }, `breaks the format rule: ${rollout.violations.join(", ").replaceAll("_", " ")}`) : null,
    rollout.reasoning ? h("details", {}, h("summary", {}, "Reasoning of its own, not scored"), h("pre", { class: "raw" }, rollout.reasoning)) : null,
    (rollout.actions || []).map(([name, body]) => h("div", { class: `action ${name}` }, h("b", {}, name), h("pre", {}, body.trim()))),
    rollout.raw ? h("details", { open: !rollout.actions?.length }, h("summary", {}, "As it was written"), h("pre", { class: "raw" }, rollout.raw)) : null,
    rollout.cut ? h("p", { class: "quiet codes" }, `… and ${plural(rollout.cut, "more character")}`) : null);
}
