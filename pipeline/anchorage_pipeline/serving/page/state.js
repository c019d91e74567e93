// What the page shows, kept in the address and the browser's history: a trail of queries, a filter, a compared release.

const images = new Map(); // images of this visit by key: history keeps the key only

/** Keep an image; returns the step that searches for it. */
export function imageStep(blob) {
  const key = `${Date.now()}-${images.size}`;
  images.set(key, { blob, url: URL.createObjectURL(blob) });
  return { kind: "image", key, name: blob.name ?? "image" };
}

export const imageOf = (step) => images.get(step.key);

/** Words for a step of the trail. */
export function title(step) {
  if (!step) return "Examples";
  if (step.kind === "id") return step.label || step.id;
  if (step.kind === "text") return `“${step.text}”`;
  return step.kind === "vector" ? "A vector" : step.name;
}

/** What a step sends to the service; null for an image of an earlier visit. */
export function queryOf(step) {
  if (step.kind !== "image") return { kind: step.kind, [step.kind]: step[step.kind] };
  const kept = imageOf(step);
  return kept ? { kind: "image", image: kept.blob } : null;
}

export const state = { trail: [], filter: {}, k: 24, compared: null };

export const current = () => state.trail.at(-1);

/** The filter as the service takes it; undefined without conditions. */
export function filterBody() {
  const { label, attributes = {} } = state.filter;
  const chosen = Object.entries(attributes).filter(([, values]) => values.length);
  const body = {};
  if (label) body.label = label;
  if (chosen.length) body.attributes = Object.fromEntries(chosen);
  return Object.keys(body).length ? body : undefined;
}

export const filterCount = () => {
  const body = filterBody();
  return body ? Number("label" in body) + Object.keys(body.attributes ?? {}).length : 0;
};

/** The address of a trail with the present filter. */
export function address(trail = state.trail) {
  const parts = new URLSearchParams();
  const step = trail.at(-1);
  const text = { image: step?.name, vector: step?.vector?.join(",") }; // an image has its name there, for people
  if (step) parts.set(step.kind, text[step.kind] ?? step[step.kind]);
  if (filterBody()) parts.set("filter", JSON.stringify(filterBody()));
  if (state.k !== 24) parts.set("k", state.k);
  if (state.compared) parts.set("with", state.compared);
  return parts.size ? `/?${parts}` : "/";
}

const saved = () => ({ trail: state.trail, filter: state.filter, k: state.k, compared: state.compared });

export const push = () => history.pushState(saved(), "", address());

export const replace = () => history.replaceState(saved(), "", address());

/** Take the state from the history or, on a first visit, from the address. */
export function restore() {
  if (history.state?.trail) {
    Object.assign(state, history.state);
    return;
  }
  const parts = new URLSearchParams(location.search);
  const vector = numbers(parts.get("vector") ?? "");
  const steps = [
    parts.has("id") && { kind: "id", id: parts.get("id") },
    parts.has("text") && { kind: "text", text: parts.get("text") },
    vector.length && { kind: "vector", vector },
  ];
  const filter = read(parts.get("filter"));
  const lists = Object.entries(filter.attributes ?? {}).map(([name, values]) => [name, [values].flat().map(String)]);
  state.trail = steps.filter(Boolean).slice(0, 1);
  state.filter = { label: typeof filter.label === "string" ? filter.label : "", attributes: Object.fromEntries(lists) };
  state.k = Number(parts.get("k")) || 24;
  state.compared = Number(parts.get("with")) || null;
}

function read(text) {
  try {
    return Object(JSON.parse(text ?? "{}"));
  } catch {
    return {};
  }
}

/** The numbers of a text, separated by commas or spaces; none if one of them is no number. */
export function numbers(text) {
  const found = text.replace(/[[\]]/g, " ").split(/[\s,;]+/).filter(Boolean).map(Number);
  return found.every(Number.isFinite) ? found : [];
}
