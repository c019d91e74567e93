// Elements without templates: text is always set as text, so that ids and labels never become markup.

export const $ = (id) => document.getElementById(id);

/** Make an element; `properties` are set on it, `data-`, `aria-` and other hyphenated names as attributes. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element[key] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An image of an item in a square of fixed size; its initial where there is no picture. */
export function picture(path, alt, initial) {
  const frame = make("span", { class: "picture" });
  const missing = () => frame.replaceChildren(make("span", { class: "no-picture", role: "img", "aria-label": alt }, (initial || "?").slice(0, 1)));
  if (!path) missing();
  else frame.append(make("img", { alt, width: 256, height: 256, loading: "lazy", decoding: "async", src: path, onerror: missing }));
  return frame;
}

/** A bar that is filled by a share from 0 to 1; the number beside it says the same in words. */
export function bar(share) {
  const filled = make("span");
  filled.style.inlineSize = `${100 * Math.min(1, Math.max(0, share))}%`;
  return make("span", { class: "bar", "aria-hidden": "true" }, filled);
}

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

export const number = (value) => value.toLocaleString("en");

/** Say something to screen readers. */
export function say(text) {
  $("status").textContent = text;
}

/** Do something while buttons are disabled, which takes the focus from them; it comes back afterwards. */
export async function disabled(buttons, action) {
  const before = document.activeElement;
  buttons.forEach((button) => (button.disabled = true));
  try {
    return await action();
  } finally {
    buttons.forEach((button) => (button.disabled = false));
    const now = document.activeElement; // the body, or still a field of the dialog that was closed last
    if (now === document.body || !now.checkVisibility()) before.focus();
  }
}

/** Ask a question; resolves to whether the answer is yes. */
export function confirmed(title, text, yes) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  const dialog = $("confirm-dialog");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
