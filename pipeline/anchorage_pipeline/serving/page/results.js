// Answers: grids of neighbours, what they say about the query, and two releases side by side.

import { imagePath } from "./api.js";
import { $, bar, make, percent, picture } from "./dom.js";
import { address, current, state, title } from "./state.js";

const labels = new Set(); // seen so far: suggestions where a label is entered

function suggest(items) {
  const before = labels.size;
  for (const { label } of items) if (label && labels.size < 500) labels.add(label);
  if (labels.size > before) $("labels").replaceChildren(...[...labels].sort().map((label) => make("option", { value: label })));
}

/** A link that searches on from an item. */
function card(item, pictures, { open, edit }, extra = []) {
  const step = { kind: "id", id: item.id, label: item.label };
  const values = Object.values(item.attributes ?? {}).filter(Boolean).join(" · ");
  const link = make(
    "a",
    { class: "hit", href: address([step]) },
    picture(pictures ? imagePath(item.id) : null, `Item ${item.id}`, item.label),
    make("span", { class: "name" }, item.label || item.id),
    extra,
    values && make("span", { class: "values" }, values),
  );
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return; // another tab or window
    event.preventDefault();
    open(step);
  });
  const pencil = make("button", { type: "button", class: "edit", "aria-label": `Edit ${item.id}`, title: "Edit", onclick: () => edit(item.id) }, "✎");
  return make("li", { class: "card-item" }, link, pencil);
}

// Nothing is certain: 99.7 % is not shown as 100 %.
const chance = (share) => (share >= 0.995 ? "> 99 %" : share < 0.005 ? "< 1 %" : percent(share));

/** `judged` if the answer has probabilities, which say more than whether a match is likely. */
function measures(hit, judged) {
  const known = hit.probability !== null;
  return [
    known && bar(hit.probability),
    make(
      "span",
      { class: "measures" },
      known && make("span", { class: "probability", title: "Probability of a match" }, chance(hit.probability), make("span", { class: "word" }, " match")),
      !judged && hit.likely && make("span", { class: "probability" }, "likely"),
      make("span", { class: "score", title: "Cosine similarity, from -1 to 1" }, make("span", { class: "visually-hidden" }, "score "), hit.score.toFixed(3)),
    ),
  ];
}

/** The items that a search can start from, below a note if there is one. */
export function showExamples(items, note, { pictures, actions }) {
  suggest(items);
  $("answers").className = "answers";
  const list = make("ul", { class: "grid" }, items.map((item) => card(item, pictures, actions)));
  const notes = [note, !items.length && "The gallery is empty."].filter(Boolean).map((text) => make("p", { class: "notice" }, text));
  $("answers").replaceChildren(...notes, ...(items.length ? [list] : []));
}

/** Empty frames while the first answer is on its way, so that nothing moves when it comes. */
export function showWaiting() {
  if ($("answers").childElementCount) return;
  const frames = Array.from({ length: 12 }, () => make("li", { class: "card-item waiting" }, make("span", { class: "picture" }), make("span", { class: "name" }, " ")));
  $("answers").replaceChildren(make("ul", { class: "grid", "aria-hidden": "true" }, frames));
}

function notes(answer, judged, filtered, open) {
  const left = answer.left_out.filter((id) => id !== current()?.id);
  const link = (id) => make("button", { type: "button", class: "link", onclick: () => open({ kind: "id", id }) }, id);
  return [
    answer.unknown &&
      make("div", { class: "notice unknown" }, make("strong", {}, "Perhaps unknown. "), "All items are too far away to rule out that the gallery lacks this class.", judged && " The probabilities assume that it does not."),
    left.length > 0 && make("p", { class: "notice" }, "The gallery has the same content, which is left out here: ", left.flatMap((id, at) => [at ? ", " : null, link(id)])),
    !answer.results.length && make("p", { class: "notice" }, filtered ? "No item meets the filter." : `No ${answer.left_out.length ? "other " : ""}item was found.`),
  ];
}

/** Show answers: `[{version, current, answer | problem}]`, one or two of them. */
export function showAnswers(columns, { pictures, filtered, actions }) {
  const ids = columns.map(({ answer }) => new Set(answer?.results.map((hit) => hit.id)));
  const both = columns.length > 1 && columns.every(({ answer }) => answer);
  const shared = both ? [...ids[0]].filter((id) => ids[1].has(id)).length : 0;
  const sections = columns.map(({ version, current, answer, problem }, at) => {
    const name = `answer-${at}`;
    const heading = make("h3", { id: name, class: columns.length > 1 ? "" : "visually-hidden" }, `Release ${version}`, current && columns.length > 1 && make("span", { class: "badge" }, "current"));
    if (problem) return make("section", { "aria-labelledby": name }, heading, problemBox(problem));
    suggest(answer.results);
    const judged = answer.results.some((hit) => hit.probability !== null);
    const extra = (hit) => [...measures(hit, judged), both && !ids[1 - at].has(hit.id) && make("span", { class: "only" }, "only here")].filter(Boolean);
    const cards = answer.results.map((hit) => card(hit, pictures, actions, extra(hit)));
    const content = [heading, ...notes(answer, judged, filtered, actions.open), cards.length > 0 && make("ol", { class: "grid" }, cards)];
    return make("section", { "aria-labelledby": name }, content.filter(Boolean));
  });
  const total = both ? Math.max(ids[0].size, ids[1].size) : 0;
  const summary = both && make("p", { class: "summary" }, `${shared} of ${total} results are in both answers.`);
  $("answers").className = columns.length > 1 ? "answers two" : "answers";
  $("answers").replaceChildren(...[summary, ...sections].filter(Boolean));
  const { answer } = columns[0];
  if (!answer) return "The search failed.";
  const best = answer.results[0];
  const count = answer.results.length === 1 ? "1 result" : `${answer.results.length} results`;
  const nearest = best ? ` The nearest is ${best.label || best.id}, score ${best.score.toFixed(3)}.` : "";
  return `${count}.${answer.unknown ? " The query is perhaps unknown." : ""}${nearest}${both ? ` ${shared} of ${total} are in both releases.` : ""}`;
}

/** A problem in words: what, why, what to do. */
export function problemBox(problem) {
  const faults = problem.faults.length > 1 ? make("ul", {}, problem.faults.map((fault) => make("li", {}, fault.message))) : null;
  return make(
    "div",
    { class: "notice problem" },
    make("strong", {}, problem.title),
    make("p", {}, problem.detail ?? problem.message),
    faults,
    problem.hint && make("p", {}, problem.hint),
  );
}

/** The way to the present query, each step a link back to it. */
export function showTrail(go) {
  const nav = $("trail");
  nav.hidden = !state.trail.length;
  const steps = [undefined, ...state.trail];
  const entries = steps.map((step, at) => {
    if (at === steps.length - 1) return make("li", {}, make("span", { "aria-current": "page" }, title(step)));
    const trail = state.trail.slice(0, at);
    const link = make("a", { href: address(trail) }, title(step));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      go(trail);
    });
    return make("li", {}, link);
  });
  nav.replaceChildren(make("ol", {}, entries));
}
