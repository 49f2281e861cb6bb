"use strict";
// What moves the disk of report_disk.js, which comes before this on the page, and the lists beside it.

// ---------------------------------------------------------------- moving

function animate(step, ended) {
  cancelAnimationFrame(moving);
  const quiet = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const start = performance.now();
  const tick = (now) => {
    const share = quiet ? 1 : Math.min(1, (now - start) / 550);
    step(share * share * (3 - 2 * share));
    draw();
    if (share < 1) moving = requestAnimationFrame(tick);
    else if (ended) ended();
  };
  tick(start);
}

// Along the geodesic that takes the point p of the disk (as it is now) to the centre
function centre(p) {
  const from = { a: state.a, b: state.b };
  const view = { zoom: state.zoom, dx: state.dx, dy: state.dy };
  const length = Math.hypot(...p);
  if (length === 0) return draw();
  const far = Math.atanh(Math.min(length, 1 - 1e-9));
  animate((share) => {
    const step = Math.tanh(share * far) / length;
    Object.assign(state, moved(from, [p[0] * step, p[1] * step]));
    state.dx = view.dx * (1 - share);
    state.dy = view.dy * (1 - share);
  });
}

function choose(row) {
  state.chosen = row;
  showDetail();
  if (row < 0) return draw();
  if (!shown(row)) depth.value = String(levels[row]);
  if (state.alone >= 0 && sectorOf[row] !== state.alone) isolate(-1);
  state.matches = null;
  // A code without a family of its own is shown in its parent's.
  let middle = row;
  while (children[middle].length < 2 && parents[middle] >= 0) middle = parents[middle];
  project();
  centre([px[middle], py[middle]]);
}

function reset() {
  state.chosen = state.alone = -1;
  Object.assign(state, { zoom: 1, dx: 0, dy: 0 });
  search.value = "";
  depth.value = String(rings[rings.length - 1][0]);
  isolate(-1);
  narrow();
  showDetail();
  // A view is the translation that takes p to the centre, and a turn after it: both go back to nothing.
  const p = divide(state.b, state.a);
  const turn = Math.atan2(state.a[1], state.a[0]);
  animate((share) => {
    const left = 1 - share;
    const from = { a: [Math.cos(turn * left), Math.sin(turn * left)], b: [0, 0] };
    Object.assign(state, moved({ a: [1, 0], b: [0, 0] }, [-p[0] * left, -p[1] * left]));
    state.a = times(from.a, state.a);
    state.b = times(from.a, state.b);
  });
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = -1, least = Infinity;
  for (let row = 0; row < many; row++) {
    if (!shown(row) || strength(row) < 1) continue;
    const [rx, ry] = toScreen(px[row], py[row]);
    // A large dot reaches farther, so that parents are not hidden by their children.
    const away = Math.hypot(rx - x, ry - y) - dotAt(row);
    if (away < REACH && away < least) [best, least] = [row, away];
  }
  return { row: best, x, y };
}

function hover(event) {
  const { row, x, y } = under(event);
  canvas.classList.toggle("over", row >= 0);
  tip.hidden = row < 0;
  if (row >= 0) {
    const kind = rings.find(([level]) => level === levels[row])[1];
    const path = lineage(row).slice(0, -1).map((each) => codes[each]).join(" \u203a ");
    const code = element("b", codes[row] + " " + titles[row]);
    const place = `${kind}${path ? ", in " + path : ""}; radius ${radii[row].toFixed(2)}`;
    tip.replaceChildren(code, element("small", place));
    const box = canvas.offsetLeft;
    tip.style.translate = `${Math.min(box + x + 16, canvas.parentNode.clientWidth - tip.offsetWidth)}px ${
      y + 20 + tip.offsetHeight > size ? y - tip.offsetHeight - 12 : y + 20}px`;
  }
  if (row !== state.over) {
    state.over = row;
    draw();
  }
}

