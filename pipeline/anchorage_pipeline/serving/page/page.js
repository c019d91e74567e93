// The page: asks the service for what the state says, and shows the answers.

import * as api from "./api.js";
import { $, confirmed, disabled, make, say } from "./dom.js";
import * as filters from "./filters.js";
import * as items from "./items.js";
import * as query from "./query.js";
import { showRelease } from "./release.js";
import { problemBox, showAnswers, showExamples, showTrail, showWaiting } from "./results.js";
import { current, filterBody, push, queryOf, replace, restore, state, title } from "./state.js";

const EXAMPLES = 24;
const RETRY = 1500; // milliseconds
let release = null; // the served one, as the service described it last
let releases = [];
let seed = 1; // of the examples
let running = new AbortController();

const actions = {
  open: (step) => go([...state.trail, step]),
  edit: (id) => guarded(async () => items.openItem(release, await api.item(id))),
};

/** Search with another trail, once there is a release. */
function go(trail) {
  if (!release) return;
  state.trail = trail;
  push();
  show({ focus: true });
}

/** Do something, and show its problem if it has one; a passing one with a button that does it `again`. */
async function guarded(action, again = null) {
  try {
    $("problem").replaceChildren();
    return await action();
  } catch (problem) {
    if (problem.name === "AbortError") return undefined;
    const box = problemBox(problem instanceof api.Problem ? problem : new api.Problem({ title: "The page failed", detail: String(problem) }));
    if (again && problem.passing) box.append(make("button", { type: "button", onclick: again }, "Try again"));
    $("problem").replaceChildren(box);
    return undefined;
  }
}

/** Show the state: what was asked, the way to it, and the answer. */
async function show({ focus = false, said = "" } = {}) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const step = current();
  document.title = step ? `${title(step)} · Anchorage` : "Anchorage";
  $("results-title").textContent = !step ? "Examples" : step.kind === "id" ? "Similar items" : "Results";
  $("others").hidden = Boolean(step) || !release || release.rows <= EXAMPLES;
  query.showQuery(step, null, panelActions);
  showTrail(go);
  if (focus) $("results-title").focus();
  showWaiting();
  $("results").setAttribute("aria-busy", "true");
  const message = await guarded(async () => (step ? answer(step, signal) : examples()), () => show({ focus: true }));
  if (signal.aborted) return;
  if (message === undefined) $("answers").replaceChildren(); // nothing of an earlier answer stays
  if (said || message) say(said || message); // what was done is said even if the search fails
  $("results").removeAttribute("aria-busy");
}

const panelActions = {
  add: (kept) => items.openNew(release, kept),
  edit: (item) => items.openItem(release, item),
};

async function examples() {
  const found = await api.items(EXAMPLES, seed);
  if (current()) return "";
  const note = filterBody() ? "The filter applies to searches, not to examples." : "";
  showExamples(found.items, note, { pictures: release.pictures, actions });
  return `${found.items.length} examples. ${note}`;
}

async function answer(step, signal) {
  const asked = queryOf(step);
  if (!asked) throw new api.Problem({ title: "The image of this search is gone", detail: "The page has been loaded anew since. Choose the image again." });
  const settings = { k: state.k, filter: filterBody(), signal };
  const versions = [null, state.compared].slice(0, state.compared && state.compared !== release.version ? 2 : 1);
  const searches = versions.map((version) => api.search(asked, { ...settings, release: version }));
  const item = step.kind === "id" ? api.item(step.id).catch(() => null) : null; // the search reports the error
  const [first, second] = await Promise.allSettled(searches);
  if (first.status === "rejected" && versions.length === 1) throw first.reason;
  if (first.value && first.value.release.version !== release.version) await refresh(); // switched by someone else
  if (signal.aborted) return "";
  const column = (settled, version) => ({ version, current: version === release.version, answer: settled.value, problem: settled.reason });
  const columns = [column(first, release.version), ...(second ? [column(second, state.compared)] : [])];
  const message = showAnswers(columns, { pictures: release.pictures, filtered: Boolean(settings.filter), actions });
  if (item) {
    const found = await item;
    if (found && !signal.aborted) query.showQuery(step, found, panelActions);
    if (found) step.label = found.label;
    if (!signal.aborted) showTrail(go);
  }
  return message;
}

