// SPDX-License-Identifier: Apache-2.0
// The report's pictures: the gallery, and one of them enlarged.


/** The boxes shown: {box, kind, truth, faint}, the most telling last and so on top. */
function boxesOf(picture) {
  const boxes = [];
  for (const box of picture.truth) {
    const kind = isMissed(box) ? MISSED : -1;
    if (state.show !== "found") boxes.push({ box, kind, truth: true, faint: kind < 0 || !asked(box[4], kind) });
  }
  for (const box of picture.found) {
    if (state.show !== "truth" && isShown(box)) {
      boxes.push({ box, kind: box[6], truth: false, faint: !asked(box[4], box[6]) });
    }
  }
  return boxes.sort((a, b) => b.faint - a.faint);
}

const colourOf = (one) => (one.kind < 0 ? "#ffffff" : KINDS[kindName(one.kind)][0]);

/** A picture with frames over it: solid for what was found, dashed for the truth. */
function framed(picture, boxes, text, line) {
  const [width, height] = picture.size;
  const over = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
  for (const one of boxes) {
    const [x1, y1, x2, y2] = one.box;
    const place = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
    const dash = one.truth ? { "stroke-dasharray": "6 4" } : {};
    over.append(svg("g", { class: one.faint ? "faint" : "" },
      svg("rect", { ...place, class: "halo", "stroke-width": line + 2 }),
      svg("rect", { ...place, ...dash, stroke: colourOf(one), "stroke-width": line })));
  }
  const image = el("img", { alt: text, src: `data:image/jpeg;base64,${picture.code}` });
  const frame = el("span", { class: "frame" }, image, over);
  frame.style.aspectRatio = `${width} / ${height}`;
  return frame;
}

function drawGallery() {
  cards = DATA.pictures.map((_, number) => number).filter((number) => errorsIn(DATA.pictures[number]));
  cards.sort((a, b) => errorsIn(DATA.pictures[b]) - errorsIn(DATA.pictures[a]));
  const filtered = state.cls >= 0 || state.kind >= 0;
  if (!filtered) DATA.pictures.forEach((picture, number) => { if (!errorsIn(picture)) cards.push(number); });
  const what = state.kind === CORRECT ? "right" : "error";
  byId("gallery").replaceChildren(...cards.slice(0, state.cards).map((number) => {
    const picture = DATA.pictures[number], errors = errorsIn(picture);
    const told = what === "right" ? `${errors} right` : count(errors, "error");
    const text = `${picture.name}: ${told}`;
    return el("button", { type: "button", class: "card", on: { click: () => openViewer(number) } },
      framed(picture, boxesOf(picture), text, 2), el("span", {}, text));
  }));
  byId("more").hidden = cards.length <= state.cards;
  byId("pictures-note").textContent = `${cards.length} of the ${count(DATA.pictures.length, "picture")} in this page`
    + ` (of ${count(DATA.images, "image")})${filtered ? " have what the filters ask for" : ""}, most errors first.`
    + " Solid frames were found, dashed ones are the truth. Press one to enlarge it.";
}

/** Names beside the frames of the enlarged picture, moved down, or left out, where others are. */
function tags(picture, boxes, frame) {
  const [width, height] = picture.size, taken = [];
  for (const one of [...boxes].reverse()) {
    if (one.faint && boxes.length > 12) continue;
    const text = DATA.classes[one.box[4]] + (one.truth ? "" : ` ${one.box[5].toFixed(2)}`);
    const tag = el("span", { class: "tag" }, text);
    tag.style.background = colourOf(one);
    frame.append(tag);
    const whole = frame.getBoundingClientRect(), own = tag.getBoundingClientRect();
    const left = Math.min(one.box[0] / width * whole.width, whole.width - own.width);
    let top = (one.truth ? one.box[3] / height * whole.height : one.box[1] / height * whole.height - own.height);
    top = Math.max(0, Math.min(top, whole.height - own.height));
    const hit = () => taken.some(([x, y, w]) => x < left + own.width && left < x + w && Math.abs(y - top) < own.height);
    for (let tries = 0; hit() && tries < 3; tries++) top = Math.min(top + own.height, whole.height - own.height);
    if (hit()) {
      tag.remove();
      continue;
    }
    tag.style.left = `${Math.max(0, left)}px`;
    tag.style.top = `${top}px`;
    taken.push([left, top, own.width]);
  }
}

function drawViewer() {
  if (state.open < 0) return;
  const picture = DATA.pictures[state.open], boxes = boxesOf(picture);
  byId("viewer-name").textContent = picture.name;
  const frame = framed(picture, boxes, picture.name, 3);
  const room = byId("viewer-picture");
  room.replaceChildren(frame);
  const [width, height] = picture.size;
  const fit = Math.min(room.clientWidth / width, Math.max(240, byId("viewer").clientHeight - 110) / height);
  frame.style.width = `${Math.floor(width * fit)}px`;
  tags(picture, boxes, frame);
  const order = (one) => (one.truth ? -1 - (one.kind !== MISSED) : one.box[5]);
  const rows = [...boxes].sort((a, b) => order(b) - order(a)).map((one) => [
    DATA.classes[one.box[4]],
    one.truth ? (one.kind === MISSED ? "missed" : "found") : kindName(one.kind),
    one.truth ? "truth" : one.box[5].toFixed(2),
  ]);
  plainTable(byId("viewer-list"), ["class", "kind", "score"], rows);
}

function openViewer(number) {
  state.open = number;
  byId("viewer").showModal();
  drawViewer();
}

/** To another picture of those that the filters leave. */
function turn(by) {
  if (cards.length) state.open = cards[(cards.indexOf(state.open) + by + cards.length) % cards.length];
  drawViewer();
}
