// Dialogs that change the gallery: the key, and an item to add, change or delete.

import * as api from "./api.js";
import { $, confirmed, disabled, picture } from "./dom.js";
import { problemBox } from "./results.js";
import { numbers } from "./state.js";

const NEEDED = "Changes of items and releases need the key of this service.";

/** Do something that needs the key; ask for the key when the service misses it. */
export async function withKey(action) {
  for (;;) {
    try {
      return await action();
    } catch (problem) {
      if (problem.code !== "E_KEY_WRONG") throw problem;
      const reason = api.key.get() ? "The service does not accept this key." : NEEDED;
      setKey("");
      if (!(await askKey(reason))) throw problem;
    }
  }
}

/** Ask for the key; resolves to whether one was entered. */
function askKey(reason = NEEDED) {
  const dialog = $("key-dialog");
  $("key-reason").textContent = `${reason} It stays in this tab until you close it.`;
  $("key").value = api.key.get();
  $("key-forget").hidden = !api.key.get();
  dialog.returnValue = "";
  dialog.showModal();
  $("key").select();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "set"), { once: true }));
}

const dialog = () => $("item-dialog");
let shown = {}; // the item in the dialog: {id, image}, both undefined for a new one

/** Attach the dialogs; `changed(id | null)` is called after a write, with null for an item that is gone. */
export function listen(changed) {
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  $("key-open").addEventListener("click", () => askKey());
  $("key-forget").addEventListener("click", () => {
    setKey("");
    $("key-dialog").close();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey($("key").value.trim());
    $("key-dialog").close(api.key.get() ? "set" : "");
    $("key").value = "";
  });
  $("item-file").addEventListener("change", () => {
    const [file] = $("item-file").files;
    if (!file) return;
    shown.image = file;
    if (!$("item-id").value) $("item-id").value = file.name;
    showPicture(URL.createObjectURL(file));
  });
  $("item-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => save(changed));
  });
  $("item-delete").addEventListener("click", () => attempt(() => remove(changed)));
  showKey();
}

function setKey(value) {
  api.key.set(value);
  showKey();
}

function showKey() {
  $("key-open").textContent = api.key.get() ? "Key is set" : "Key";
}

async function attempt(action) {
  const box = $("item-problem");
  box.replaceChildren();
  try {
    await disabled([$("item-save"), $("item-delete")], action);
  } catch (problem) {
    box.replaceChildren(problemBox(problem));
  }
}

function showPicture(url) {
  $("item-picture").replaceChildren(...(url ? [picture(url, "The item's image", $("item-id").value)] : []));
}

/** Open the dialog for a new item, if wanted with an image `{blob, url}`. */
export function openNew(release, kept) {
  shown = { image: kept?.blob };
  open("Add an item", "Add", release, { id: kept?.blob.name ?? "", label: "", attributes: {} }, kept?.url);
}

/** Open the dialog for an item of the gallery. */
export function openItem(release, item) {
  shown = { id: item.id };
  open("Change an item", "Save", release, item, item.image);
}

function open(title, verb, release, item, url) {
  const images = release.input === "images";
  $("item-title").textContent = title;
  $("item-save").textContent = verb;
  $("item-delete").hidden = shown.id === undefined;
  $("item-file-line").hidden = !images;
  $("item-vector-line").hidden = images;
  $("item-form").reset();
  $("item-id").value = item.id;
  $("item-id").readOnly = shown.id !== undefined;
  $("item-label").value = item.label;
  $("item-attributes").defaultValue = Object.entries(item.attributes).filter(([, value]) => value).map(([name, value]) => `${name}: ${value}`).join("\n");
  $("item-problem").replaceChildren();
  showPicture(url);
  dialog().showModal();
  (shown.id === undefined ? $("item-id") : $("item-label")).focus();
}

function readAttributes() {
  const found = {};
  for (const line of $("item-attributes").value.split("\n").filter((each) => each.trim())) {
    const at = line.indexOf(":");
    if (at < 1) throw new api.Problem({ title: "This is no attribute", detail: `Expected name: value. Received: ${line.trim()}` });
    found[line.slice(0, at).trim()] = line.slice(at + 1).trim();
  }
  return found;
}

async function save(changed) {
  const [id, isNew] = [$("item-id").value, shown.id === undefined];
  const text = $("item-vector").value.trim();
  const vector = text ? numbers(text) : undefined;
  const images = !$("item-file-line").hidden;
  if (vector && !vector.length) throw new api.Problem({ title: "This is no vector", detail: "Enter numbers, separated by commas." });
  if (isNew && !shown.image && !vector)
    throw new api.Problem({ title: images ? "An image is missing" : "A vector is missing", detail: "A new item needs one, from which it is found." });
  const same = !isNew && $("item-attributes").value === $("item-attributes").defaultValue;
  const attributes = same ? undefined : readAttributes(); // names and values may have a colon or a line break
  const item = { image: shown.image, vector, label: $("item-label").value.trim(), attributes };
  if (isNew && (await api.exists(id)) && !(await confirmed("Replace the item?", `There is an item ${id} already.`, "Replace"))) return;
  await withKey(() => api.put(id, item));
  dialog().close();
  changed(id, isNew ? `${id} is added.` : `${id} is changed.`);
}

async function remove(changed) {
  const { id } = shown;
  if (!(await confirmed("Delete the item?", `${id} will no longer be found.`, "Delete"))) return;
  await withKey(() => api.remove(id));
  dialog().close();
  changed(null, `${id} is deleted.`, id);
}
