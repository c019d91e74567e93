// The ways to ask: drop, paste, choose or photograph an image; a description; a vector. And what was asked.

import { imagePath, Problem } from "./api.js";
import { $, make, picture } from "./dom.js";
import { imageOf, imageStep, numbers, title } from "./state.js";

/** Call `search(step)` when the user asks for something, and `fail(problem)` when it cannot be used. */
export function listen(search, fail) {
  let takesImages = () => !$("drop").hidden;
  const ask = (files, otherwise) => {
    const file = [...files].find((each) => each.type.startsWith("image/"));
    if (file) search(imageStep(file));
    else fail(new Problem({ title: "This is no image", detail: otherwise }));
  };

  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", (event) => {
      if (event.target.files.length) ask(event.target.files, "Choose an image, such as a JPEG or PNG file.");
      event.target.value = ""; // so that the same file can be chosen again
    });
  }

  let depth = 0;
  const dragging = (change) => {
    depth = Math.max(0, change === 0 ? 0 : depth + change);
    document.body.classList.toggle("dragging", depth > 0 && takesImages());
  };
  document.addEventListener("dragenter", () => dragging(1));
  document.addEventListener("dragleave", () => dragging(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would leave the page and open the file
    dragging(0);
    if (document.querySelector("dialog[open]") || !takesImages()) return;
    ask(event.dataTransfer.files, "Drop an image file. A link to an image cannot be loaded from here: save it first.");
  });

  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (!files.length || document.querySelector("dialog[open]") || !takesImages()) return;
    event.preventDefault();
    ask(files, "Paste an image.");
  });

  $("text-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (text) search({ kind: "text", text });
  });

  $("vector-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const vector = numbers($("vector").value);
    if (vector.length) search({ kind: "vector", vector });
    else fail(new Problem({ title: "This is no vector", detail: "Enter numbers, separated by commas." }));
  });
}

/** Show the ways to ask that a release supports. */
export function offer(release) {
  $("drop").hidden = release.input !== "images";
  $("vector-form").hidden = release.input === "images";
  $("text-form").hidden = !release.text;
}

/** Show what was asked, with what can be done with it; `item` is the item of a query by id, once it is known. */
export function showQuery(step, item, { add, edit }) {
  const panel = $("query");
  panel.hidden = !step;
  if (!step) return panel.replaceChildren();
  const kept = imageOf(step);
  const facts = Object.entries(item?.attributes ?? {}).filter(([, value]) => value);
  const path = step.kind === "id" ? (item ? item.image : imagePath(step.id)) : kept?.url;
  const shown = step.kind === "text" || step.kind === "vector" ? null : picture(path, `The query: ${title(step)}`, title(step));
  panel.replaceChildren(
    ...[
      make("h2", { class: "visually-hidden" }, "Query"),
      shown,
      make(
        "div",
        { class: "query-text" },
        make("p", { class: "query-title" }, item?.label || title(step)),
        step.kind === "id" && make("p", { class: "hint" }, step.id),
        item && !item.searchable && make("p", { class: "hint" }, "The served model cannot embed this item, so it is not found."),
        facts.length > 0 && make("ul", { class: "tags" }, facts.map(([name, value]) => make("li", {}, `${name}: ${value}`))),
        item && make("button", { type: "button", onclick: () => edit(item) }, "Edit or delete"),
        kept && make("button", { type: "button", onclick: () => add(kept) }, "Add to the gallery"),
      ),
    ].filter(Boolean),
  );
}
