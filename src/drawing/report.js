// SPDX-License-Identifier: Apache-2.0
// The report's page: filters, and everything that follows them.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const MISSED = DATA.kinds.indexOf("missed"), CORRECT = DATA.kinds.indexOf("correct");
const KINDS = { // colour on a picture, and what it means
  correct: ["#35d07f", "right class, IoU 0.5 or more"],
  localisation: ["#ffb020", "right class, IoU 0.1 to 0.5"],
  class: ["#ff6ad5", "wrong class, IoU 0.5 or more"],
  both: ["#c3a5ff", "wrong class, IoU 0.1 to 0.5"],
  duplicate: ["#55c8ff", "an object found already"],
  background: ["#ff7a6b", "nothing is there"],
  missed: ["#ffe94a", "an object that was not found"],
  ignored: ["#c0c8d0", "on a crowd or difficult object"],
};
const kindName = (kind) => DATA.kinds[kind] || "ignored";
const state = { cls: -1, kind: -1, score: DATA.threshold, show: "both", curve: "0.50", cards: 12, open: -1 };
const redraws = []; // called whenever the state has changed
let cards = []; // numbers of the pictures that the filters leave, most errors first

// ---- counting -------------------------------------------------------------------------------

/** Numbers by kind in the whole split, from the score chosen on. */
function kindCounts() {
  const sums = DATA.kinds.map(() => 0);
  const least = Math.round(state.score * DATA.steps);
  let objects = 0;
  DATA.counts.objects.forEach((number, cls) => { if (state.cls < 0 || cls === state.cls) objects += number; });
  for (const [cls, kind, step, number] of DATA.counts.detections) {
    if (step >= least && (state.cls < 0 || cls === state.cls)) sums[kind] += number;
  }
  sums[MISSED] = objects - sums[CORRECT];
  return { sums, objects };
}

/** F1 of one class at each score from 0 to 1. */
function f1Curve(cls) {
  const right = new Array(DATA.steps + 1).fill(0), all = new Array(DATA.steps + 1).fill(0);
  for (const [own, kind, step, number] of DATA.counts.detections) {
    if (own !== cls) continue;
    all[step] += number;
    if (kind === CORRECT) right[step] += number;
  }
  for (let step = DATA.steps - 1; step >= 0; step--) {
    all[step] += all[step + 1];
    right[step] += right[step + 1];
  }
  return all.map((number, step) => 2 * right[step] / Math.max(1, number + DATA.counts.objects[cls]));
}

/** Whether a box of a picture, of this class and kind, is what the filters ask for. */
function asked(cls, kind) {
  if (state.cls >= 0 && cls !== state.cls) return false;
  return state.kind < 0 ? kind !== CORRECT && kind < DATA.kinds.length : kind === state.kind;
}

const isShown = (box) => box[5] >= state.score - 1e-9;
const isMissed = (box) => !box[6] && !isShown(box);

function errorsIn(picture) {
  const found = picture.found.filter((box) => isShown(box) && asked(box[4], box[6])).length;
  return found + picture.truth.filter((box) => isMissed(box) && asked(box[4], MISSED)).length;
}

// ---- the rest of the page -------------------------------------------------------------------

function drawKinds() {
  const { sums, objects } = kindCounts();
  const shown = sums.reduce((a, b) => a + b, 0) - sums[MISSED], most = Math.max(1, ...sums);
  const of = state.cls < 0 ? "" : ` of ${DATA.classes[state.cls]}`;
  const threshold = state.cls < 0 ? -1 : DATA.best[state.cls][0];
  byId("suggested").hidden = threshold < 0;
  byId("suggested").textContent = `Show ${state.cls < 0 ? "" : DATA.classes[state.cls]} from ${threshold}, the suggested threshold`;
  byId("errors-note").textContent = `With a score of ${state.score.toFixed(2)} and more: ${count(shown, "detection")}${of},`
    + ` and ${sums[CORRECT]} of ${count(objects, "object")}${of} found. Choose a kind to see its pictures.`;
  byId("kinds").replaceChildren(...DATA.kinds.map((name, kind) => {
    const bar = el("i");
    bar.style.width = `${100 * sums[kind] / most}%`;
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = KINDS[name][0];
    const press = () => choose({ kind: state.kind === kind ? -1 : kind });
    return el("button", { type: "button", "aria-pressed": state.kind === kind, "data-kind": name, on: { click: press } },
      swatch, el("span", {}, name), el("small", {}, KINDS[name][1]), el("span", { class: "track" }, bar),
      el("span", { class: "number" }, String(sums[kind])));
  }).sort((a, b) => (a.dataset.kind === "correct") - (b.dataset.kind === "correct")));
}

