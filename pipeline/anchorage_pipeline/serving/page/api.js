// Calls of the service. Every failure is a Problem with words for people.

const KEY = "anchorage-key";

/** A problem document of the service, or a failure to reach it. */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, code = "", faults = [], passing = status === 429 || status > 500 }, retryAfter = "") {
    super(detail || title);
    if (code.startsWith("E_IMAGE_")) title = "This image cannot be used";
    const hint = HINTS[code] ?? (retryAfter ? `Try again in ${retryAfter} s.` : "");
    Object.assign(this, { title, detail, status, code, hint, passing, faults: faults ?? [] });
  }
}

const HINTS = {
  E_KEY_WRONG: "Enter the key that the service was started with.",
  E_WRITES_DISABLED: "The operator of this service has set no key, so it only searches.",
};

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function call(path, { method = "GET", body, json, type, secret = false, signal } = {}) {
  const headers = {};
  if (json !== undefined) [body, headers["Content-Type"]] = [JSON.stringify(json), "application/json"];
  else if (type) headers["Content-Type"] = type;
  if (secret && key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { method, body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && headers.Authorization && /[^\x20-\x7e]/.test(headers.Authorization))
      throw new Problem({ title: "Unauthorized", detail: "The key has characters that no key can have.", status: 401, code: "E_KEY_WRONG" });
    throw new Problem({ title: "The service cannot be reached", detail: "Check that it runs, and the connection to it.", passing: true });
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content !== null) return content;
  const problem = content ?? { title: response.statusText || "No answer", detail: "The service gave an answer that is not JSON." };
  throw new Problem({ status: response.status, ...problem }, response.headers.get("Retry-After") ?? "");
}

const path = (id) => `/v1/items/${encodeURIComponent(id)}`;

export const imagePath = (id) => `/v1/images/${encodeURIComponent(id)}`;

/** Search with a query: `{image: Blob}`, `{id}`, `{text}` or `{vector}`. */
export function search(query, { k, filter, release, signal }) {
  const address = new URLSearchParams({ k });
  if (filter) address.set("filter", JSON.stringify(filter));
  if (release) address.set("release", release);
  const body = query.image ? { body: query.image, type: query.image.type } : { json: { [query.kind]: query[query.kind] } };
  return call(`/v1/search?${address}`, { method: "POST", signal, ...body });
}

export const items = (limit, seed) => call(`/v1/items?limit=${limit}&seed=${seed}`);
export const item = (id) => call(path(id));
export const attributes = () => call("/v1/attributes");
export const release = () => call("/v1/release");
export const releases = () => call("/v1/releases");

const version = (address, value) => call(address, { method: "POST", json: { version: value }, secret: true });
export const switchTo = (value) => version("/v1/releases/current", value);
export const load = (value) => version("/v1/releases/compared", value);

/** Add or change an item; what is undefined stays as it is. */
export function put(id, { image, vector, label, attributes }) {
  if (!image) return call(path(id), { method: "PUT", json: { vector, label, attributes }, secret: true });
  const address = new URLSearchParams();
  if (label !== undefined) address.set("label", label);
  if (attributes !== undefined) address.set("attributes", JSON.stringify(attributes));
  return call(`${path(id)}?${address}`, { method: "PUT", body: image, type: image.type, secret: true });
}

export const remove = (id) => call(path(id), { method: "DELETE", secret: true });

/** Whether an item can be searched for; asked as one of several queries, whose problems are no failures. */
export async function exists(id) {
  const { answers } = await call("/v1/search?k=1", { method: "POST", json: { queries: [{ id }] } });
  return !answers[0].problem;
}