/** Read all of it as soon as the service has loaded its release. */
async function ready() {
  for (;;) {
    try {
      return await refresh();
    } catch (problem) {
      if (problem.code !== "E_NOT_READY") throw problem;
      const message = "The service loads its release. The page goes on as soon as it is ready.";
      if (!$("problem").hasChildNodes()) $("problem").replaceChildren(make("p", { class: "notice" }, message));
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}

/** Read the release, its attributes and the list of releases again. */
async function refresh() {
  let attributes;
  [release, { releases }, { attributes }] = await Promise.all([api.release(), api.releases(), api.attributes()]);
  query.offer(release);
  filters.offer(attributes);
  showReleases();
}

const showReleases = () => showRelease(release, releases, { compare, switchTo });

async function compare(version) {
  await guarded(async () => {
    const line = releases.find((each) => each.version === version);
    if (version && !line?.loaded) {
      say(`Release ${version} is being loaded.`);
      await busy(`[data-compare="${version}"]`, "Loading…", () => items.withKey(() => api.load(version)));
      ({ releases } = await api.releases());
    }
    const button = `[data-compare="${version ?? state.compared}"]`;
    state.compared = version;
    push();
    showReleases();
    document.querySelector(button)?.focus();
    if (version && !current()) {
      const message = `Release ${version} is loaded. Search for something to see both answers.`;
      $("problem").replaceChildren(make("p", { class: "notice" }, message));
    } else await show({ said: version ? "" : "The comparison is over." });
  });
}

async function switchTo(version, verb) {
  if (!(await confirmed(`${verb} to release ${version}?`, "Everyone who uses this service gets its answers from then on.", verb))) return;
  await guarded(async () => {
    say(`Release ${version} is being loaded.`);
    await busy(`[data-switch="${version}"]`, "Loading…", () => items.withKey(() => api.switchTo(version)));
    if (state.compared === version) state.compared = null;
    replace();
    await refresh();
    $("release-title").tabIndex = -1;
    $("release-title").focus();
    await show({ said: `Release ${version} is served now.` });
  });
}

async function busy(selector, text, action) {
  const button = document.querySelector(selector);
  const before = button.textContent;
  button.textContent = text;
  try {
    return await disabled([button], action);
  } finally {
    button.textContent = before;
  }
}

async function changed(id, said, deleted) {
  if (deleted !== undefined) state.trail = state.trail.filter((step) => step.id !== deleted);
  else state.trail = state.trail.map((step) => (step.id === id ? { kind: "id", id } : step));
  replace();
  await guarded(refresh);
  await show({ said });
  $("results-title").focus();
}

function start() {
  query.listen(actions.open, (problem) => {
    $("problem").replaceChildren(problemBox(problem));
  });
  filters.listen(() => {
    replace();
    show();
  });
  items.listen(changed);
  $("add-open").addEventListener("click", () => release && items.openNew(release));
  $("others").addEventListener("click", () => {
    seed += 1;
    show();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // a fragment would be a step of the history without the search
    $("results").focus();
  });
  document.querySelector(".brand").addEventListener("click", (event) => {
    event.preventDefault();
    go([]);
  });
  addEventListener("popstate", () => {
    restore();
    if (release) {
      showReleases();
      filters.show();
      show({ focus: true });
    }
  });
  restore();
  showWaiting();
  const begin = () =>
    guarded(async () => {
      await ready();
      $("problem").replaceChildren();
      if (!releases.some(({ version, loaded, current }) => version === state.compared && loaded && !current)) state.compared = null;
      replace();
      await show();
    }, begin);
  begin();
}

start();