function drawConfused() {
  const name = (cls) => DATA.classes[cls];
  byId("confused").replaceChildren(...(DATA.confused.length ? DATA.confused.map(([truth, cls, number]) => el("button", {
    type: "button", on: { click: () => choose({ cls, kind: DATA.kinds.indexOf("class") }) },
  }, `${name(truth)} taken for ${name(cls)}: ${number}`)) : ["No class was taken for another."]));
}

function drawCurve() {
  const found = DATA.curves[state.curve], f1 = state.curve === "F1";
  let lines = DATA.classes.map((name, cls) => ({
    name, values: f1 ? (DATA.counts.objects[cls] ? f1Curve(cls) : null) : found[name],
    kind: cls === state.cls ? "chosen" : "",
  })).filter((line) => line.values);
  if (!f1 && found.all.length) lines.push({ name: "mean of the classes", values: found.all, kind: "mean" });
  lines = lines.sort((a, b) => (a.kind === "chosen") - (b.kind === "chosen"));
  const xName = f1 ? "score" : "recall", yName = f1 ? "F1" : "precision";
  const tell = (line, step) => {
    byId("under-pointer").textContent = line
      ? `${line.name}: ${yName} ${line.values[step].toFixed(3)} at ${xName} ${(step / (line.values.length - 1)).toFixed(2)}`
      : "Point at a curve for its class and values.";
  };
  plot(byId("plot"), lines, xName, yName, tell);
  tell();
  const names = { "0.50": "Precision and recall, IoU 0.50", "0.75": "IoU 0.75", F1: "F1 and score" };
  byId("which").replaceChildren(...Object.entries(names).map(([curve, text]) => el("button", {
    type: "button", "aria-pressed": state.curve === curve, on: { click: () => choose({ curve }) },
  }, text)));
}

function drawShow() {
  const names = { both: "Both", found: "Found", truth: "Truth" };
  for (const place of ["show", "viewer-show"]) {
    byId(place).replaceChildren(...Object.entries(names).map(([show, text]) => el("button", {
      type: "button", "aria-pressed": state.show === show, "data-show": show, on: { click: () => choose({ show }) },
    }, text)));
  }
}

function drawClassBars() {
  const order = DATA.table.map((row, cls) => [row, cls]).sort((a, b) => b[0].AP - a[0].AP);
  byId("class-bars").replaceChildren(...order.map(([row, cls]) => {
    const bar = el("i");
    bar.style.width = `${100 * Math.max(0, row.AP)}%`;
    const press = () => choose({ cls: state.cls === cls ? -1 : cls });
    return el("button", { type: "button", "aria-pressed": state.cls === cls, title: row.class, on: { click: press } },
      el("span", {}, row.class), el("span", { class: "track" }, bar), el("span", { class: "number" }, score3(row.AP)));
  }));
}

function classTable() {
  const heads = { AP_small: "small", AP_medium: "medium", AP_large: "large", AR_100: "recall" };
  const column = (head, value, text) => ({ head, value, text, number: true });
  const columns = [
    { head: "class", value: (row) => row.class },
    column("objects", (row) => row.objects), column("detections", (row) => row.detections),
    ...DATA.averages.map((key) => column(heads[key] || key, (row) => row[key], (row) => score3(row[key]))),
    column("suggested threshold", (row) => row.best[0], (row) => (row.best[0] < 0 ? "-" : row.best[0].toFixed(2))),
    column("F1", (row) => row.best[1], (row) => score3(row.best[1])),
  ];
  const rows = DATA.table.map((row, cls) => ({ ...row, cls, best: DATA.best[cls] }));
  const cell = (row) => el("button", {
    type: "button", on: { click: () => choose({ cls: state.cls === row.cls ? -1 : row.cls }) },
  }, row.class);
  return sortedTable(byId("class-table"), columns, rows, cell, (row) => row.cls === state.cls);
}