let grip = null; // where the pointer holds the disk

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  cancelAnimationFrame(moving);
  const { x, y, row } = under(event);
  grip = { x, y, row, from: { a: state.a, b: state.b }, held: toDisk(x, y), far: false };
});
canvas.addEventListener("pointermove", (event) => {
  if (!grip) return hover(event);
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  if (Math.hypot(x - grip.x, y - grip.y) > 4) grip.far = true;
  if (!grip.far) return;
  tip.hidden = true;
  canvas.classList.add("moving");
  const inside = (p) => {
    const length = Math.hypot(...p);
    return length > 0.95 ? [(p[0] * 0.95) / length, (p[1] * 0.95) / length] : p;
  };
  // The held point to the centre, and the centre to where the pointer is now
  const now = inside(toDisk(x, y));
  Object.assign(state, moved(moved(grip.from, inside(grip.held)), [-now[0], -now[1]]));
  draw();
});
canvas.addEventListener("pointerup", () => {
  canvas.classList.remove("moving");
  if (grip && !grip.far && grip.row >= 0) choose(grip.row);
  grip = null;
});
canvas.addEventListener("pointercancel", () => (grip = null));
canvas.addEventListener("pointerleave", () => {
  tip.hidden = true;
  if (state.over >= 0) {
    state.over = -1;
    draw();
  }
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left - size / 2, event.clientY - box.top - size / 2];
  const zoom = Math.min(12, Math.max(1, state.zoom * Math.exp(-event.deltaY * 0.0015)));
  state.dx = zoom === 1 ? 0 : x - ((x - state.dx) * zoom) / state.zoom;
  state.dy = zoom === 1 ? 0 : y - ((y - state.dy) * zoom) / state.zoom;
  state.zoom = zoom;
  draw();
}, { passive: false });

// ---------------------------------------------------------------- lists

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function button(row) {
  const made = element("button", "", "row");
  made.type = "button";
  made.dataset.row = row;
  made.append(element("span", codes[row], "code"), element("span", titles[row]));
  made.addEventListener("click", () => choose(row));
  made.addEventListener("pointerenter", () => {
    state.over = row;
    draw();
  });
  made.addEventListener("pointerleave", () => {
    state.over = -1;
    draw();
  });
  return made;
}

function showDetail() {
  detail.replaceChildren();
  const row = state.chosen;
  if (row < 0) return;
  detail.append(element("h3", `${codes[row]} ${titles[row]}`));
  if (notes[row]) detail.append(element("p", notes[row]));
  const step = parents[row] < 0 ? "" : `, ${(radii[row] - radii[parents[row]]).toFixed(2)} farther out than its parent`;
  detail.append(element("p", `Radius ${radii[row].toFixed(2)}${step}.`));
  const lists = [
    ["Above it", lineage(row).slice(0, -1)],
    ["Below it", children[row]],
    ["Nearest of its level", nearest[row]],
  ];
  for (const [name, rows] of lists) {
    if (!rows.length) continue;
    const list = element("div", "", "list");
    list.append(...rows.map(button));
    detail.append(element("h4", name), list);
  }
}

function narrow() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  state.matches = null;
  results.hidden = words.length === 0;
  results.replaceChildren();
  found.textContent = "";
  if (words.length) {
    const rows = [];
    for (let row = 0; row < many; row++) {
      const title = titles[row].toLowerCase();
      const says = (word) => (/^\d+$/.test(word) ? codes[row].startsWith(word) : title.includes(word));
      if (words.every(says)) rows.push(row);
    }
    state.matches = new Set(rows);
    found.textContent = `${rows.length.toLocaleString("en")} of ${many.toLocaleString("en")} codes`;
    results.append(...rows.slice(0, MOST_RESULTS).map(button));
  }
  draw();
}

function isolate(root) {
  state.alone = root;
  sectorList.classList.toggle("alone", root >= 0);
  for (const each of sectorList.children) each.setAttribute("aria-pressed", String(Number(each.dataset.row) === root));
  draw();
}

for (const root of roots) {
  const made = element("button", "", "row");
  made.type = "button";
  made.dataset.row = root;
  made.append(element("i", ""), element("span", codes[root], "code"), element("span", titles[root]));
  made.addEventListener("click", () => {
    const again = state.alone === root;
    isolate(again ? -1 : root);
    if (!again) choose(root);
  });
  sectorList.append(made);
}
for (const [level, name] of rings) depth.append(new Option(name, level));
depth.value = String(rings[rings.length - 1][0]);
search.addEventListener("input", narrow);
search.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const first = results.querySelector("button");
  if (first) first.click();
});
depth.addEventListener("change", draw);
inward.addEventListener("change", draw);
byId("reset").addEventListener("click", reset);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readTheme();
  draw();
});
new ResizeObserver(resize).observe(canvas);
readTheme();
isolate(-1);
