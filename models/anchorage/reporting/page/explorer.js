// The interactive parts of the page: the map, the neighbours of a query, the table of classes.
// Reads #report-data and the pictures of #pictures; without this script the page shows the static figures and tables.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  const shown = report.explorer;
  if (!shown) return;
  const place = new Map(shown.ids.map((id, number) => [id, number]));
  const paths = report.facts.experiment?.data?.input === "vectors" ? shown.columns.path : undefined;
  const queryOf = new Map(shown.queries.map((item, number) => [item, number]));
  const queriesOf = new Map();
  shown.queries.forEach((item, number) => {
    const label = shown.labels[item];
    if (!queriesOf.has(label)) queriesOf.set(label, []);
    queriesOf.get(label).push(number);
  });

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  };
  // A name that may continue on a new line after a sign between its words.
  const breakable = name => name.split(/(?<=[_\-./])/).flatMap((part, at) => at ? [element("wbr"), part] : [part]);
  const percent = share => `${(100 * share).toFixed(1)} %`;

  // Pictures: tiles of one large image.
  const tile = (id, alt) => {
    const number = pictures.places[id];
    if (number === undefined) return element("span", {class: "none"}, "no picture");
    const made = element("span", {class: "tile-picture", role: "img", "aria-label": alt});
    const {side, columns} = pictures;
    made.style.width = made.style.height = `${side}px`;
    made.style.backgroundImage = `url(${pictures.uri})`;
    made.style.backgroundPosition = `-${(number % columns) * side}px -${Math.floor(number / columns) * side}px`;
    return made;
  };
  const linked = (id, alt) => {
    const picture = tile(id, alt);
    if (!report.facts.data_root) return picture;
    const path = `${report.facts.data_root}/${(paths && paths[place.get(id)]) || id}`.split("/").map(encodeURIComponent).join("/");
    return element("a", {href: `file://${path}`, target: "_blank", rel: "noopener", title: `open ${id}`}, picture);
  };

  // The neighbours of some queries.
  const panel = document.getElementById("neighbors-shown");
  const queryRow = number => {
    const item = shown.queries[number], label = shown.labels[item];
    const answers = element("ol", {class: "answers"});
    shown.neighbors[number].forEach((neighbor, rank) => {
      const right = shown.labels[neighbor] === label;
      const name = `neighbour ${rank + 1}: ${shown.labels[neighbor]}, ${right ? "correct" : "wrong"}`;
      const mark = element("span", {class: "mark", "aria-hidden": "true"}, right ? "✓" : "✗");
      const caption = element("div", {class: "caption", title: shown.ids[neighbor]},
        element("b", {}, shown.labels[neighbor]), element("br"), shown.similarities[number][rank].toFixed(3));
      answers.append(element("li", {class: right ? "right" : "wrong"},
        element("div", {class: "picture"}, linked(shown.ids[neighbor], name), mark), caption));
    });
    const caption = element("div", {class: "caption"}, element("b", {}, label), element("br"), shown.ids[item]);
    return element("div", {class: "query"},
      element("div", {class: "asked"}, element("div", {class: "picture"}, linked(shown.ids[item], `query: ${label}`)), caption),
      answers);
  };
  const PAGE = 20;
  const show = (title, numbers, from = 0) => {
    if (!from) panel.replaceChildren(element("h3", {tabindex: "-1"}, title));
    numbers.slice(from, from + PAGE).forEach(number => panel.append(queryRow(number)));
    if (from + PAGE < numbers.length) {
      const more = element("button", {type: "button"}, `${numbers.length - from - PAGE} more`);
      more.addEventListener("click", () => { more.remove(); show(title, numbers, from + PAGE); });
      panel.append(more);
    }
    panel.hidden = false;
    if (!from) panel.querySelector("h3").focus({preventScroll: false});
  };
  const showClass = label => {
    const numbers = queriesOf.get(label) || [];
    show(numbers.length ? `Class ${label}: ${numbers.length} queries` : `Class ${label}: none of its queries is in this page`, numbers);
  };
  const showItem = item => {
    if (queryOf.has(item)) show(`Query ${shown.ids[item]}`, [queryOf.get(item)]);
    else showClass(shown.labels[item]);
  };

  // The map.
  const map = report.map, canvas = document.getElementById("map-canvas");
  if (map && canvas) {
    const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a800", "#7f6bb2", "#8c564b", "#5b6775"];
    const colors = {"nearest neighbour right or wrong": null, "class": map.labels};
    for (const [name, values] of Object.entries(shown.columns).filter(([, values]) => values !== paths)) {
      colors[name] = map.ids.map(id => place.has(id) ? values[place.get(id)] : "");
    }
    const choice = document.getElementById("map-color"), key = document.getElementById("map-key");
    Object.keys(colors).forEach(name => choice.append(element("option", {}, name)));
    const low = [Math.min(...map.x), Math.min(...map.y)], high = [Math.max(...map.x), Math.max(...map.y)];
    let points = [], selected = -1;
    const colorOf = () => {
      const values = colors[choice.value];
      if (!values) {
        key.replaceChildren("Dots: the nearest neighbour is of the same class. Crosses: of another one.");
        const style = getComputedStyle(document.documentElement);
        return map.right.map(right => style.getPropertyValue(right === false ? "--wrong" : "--blue"));
      }
      const counts = new Map();
      values.forEach(value => counts.set(value, (counts.get(value) || 0) + 1));
      const largest = [...counts].sort((a, b) => b[1] - a[1]).slice(0, COLORS.length - 1).map(([value]) => value);
      key.replaceChildren(...largest.map((value, at) => {
        const box = element("i", {class: "swatch"});
        box.style.background = COLORS[at];
        return element("span", {}, box, value || "(none)");
      }), ...(counts.size > largest.length ? [element("span", {}, `and ${counts.size - largest.length} more in grey`)] : []));
      return values.map(value => largest.includes(value) ? COLORS[largest.indexOf(value)] : COLORS.at(-1));
    };
    const draw = () => {
      const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight, rim = 14;
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      const pen = canvas.getContext("2d"), fill = colorOf();
      pen.scale(ratio, ratio);
      points = map.x.map((x, at) => [
        rim + (x - low[0]) / (high[0] - low[0] || 1) * (width - 2 * rim),
        height - rim - (map.y[at] - low[1]) / (high[1] - low[1] || 1) * (height - 2 * rim),
      ]);
      points.forEach(([x, y], at) => {
        pen.fillStyle = pen.strokeStyle = fill[at];
        pen.beginPath();
        if (map.right[at] === false) {
          pen.lineWidth = 1.6;
          pen.moveTo(x - 4, y - 4); pen.lineTo(x + 4, y + 4); pen.moveTo(x - 4, y + 4); pen.lineTo(x + 4, y - 4);
          pen.stroke();
        } else {
          pen.globalAlpha = 0.75;
          pen.arc(x, y, 3.4, 0, 2 * Math.PI);
          pen.fill();
          pen.globalAlpha = 1;
        }
        if (at === selected) { pen.lineWidth = 2; pen.beginPath(); pen.arc(x, y, 9, 0, 2 * Math.PI); pen.stroke(); }
      });
    };
    const nearest = event => {
      const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = -1, least = 14 ** 2;
      points.forEach(([px, py], at) => {
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < least) { least = distance; best = at; }
      });
      return best;
    };
    const hint = document.getElementById("map-hint");
    canvas.addEventListener("pointermove", event => {
      const at = nearest(event);
      canvas.style.cursor = at < 0 ? "default" : "pointer";
      hint.hidden = at < 0;
      if (at < 0) return;
      hint.replaceChildren(tile(map.ids[at], map.labels[at]), element("div", {}, element("b", {}, map.labels[at]), element("br"), map.ids[at]));
      const [x, y] = points[at];
      hint.style.left = `${Math.min(x + 12, canvas.clientWidth - 220)}px`;
      hint.style.top = `${y + 12}px`;
    });
    canvas.addEventListener("pointerleave", () => { hint.hidden = true; });
    canvas.addEventListener("click", event => {
      const at = nearest(event);
      if (at < 0) return;
      selected = at;
      draw();
      if (place.has(map.ids[at])) showItem(place.get(map.ids[at]));
      else showClass(map.labels[at]);
    });
    choice.addEventListener("change", draw);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    window.addEventListener("resize", draw);
    document.getElementById("map-interactive").hidden = false;
    document.getElementById("map-static").hidden = true;
    draw();
  }

  // Find a class or an image by name.
  const finder = document.getElementById("find"), names = document.getElementById("find-names");
  if (finder) {
    [...queriesOf.keys()].sort().forEach(label => names.append(element("option", {value: label})));
    finder.addEventListener("change", () => {
      const wanted = finder.value.trim();
      if (queriesOf.has(wanted)) showClass(wanted);
      else if (place.has(wanted)) showItem(place.get(wanted));
      else if (wanted) {
        const like = shown.queries.map((item, number) => [item, number])
          .filter(([item]) => shown.ids[item].includes(wanted) || shown.labels[item].includes(wanted)).map(([, number]) => number);
        show(like.length ? `${like.length} queries with “${wanted}”` : `No query of this page has “${wanted}” in its name`, like);
      }
    });
    document.getElementById("finder").hidden = false;
  }

  // All classes, sortable and filterable.
  const table = document.getElementById("class-table");
  if (table) {
    const compared = report.classes.some(row => row.baseline !== null && row.baseline !== undefined);
    const columns = [
      ["class", row => row.label, value => value],
      ["images", row => row.images, value => value.toLocaleString("en")],
      ["queries", row => row.queries, value => value.toLocaleString("en")],
      ["recall@1", row => row["recall@1"], percent],
      ["MAP@R", row => row["map@r"], percent],
      ...(compared ? [["change", row => row.baseline == null ? null : row["map@r"] - row.baseline,
        value => value === null ? "–" : `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)}`]] : []),
      ["most often confused with", row => row.taken_for.length ? row.taken_for[0][0] : "", (value, row) =>
        value ? `${value} ×${row.taken_for[0][1]}` : "–"],
    ];
    let order = [4, 1];
    const filter = element("input", {type: "search", "aria-label": "filter the classes by name", placeholder: "filter by name"});
    const count = element("span", {class: "muted small", "aria-live": "polite"});
    const head = element("tr"), body = element("tbody");
    const made = element("table", {class: "sortable"}, element("thead", {}, head), body);
    const render = () => {
      const wanted = filter.value.trim().toLowerCase(), [, value] = columns[order[0]];
      const rows = report.classes.filter(row => row.label.toLowerCase().includes(wanted));
      rows.sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === null || y === null) return (x === null) - (y === null);
        return order[1] * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
      [...head.children].forEach((cell, at) =>
        cell.setAttribute("aria-sort", at === order[0] ? (order[1] > 0 ? "ascending" : "descending") : "none"));
      count.textContent = `${rows.length} of ${report.classes.length} classes`;
      body.replaceChildren(...rows.map(row => element("tr", {}, ...columns.map(([, value, format], at) => {
        const text = at ? format(value(row), row) : row.label;
        if (at === columns.length - 1) return element("td", {class: "text"}, ...breakable(text));
        if (at) return element("td", {}, text);
        const button = element("button", {type: "button", class: "link", title: "show its queries"}, ...breakable(text));
        button.addEventListener("click", () => showClass(row.label));
        return element("td", {}, button);
      }))));
    };
    columns.forEach(([name], at) => {
      const button = element("button", {type: "button", class: "link"}, name);
      button.addEventListener("click", () => { order = order[0] === at ? [at, -order[1]] : [at, 1]; render(); });
      head.append(element("th", {scope: "col", class: at === columns.length - 1 ? "text" : null}, button));
    });
    filter.addEventListener("input", render);
    table.replaceChildren(element("p", {}, filter, " ", count), element("div", {class: "scroll tall"}, made));
    render();
  }
})();