function drawOnce() {
  byId("summary").textContent = `${count(DATA.images, "image")}, ${count(DATA.detections, "detection")}`
    + ` of any score; AP ${score3(DATA.totals.find(([name]) => name === "AP")[1])}.`;
  byId("totals").replaceChildren(...DATA.totals.map(([name, value]) =>
    el("div", {}, el("b", {}, score3(value)), el("span", {}, name.replaceAll("_", " ")))));
  const names = ["background", ...DATA.classes];
  byId("confusion-note").textContent = "Rows are ground truth, columns predictions, at IoU 0.50 and a score of"
    + ` ${DATA.threshold}. Background row: false positives; background column: misses. Darker is a larger part of the row.`;
  const tell = (i, j) => {
    const total = DATA.confusion[i].reduce((a, b) => a + b, 0), number = DATA.confusion[i][j];
    byId("confusion-cell").textContent = `${names[i]}, found as ${names[j]}: ${number} of ${total}`;
  };
  byId("confusion").hidden = !DATA.confusion.length; // of too many classes
  if (DATA.confusion.length) matrix(byId("matrix"), names, DATA.confusion, tell);
  byId("confusion-cell").textContent = "Point at a cell for its classes and numbers.";
  const outcomes = Object.keys(Object.values(DATA.sizes)[0]);
  plainTable(byId("size-table"), ["size", "objects", ...outcomes], Object.entries(DATA.sizes).map(([size, row]) =>
    [size, Object.values(row).reduce((a, b) => a + b, 0), ...Object.values(row)]));
  plainTable(byId("speed-table"), ["stage", "images/s"], Object.entries(DATA.speed).map(([name, rate]) => [name, rate.toFixed(1)]));
  byId("speed").hidden = !Object.keys(DATA.speed).length;
  byId("config").textContent = DATA.config;
}

/** Changes the state and draws what depends on it. */
function choose(changes) {
  Object.assign(state, changes);
  if (!("cards" in changes)) state.cards = 12;
  byId("class").value = state.cls;
  byId("kind").value = state.kind;
  for (const id of ["score", "viewer-score"]) {
    byId(id).value = state.score;
    byId(`${id}-value`).textContent = state.score.toFixed(2);
  }
  for (const draw of redraws) draw();
}

function start() {
  const options = (id, first, names) => byId(id).replaceChildren(
    el("option", { value: -1 }, first), ...names.map((name, number) => el("option", { value: number }, name)));
  options("class", "all", DATA.classes);
  options("kind", "all errors", DATA.kinds);
  for (const id of ["score", "viewer-score"]) {
    Object.assign(byId(id), { min: DATA.lowest, max: 0.99, step: 0.01 });
    byId(id).addEventListener("input", (event) => choose({ score: Number(event.target.value) }));
  }
  byId("class").addEventListener("change", (event) => choose({ cls: Number(event.target.value) }));
  byId("kind").addEventListener("change", (event) => choose({ kind: Number(event.target.value) }));
  byId("suggested").addEventListener("click", () => choose({ score: DATA.best[state.cls][0] }));
  byId("reset").addEventListener("click", () => choose({ cls: -1, kind: -1, score: DATA.threshold, show: "both" }));
  byId("more").addEventListener("click", () => choose({ cards: state.cards + 24 }));
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("close", () => { state.open = -1; });
  byId("viewer").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  addEventListener("resize", drawViewer);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  redraws.push(drawKinds, drawGallery, drawViewer, drawShow, drawCurve, drawClassBars, classTable());
  drawConfused();
  drawOnce();
  choose({});
}
start();
