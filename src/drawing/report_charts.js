// SPDX-License-Identifier: Apache-2.0
// Parts of the report's page: elements, tables that sort, curves with values, the confusion matrix.
"use strict";

/** An element; `props` are set on it ("class" and "on" too), children are elements or text. */
function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, run] of Object.entries(value)) made.addEventListener(event, run);
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function svg(tag, props = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A score as text; "-" where there is none (-1). */
const score3 = (value) => (value === null || value < 0 ? "-" : value.toFixed(3));
const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

/**
 * A table whose headings sort. `columns` are {head, value(row), text(row), number}; `cell` may give
 * the content of a first column; a row without a value comes last in either order.
 */
function sortedTable(place, columns, rows, cell, mark = () => false) {
  let by = 0, up = true;
  function draw() {
    const value = columns[by].value;
    const none = (row) => typeof value(row) === "number" && value(row) < 0;
    const order = [...rows].sort((a, b) => {
      if (none(a) !== none(b)) return none(a) ? 1 : -1;
      const [x, y] = [value(a), value(b)];
      const sign = typeof x === "string" ? x.localeCompare(y) : x - y;
      return up ? sign : -sign;
    });
    const heads = columns.map((column, number) => {
      const chosen = number === by;
      const arrow = chosen ? (up ? " \u25b2" : " \u25bc") : "";
      const press = () => {
        up = chosen ? !up : !column.number; // numbers begin with the highest
        by = number;
        draw();
        place.querySelectorAll("th button")[number].focus();
      };
      const button = el("button", { type: "button", on: { click: press } }, column.head + arrow);
      const sort = chosen ? (up ? "ascending" : "descending") : "none";
      return el("th", { class: column.number ? "number" : "", "aria-sort": sort }, button);
    });
    const body = order.map((row) => el("tr", { class: mark(row) ? "chosen" : "" }, ...columns.map(
      (column, number) => el("td", { class: column.number ? "number" : "" },
        number === 0 && cell ? cell(row) : (column.text || column.value)(row)))));
    place.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...body)));
  }
  draw();
  return draw;
}

/** A plain table of a few rows. */
function plainTable(place, heads, rows) {
  const kind = (number) => ({ class: number ? "number" : "" });
  place.replaceChildren(el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head, number) => el("th", kind(number), head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, number) =>
      el("td", kind(number), String(value))))))));
}

const PLOT = { left: 46, top: 10, width: 640, height: 360 };

/**
 * Curves from 0 to 1 on both axes. `lines` are {name, values, kind}, values at even steps of x; `tell`
 * is called with the line and the step that the pointer is next to, or with nothing.
 */
function plot(place, lines, xName, yName, tell) {
  const { left, top, width, height } = PLOT;
  const x = (share) => left + width * share, y = (value) => top + height * (1 - value);
  const picture = svg("svg", {
    viewBox: `0 0 ${left + width + 14} ${top + height + 42}`, role: "img",
    "aria-label": `${yName} over ${xName}`,
  });
  for (let fifth = 0; fifth <= 5; fifth++) {
    const at = fifth / 5;
    picture.append(
      svg("path", { class: "grid", d: `M${x(at)} ${top}v${height}M${left} ${y(at)}h${width}` }),
      svg("text", { x: x(at), y: top + height + 18, "text-anchor": "middle" }, at.toFixed(1)),
      svg("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, at.toFixed(1)));
  }
  picture.append(
    svg("text", { x: x(0.5), y: top + height + 36, "text-anchor": "middle" }, xName),
    svg("text", { transform: `translate(13 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle" }, yName));
  const drawn = lines.map((line) => svg("polyline", {
    class: line.kind,
    points: line.values.map((v, k) => `${x(k / (line.values.length - 1)).toFixed(1)},${y(v).toFixed(1)}`).join(" "),
  }));
  const dot = svg("circle", { r: 5, visibility: "hidden" });
  picture.append(...drawn, dot);
  let near = -1;
  const release = () => {
    if (near >= 0) drawn[near].setAttribute("class", lines[near].kind);
    near = -1;
    dot.setAttribute("visibility", "hidden");
  };
  picture.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    release();
    if (!lines.length) return;
    const share = Math.min(1, Math.max(0, (at.x - left) / width));
    const step = (line) => Math.round(share * (line.values.length - 1));
    const gaps = lines.map((line) => Math.abs(y(line.values[step(line)]) - at.y));
    near = gaps.indexOf(Math.min(...gaps));
    const line = lines[near], k = step(line);
    drawn[near].setAttribute("class", "chosen");
    dot.setAttribute("cx", x(k / (line.values.length - 1)));
    dot.setAttribute("cy", y(line.values[k]));
    dot.setAttribute("visibility", "visible");
    tell(line, k);
  });
  picture.addEventListener("pointerleave", () => { release(); tell(); });
  place.replaceChildren(picture);
}

/** Counts of truth (rows) by what was found (columns), within one screen; `tell(row, column)`. */
function matrix(place, names, rows, tell) {
  const gap = names.length > 40 ? 0 : 1; // between cells, pixels
  const room = Math.min(place.clientWidth - 150, innerHeight - 270); // less the names and what is above
  const cell = Math.max(6, Math.min(34, Math.floor(room / names.length) - gap));
  const wide = Math.max(cell, Math.min(2 * cell, 34, Math.floor((place.clientWidth - 150) / names.length) - gap));
  const numbers = cell >= 20;
  const head = el("tr", {}, el("th"), ...names.map((name) => el("th", { scope: "col" }, el("span", {}, name))));
  const body = rows.map((row, i) => {
    const total = Math.max(1, row.reduce((a, b) => a + b, 0));
    return el("tr", {}, el("th", { scope: "row" }, names[i]), ...row.map((value, j) => el("td", {
      "--share": (value / total).toFixed(3), "data-at": `${i},${j}`,
    }, numbers && value ? String(value) : "")));
  });
  const sizes = { "--cell": cell, "--wide": wide, "--gap": gap, "--letters": Math.min(12, cell), "--across": Math.min(12, wide) };
  const pixels = Object.fromEntries(Object.entries(sizes).map(([name, value]) => [name, `${value}px`]));
  const table = el("table", { class: "matrix", ...pixels }, el("thead", {}, head), el("tbody", {}, ...body));
  const look = (event) => {
    const at = event.target.closest("td");
    if (at) tell(...at.dataset.at.split(",").map(Number));
  };
  table.addEventListener("pointerover", look);
  table.addEventListener("click", look);
  place.replaceChildren(table);
}
