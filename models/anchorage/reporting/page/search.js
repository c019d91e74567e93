// The interactive parts of a hyperparameter search: trials as lines across their settings, and the table of trials.
// Reads #report-data; without this script the page shows a static figure and the table in the order of the trials.
"use strict";
(() => {
  const search = JSON.parse(document.getElementById("report-data").textContent).search;
  const table = document.getElementById("trials-table"), plane = document.getElementById("trials-plane");
  if (!search || !table) return;
  const percent = share => `${(100 * share).toFixed(1)} %`;
  const brief = value => typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value);
  const rows = new Map([...table.tBodies[0].rows].map(row => [Number(row.dataset.trial), row]));

  // Axes: the settings on the scale of their range, then the score.
  const scored = search.trials.filter(trial => trial.score !== null).sort((a, b) => b.score - a.score);
  const axisOf = setting => {
    const range = search.space.find(item => item.path === setting.path);
    const values = scored.map(trial => trial.values[setting.path]).filter(value => value !== undefined);
    const read = trial => trial.values[setting.path];
    const choices = range && range.choices || (!range && values.some(value => typeof value !== "number") ? [...new Set(values)] : null);
    if (choices) return {name: setting.name, read, named: true, ticks: choices.map((value, at) => [at / Math.max(1, choices.length - 1), String(value)]),
      place: value => choices.indexOf(value) / Math.max(1, choices.length - 1)};
    const [low, high] = range ? [range.low, range.high] : [Math.min(...values), Math.max(...values)];
    const scale = range && range.sampling === "log" ? Math.log : value => value;
    const place = value => high > low ? (scale(value) - scale(low)) / (scale(high) - scale(low)) : 0.5;
    return {name: setting.name, read, place, ticks: [[0, brief(low)], [1, brief(high)]]};
  };
  const worst = scored.length ? scored.at(-1).score : 0, best = scored.length ? scored[0].score : 1;
  const axes = [...search.settings.map(axisOf), {
    name: table.tHead.rows[0].cells[1].textContent, read: trial => trial.score,
    place: value => best > worst ? (value - worst) / (best - worst) : 0.5, ticks: [[0, percent(worst)], [1, percent(best)]],
  }];

  // Lines.
  const NAMESPACE = "http://www.w3.org/2000/svg";
  const shape = (name, attributes, ...children) => {
    const made = document.createElementNS(NAMESPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const slider = document.getElementById("trials-shown"), note = document.getElementById("trials-note");
  let chosen = null, lines = new Map();
  const mark = number => {
    for (const [other, line] of lines) line.classList.toggle("chosen", other === number);
    for (const [other, row] of rows) row.classList.toggle("chosen", other === number);
    if (lines.has(number)) lines.get(number).parentNode.append(lines.get(number));
    const trial = search.trials.find(each => each.number === number);
    note.textContent = !trial ? "Point at a line, or choose a trial in the table." :
      `Trial ${number}: ${trial.score === null ? trial.state : percent(trial.score)}; ` + search.settings
        .filter(setting => trial.values[setting.path] !== undefined)
        .map(setting => `${setting.name} ${brief(trial.values[setting.path])}`).join(", ");
  };
  const draw = () => {
    const width = plane.clientWidth, upright = width >= 640;  // a narrow screen has its axes one below the other
    const across = upright ? width : 62 * axes.length, rim = upright ? {start: 56, end: 56} : {start: 30, end: 26};
    const height = upright ? 320 : across, length = upright ? height - 78 : width - 28;
    const along = at => axes.length > 1 ? rim.start + at / (axes.length - 1) * (across - rim.start - rim.end) : across / 2;
    const point = (at, share) => upright ? [along(at), 36 + (1 - share) * length] : [14 + share * length, along(at)];
    const picture = shape("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": "Trials as lines across their settings; the table below has the same numbers"});
    axes.forEach((axis, at) => {
      const [[x1, y1], [x2, y2]] = [point(at, 0), point(at, 1)];
      picture.append(shape("line", {x1, y1, x2, y2, class: "axis"}));
    });
    const shown = scored.slice(0, Number(slider.value)).reverse();
    lines = new Map(shown.map(trial => {
      const points = axes.map((axis, at) => {
        const value = axis.read(trial);
        return point(at, value === undefined ? -0.06 : axis.place(value));
      });
      const line = shape("polyline", {points: points.map(pair => pair.map(number => number.toFixed(1)).join(",")).join(" "),
        class: trial.number === search.best ? "trial best" : "trial", "data-trial": trial.number});
      line.style.opacity = trial.number === search.best ? 1 : 0.25 + 0.6 * axes.at(-1).place(trial.score);
      return [trial.number, line];
    }));
    picture.append(shape("g", {}, ...lines.values()));
    axes.forEach((axis, at) => picture.append(upright
      ? shape("text", {x: point(at, 0)[0], y: height - 4, class: "axis-name"}, axis.name)
      : shape("text", {x: 14, y: point(at, 0)[1] - 8, class: "axis-name first"}, axis.name)));
    axes.forEach((axis, at) => axis.ticks.forEach(([share, text]) => {
      const [x, y] = point(at, share);
      if (upright) picture.append(axis.named ? shape("text", {x: x + 5, y: y + 4, class: "tick first"}, text)
        : shape("text", {x, y: share ? y - 8 : y + 16, class: "tick"}, text));
      else picture.append(shape("text", {x, y: y + 14, class: share <= 0 ? "tick first" : share >= 1 ? "tick last" : "tick"},
        axis.ticks.length > 3 && share > 0 && share < 1 ? "" : text));
    }));
    plane.replaceChildren(picture);
    document.getElementById("trials-count").textContent = `${shown.length} of ${scored.length} trials with a score`;
    if (chosen !== null) mark(chosen);
  };
  const lineAt = event => {
    const line = event.target.closest("polyline");
    return line ? Number(line.dataset.trial) : null;
  };
  if (scored.length) {
    slider.max = slider.value = scored.length;
    slider.addEventListener("input", draw);
    plane.addEventListener("pointerover", event => mark(lineAt(event) ?? chosen));
    plane.addEventListener("pointerleave", () => mark(chosen));
    plane.addEventListener("click", event => { chosen = lineAt(event); mark(chosen); });
    window.addEventListener("resize", draw);
    document.getElementById("trials-interactive").hidden = false;
    document.getElementById("trials-static").hidden = true;
  }

  // The table: a trial's number marks its line, a heading sorts.
  const button = (text, title, act) => {
    const made = Object.assign(document.createElement("button"), {type: "button", className: "link", textContent: text, title});
    made.addEventListener("click", act);
    return made;
  };
  for (const [number, row] of rows) {
    row.cells[0].replaceChildren(button(number, "mark its line", () => { chosen = chosen === number ? null : number; mark(chosen); }));
  }
  const heads = [...table.tHead.rows[0].cells];
  let order = [0, 1];
  const sort = at => {
    order = order[0] === at ? [at, -order[1]] : [at, at === 1 ? -1 : 1];
    const key = row => row.cells[at].dataset.value ?? row.cells[at].textContent;
    const sorted = [...rows.values()].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");  // missing ones last
      return order[1] * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    });
    table.tBodies[0].append(...sorted);
    heads.forEach((cell, column) => cell.setAttribute("aria-sort", column === at ? (order[1] > 0 ? "ascending" : "descending") : "none"));
  };
  heads.forEach((cell, at) => cell.replaceChildren(button(cell.textContent, cell.title || "sort", () => sort(at))));
  if (scored.length) draw();
})();
