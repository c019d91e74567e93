// The card of the served release, and the other releases: compare with one, or switch to it.

import { $, bar, make, number, percent } from "./dom.js";
import { state } from "./state.js";

const day = (text) => new Date(text).toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });

const NAMES = { "map@r": "MAP@R", r_precision: "R-precision" };
const metricName = (name) => NAMES[name] ?? name;

function metrics(release) {
  const { metrics, intervals, primary, untrained } = release;
  if (!metrics || !Object.keys(metrics).length) return [];
  const first = primary in metrics ? primary : Object.keys(metrics)[0];
  const rest = Object.keys(metrics).filter((name) => name !== first);
  const bars = [["this release", metrics[first]], ...Object.entries(untrained ?? {}).map(([name, value]) => [name, value])];
  const interval = (name) => (intervals?.[name] ? ` (${intervals[name].map((end) => percent(end, 1)).join(" to ")})` : "");
  const row = ([name, value]) => make("div", { class: "baseline" }, make("dt", {}, name), make("dd", {}, bar(value), percent(value, 1)));
  return [
    make("p", { class: "primary-metric" }, make("span", { class: "big" }, percent(metrics[first], 1)), ` ${metricName(first)}${interval(first)}`),
    release.split && make("p", { class: "hint" }, `measured on the ${release.split} split${intervals ? "; 95 % intervals over its classes" : ""}`),
    bars.length > 1 && make("dl", { class: "baselines" }, bars.map(row)),
    rest.length > 0 && make("dl", { class: "facts" }, rest.map((name) => fact(metricName(name), percent(metrics[name], 1) + interval(name)))),
  ];
}

const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

function facts(release) {
  const { index, unknown_rates: rates } = release;
  const recall = index?.recall ? `, recall@${index.neighbors} ${percent(index.recall, 1)}` : "";
  const added = release.changed_share ? `, ${percent(release.changed_share, 1)} changed` : "";
  const rows = [
    ["items", `${number(release.rows)}${added}`],
    ["encoder", release.encoder],
    ["loss", release.loss],
    ["embedding", `${release.dimension} numbers`],
    ["index", index?.kind && `${index.kind.replaceAll("_", " ")}${recall}`],
    ["called unknown", rates && `${percent(rates.missing)} of queries without their class, ${percent(rates.present)} of others`],
    ["model", release.fingerprint.slice(0, 12)],
  ];
  return make("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => fact(name, value)));
}

/** Show the card; `compare(version | null)` and `switchTo(version)` are called by its buttons. */
export function showRelease(release, releases, { compare, switchTo }) {
  const { verdict } = release;
  const warnings = [...release.warnings, ...[release.doubts ?? []].flat()];
  $("release-body").replaceChildren(
    ...[
      make(
        "p",
        { class: "release-name" },
        make("strong", {}, release.name || "Release"),
        make("span", { class: "badge" }, `release ${release.version}`),
        make("span", { class: "hint" }, day(release.created)),
      ),
      ...metrics(release),
      facts(release),
      ...warnings.map((warning) => make("p", { class: "notice" }, warning)),
      verdict?.reasons?.length && make("details", {}, make("summary", {}, "Why it was published"), make("ul", {}, verdict.reasons.map((reason) => make("li", {}, reason)))),
      release.report && make("p", {}, make("a", { href: release.report }, "Read the report")),
      others(release, releases, { compare, switchTo }),
    ]
      .flat()
      .filter(Boolean),
  );
}

function others(release, releases, { compare, switchTo }) {
  const rows = releases.filter(({ version }) => version !== release.version).reverse();
  if (!rows.length) return null;
  const line = ({ version, created, metrics, fault }) => {
    const value = metrics[release.primary] ?? Object.values(metrics)[0];
    const compared = state.compared === version;
    const comparing = compared ? "Stop comparing" : "Compare";
    const verb = version < release.version ? "Roll back" : "Switch";
    return make(
      "li",
      {},
      make("p", {}, make("strong", {}, `Release ${version}`), make("span", { class: "hint" }, [fault ? "" : day(created), value !== undefined && percent(value, 1)].filter(Boolean).join(", "))),
      fault
        ? make("p", { class: "hint" }, `Not usable: ${fault}.`)
        : make(
            "div",
            { class: "row" },
            make("button", { type: "button", class: compared ? "chosen" : "", "data-compare": version, "aria-label": `${comparing} with release ${version}`, onclick: () => compare(compared ? null : version) }, comparing),
            make("button", { type: "button", "data-switch": version, "aria-label": `${verb} to release ${version}`, onclick: () => switchTo(version, verb) }, verb),
          ),
    );
  };
  return make("section", { class: "others", "aria-labelledby": "others-title" }, make("h3", { id: "others-title" }, "Other releases"), make("ul", {}, rows.map(line)));
}
