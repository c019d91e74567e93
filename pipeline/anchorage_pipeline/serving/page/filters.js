// The filter: a label, and values of attributes as the gallery has them.

import { $, make, number } from "./dom.js";
import { filterCount, state } from "./state.js";

let known = {};

/** Call `changed()` when the filter or the number of results is another one. */
export function listen(changed) {
  const form = $("filter-form");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    const attributes = {};
    for (const box of form.querySelectorAll("input[type=checkbox]:checked")) (attributes[box.name] ??= []).push(box.value);
    state.filter = { label: $("label").value.trim(), attributes };
    state.k = Number($("k").value);
    showCount();
    changed();
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    state.filter = { label: "", attributes: {} };
    show();
    $("label").focus();
    changed();
  });
  $("filters").open = matchMedia("(min-width: 60rem)").matches;
}

/** Show the attributes of the gallery. */
export function offer(attributes) {
  known = attributes;
  show();
}

/** Show the filter of the state. */
export function show() {
  $("label").value = state.filter.label ?? "";
  $("k").value = String(state.k);
  if ($("k").selectedIndex < 0) $("k").value = String((state.k = 24));
  const chosen = state.filter.attributes ?? {};
  const names = [...new Set([...Object.keys(known), ...Object.keys(chosen)])];
  $("attributes").replaceChildren(...names.map((name) => group(name, known[name] ?? [], chosen[name] ?? [])));
  showCount();
}

function group(name, values, chosen) {
  const missing = chosen.filter((value) => !values.some((each) => each.value === value));
  const all = [...values, ...missing.map((value) => ({ value, count: 0 }))];
  const boxes = all.map(({ value, count }) =>
    make(
      "label",
      { class: "choice" },
      make("input", { type: "checkbox", name, value, checked: chosen.includes(value) }),
      make("span", { class: "choice-name" }, value),
      make("span", { class: "count" }, make("span", { class: "visually-hidden" }, ", items: "), number(count)),
    ),
  );
  return make("fieldset", {}, make("legend", {}, name), make("div", { class: "choices" }, boxes));
}

function showCount() {
  const count = filterCount();
  $("filter-count").textContent = count ? ` (${count})` : "";
  $("filter-clear").hidden = !count;
}
