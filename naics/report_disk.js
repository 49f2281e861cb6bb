"use strict";
// The taxonomy in the Poincare disk. A view is an isometry z -> (a z + b) / (conj(b) z + conj(a)) of the disk,
// and a zoom of the picture that comes after it.
const data = JSON.parse(document.getElementById("data").textContent);
const { codes, titles, notes, levels, parents, radii, nearest, rings } = data;
const byId = (id) => document.getElementById(id);
const [canvas, tip, search, depth, inward, found, results, detail, sectorList] =
  ["canvas", "tip", "search", "depth", "inward", "found", "results", "detail", "sectors"].map(byId);
const draw2d = canvas.getContext("2d");
const MOST_RESULTS = 200;
const MARGIN = 6;
const REACH = 14; // px from a code at which the pointer is over it
const DOT = { 2: 9, 3: 6.2, 4: 4.6, 5: 3.4, 6: 3 };
const LABEL = { 2: 30, 3: 30, 4: 34, 5: 34, 6: 34 }; // characters, and in a small disk
const SMALL_LABEL = 18;
const NAMED_WITHIN = { 2: 0.965, 3: 0.62, 4: 0.5, 5: 0.42, 6: 0.42 }; // of the centre, by level
const FEW = 60; // matches of a search that are all named
const many = codes.length;
const children = codes.map(() => []);
const sectorOf = new Int32Array(many);
const roots = [];
for (let row = 0; row < many; row++) (parents[row] < 0 ? roots : children[parents[row]]).push(row);
for (const root of roots) for (const row of family(root)) sectorOf[row] = root;
const px = new Float64Array(many); // where the codes are now, in the unit disk
const py = new Float64Array(many);
const state = { a: [1, 0], b: [0, 0], zoom: 1, dx: 0, dy: 0, alone: -1, over: -1, chosen: -1, matches: null };
let size = 0;
let half = 0; // the disk's radius in CSS px, before the zoom
let waiting = 0;
let moving = 0;
let colours = new Map();
let theme = {};

function family(root) {
  const rows = [root];
  for (let n = 0; n < rows.length; n++) rows.push(...children[rows[n]]);
  return rows;
}

function lineage(row) {
  const rows = [];
  for (; row >= 0; row = parents[row]) rows.unshift(row);
  return rows;
}

// ---------------------------------------------------------------- isometries of the disk

const times = ([a, b], [c, d]) => [a * c - b * d, a * d + b * c];
const plus = ([a, b], [c, d]) => [a + c, b + d];
const conj = ([a, b]) => [a, -b];
const divide = (x, y) => {
  const [re, im] = times(x, conj(y));
  const norm = y[0] * y[0] + y[1] * y[1];
  return [re / norm, im / norm];
};
const apply = ({ a, b }, z) => divide(plus(times(a, z), b), plus(times(conj(b), z), conj(a)));

// `first`, then the translation that takes the point p to the centre
function moved(first, p) {
  const scale = 1 / Math.sqrt(1 - p[0] * p[0] - p[1] * p[1]);
  const [a, b] = [[scale, 0], [-p[0] * scale, -p[1] * scale]];
  const product = {
    a: plus(times(a, first.a), times(b, conj(first.b))),
    b: plus(times(a, first.b), times(b, conj(first.a))),
  };
  const norm = Math.sqrt(product.a[0] ** 2 + product.a[1] ** 2 - product.b[0] ** 2 - product.b[1] ** 2);
  return { a: product.a.map((each) => each / norm), b: product.b.map((each) => each / norm) };
}

function project() {
  const { a: [ar, ai], b: [br, bi] } = state;
  for (let n = 0; n < many; n++) {
    const x = data.x[n], y = data.y[n];
    const nr = ar * x - ai * y + br, ni = ar * y + ai * x + bi;
    const dr = br * x + bi * y + ar, di = br * y - bi * x - ai;
    const norm = dr * dr + di * di;
    px[n] = (nr * dr + ni * di) / norm;
    py[n] = (ni * dr - nr * di) / norm;
  }
}

const toScreen = (x, y) => [size / 2 + state.dx + x * half * state.zoom, size / 2 + state.dy - y * half * state.zoom];
const toDisk = (x, y) => {
  const scale = half * state.zoom;
  return [(x - size / 2 - state.dx) / scale, (size / 2 + state.dy - y) / scale];
};

// ---------------------------------------------------------------- drawing

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "warn", "disk-inner", "disk-outer", "rim", "node-light", "node-chroma", "halo"];
  theme = Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
  // Hues follow the sectors around the disk; neighbours differ in lightness too.
  const angle = (row) => Math.atan2(data.y[row], data.x[row]);
  const around = [...roots].sort((a, b) => angle(a) - angle(b));
  colours = new Map(around.map((root, n) => {
    const light = Number(theme["node-light"]) + [0.05, -0.06][n % 2];
    return [root, `oklch(${light} ${theme["node-chroma"]} ${(360 * n) / around.length + 20})`];
  }));
  for (const button of sectorList.children) button.style.setProperty("--dot", colours.get(Number(button.dataset.row)));
}

function shown(row) {
  return levels[row] <= Number(depth.value);
}

// Strength of a code: 1, or less where something else is looked at
function strength(row) {
  if (state.alone >= 0 && sectorOf[row] !== state.alone) return 0.07;
  return state.matches && !state.matches.has(row) ? 0.12 : 1;
}

// The geodesic from a to b is an arc of the circle through both that meets the rim at right angles.
function geodesic(ax, ay, bx, by) {
  const [sx, sy] = toScreen(ax, ay);
  const [ex, ey] = toScreen(bx, by);
  draw2d.moveTo(sx, sy);
  const cross = 2 * (ax * by - ay * bx);
  const p = 1 + ax * ax + ay * ay, q = 1 + bx * bx + by * by;
  const cx = (p * by - q * ay) / cross, cy = (q * ax - p * bx) / cross;
  const radius = Math.sqrt(cx * cx + cy * cy - 1);
  if (!(radius < 40)) return draw2d.lineTo(ex, ey);
  const [ox, oy] = toScreen(cx, cy);
  const from = Math.atan2(sy - oy, sx - ox), to = Math.atan2(ey - oy, ex - ox);
  const turn = (to - from + 3 * Math.PI) % (2 * Math.PI) - Math.PI;
  draw2d.arc(ox, oy, radius * half * state.zoom, from, to, turn < 0);
}

// How large things are drawn at a point: hyperbolic lengths shrink by 1 - |z|^2 towards the rim.
const scaleAt = (x, y) => Math.sqrt(Math.max(0, 1 - x * x - y * y)) * Math.sqrt(state.zoom);
const isMatch = (row) => state.matches !== null && state.matches.has(row);
const dotAt = (row) => {
  const scale = (0.25 + 0.9 * scaleAt(px[row], py[row])) * Math.sqrt(size / 900);
  return Math.max(isMatch(row) ? 4 : 0.9, DOT[levels[row]] * scale);
};

function drawGround() {
  const [ox, oy] = toScreen(0, 0);
  const radius = half * state.zoom;
  const fill = draw2d.createRadialGradient(ox, oy, 0, ox, oy, radius);
  fill.addColorStop(0, theme["disk-inner"]);
  fill.addColorStop(1, theme["disk-outer"]);
  draw2d.beginPath();
  draw2d.arc(ox, oy, radius, 0, 2 * Math.PI);
  draw2d.fillStyle = fill;
  draw2d.fill();
  draw2d.lineWidth = 1.2;
  draw2d.strokeStyle = theme.rim;
  draw2d.stroke();
  // Circles of one distance from the origin stay circles in every view.
  const [wx, wy] = apply(state, [0, 0]);
  const away = wx * wx + wy * wy;
  draw2d.setLineDash([2, 5]);
  draw2d.lineWidth = 1;
  for (const [, , ring] of rings) {
    const rho = Math.tanh(ring / 2) ** 2;
    const shrink = 1 - rho * away;
    const [x, y] = toScreen((wx * (1 - rho)) / shrink, (wy * (1 - rho)) / shrink);
    draw2d.beginPath();
    draw2d.arc(x, y, (Math.sqrt(rho) * (1 - away) / shrink) * radius, 0, 2 * Math.PI);
    draw2d.stroke();
  }
  draw2d.setLineDash([]);
  return [wx, wy];
}

function drawEdges(root) {
  const groups = new Map(); // one path a colour, width and strength: a few strokes for all edges
  for (let row = 0; row < many; row++) {
    if (!shown(row)) continue;
    const from = parents[row];
    const key = `${sectorOf[row]} ${levels[row]} ${from < 0 ? strength(row) : Math.min(strength(row), strength(from))}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  for (const [key, rows] of groups) {
    const [sector, level, power] = key.split(" ").map(Number);
    draw2d.beginPath();
    for (const row of rows) {
      const [x, y] = parents[row] < 0 ? root : [px[parents[row]], py[parents[row]]];
      geodesic(x, y, px[row], py[row]);
    }
    draw2d.strokeStyle = level === 2 ? theme.rim : colours.get(sector);
    draw2d.globalAlpha = power * { 2: 0.7, 3: 0.75, 4: 0.6, 5: 0.5, 6: 0.42 }[level];
    draw2d.lineWidth = { 2: 1, 3: 1.7, 4: 1.2, 5: 0.9, 6: 0.7 }[level] * Math.min(1.6, Math.sqrt(state.zoom));
    draw2d.stroke();
  }
  draw2d.globalAlpha = 1;
}

function drawDots() {
  for (let level = 6; level >= 2; level--) {
    for (let row = 0; row < many; row++) {
      if (levels[row] !== level || !shown(row)) continue;
      const [x, y] = toScreen(px[row], py[row]);
      draw2d.globalAlpha = strength(row);
      draw2d.beginPath();
      draw2d.arc(x, y, dotAt(row), 0, 2 * Math.PI);
      draw2d.fillStyle = colours.get(sectorOf[row]);
      draw2d.fill();
      if (level < 4) {
        draw2d.lineWidth = 1.2;
        draw2d.strokeStyle = theme.halo;
        draw2d.stroke();
      }
      if (inward.checked && parents[row] >= 0 && radii[row] < radii[parents[row]]) mark(row, theme.warn, 1.6);
    }
  }
  draw2d.globalAlpha = 1;
}

function mark(row, colour, width) {
  const [x, y] = toScreen(px[row], py[row]);
  draw2d.beginPath();
  draw2d.arc(x, y, dotAt(row) + 2.5, 0, 2 * Math.PI);
  draw2d.lineWidth = width;
  draw2d.strokeStyle = colour;
  draw2d.stroke();
}

function drawLineage(row, root) {
  const path = lineage(row);
  draw2d.beginPath();
  path.forEach((each, n) => {
    const [x, y] = n ? [px[path[n - 1]], py[path[n - 1]]] : root;
    geodesic(x, y, px[each], py[each]);
  });
  draw2d.lineWidth = 2.4;
  draw2d.strokeStyle = theme.ink;
  draw2d.stroke();
  for (const each of path) mark(each, theme.ink, 1.5);
}

function shorten(title, most) {
  if (title.length <= most) return title;
  return title.slice(0, most - 1).replace(/[\s,]+\S*$/, "") + "\u2026";
}

// Names where there is room: the hovered and chosen first, then by level and by nearness to the centre
function drawLabels() {
  const taken = [];
  const free = ([l, t, r, b]) => taken.every(([L, T, R, B]) => r < L || R < l || b < T || B < t);
  const first = [...new Set([state.over, state.chosen])].filter((row) => row >= 0);
  const nearCentre = (row) => px[row] * px[row] + py[row] * py[row];
  const rows = [];
  for (let row = 0; row < many; row++) {
    const room = NAMED_WITHIN[levels[row]] + 0.3 * (1 - 1 / state.zoom);
    const named = isMatch(row) && state.matches.size <= FEW;
    if (shown(row) && strength(row) === 1 && (named || nearCentre(row) < Math.min(room * room, 0.97))) rows.push(row);
  }
  rows.sort((a, b) => levels[a] - levels[b] || nearCentre(a) - nearCentre(b));
  draw2d.textBaseline = "middle";
  draw2d.lineJoin = "round";
  for (const row of [...first, ...rows].slice(0, 400)) {
    const strong = first.includes(row);
    const level = levels[row];
    const [x, y] = toScreen(px[row], py[row]);
    const height = (strong ? 13 : { 2: 13.5, 3: 12, 4: 11, 5: 10.5, 6: 10.5 }[level]);
    draw2d.font = `${strong || level === 2 ? 600 : 400} ${height}px system-ui, sans-serif`;
    const text = `${codes[row]} ${shorten(titles[row], strong ? 60 : size < 520 ? SMALL_LABEL : LABEL[level])}`;
    const width = draw2d.measureText(text).width;
    const gap = dotAt(row) + (strong ? 8 : 5);
    const right = [x + gap, x + gap + width], left = [x - gap - width, x - gap];
    const fits = ([l, r]) => l > 2 && r < size - 2 && free([l, y - height * 0.6, r, y + height * 0.6]);
    const at = fits(right) ? right : fits(left) ? left : strong ? (right[1] < size ? right : left) : null;
    if (!at) continue;
    taken.push([at[0], y - height * 0.6, at[1], y + height * 0.6]);
    draw2d.lineWidth = 3.5;
    draw2d.strokeStyle = theme.halo;
    draw2d.strokeText(text, at[0], y);
    draw2d.fillStyle = theme.ink;
    draw2d.fillText(text, at[0], y);
  }
}

function paint() {
  waiting = 0;
  project();
  const dots = window.devicePixelRatio || 1;
  draw2d.setTransform(dots, 0, 0, dots, 0, 0);
  draw2d.clearRect(0, 0, size, size);
  const root = drawGround();
  drawEdges(root);
  for (const row of new Set([state.chosen, state.over])) if (row >= 0) drawLineage(row, root);
  drawDots();
  drawLabels();
}

function draw() {
  if (!waiting) waiting = requestAnimationFrame(paint);
}

function resize() {
  size = canvas.clientWidth;
  half = size / 2 - MARGIN;
  canvas.width = canvas.height = Math.round(size * (window.devicePixelRatio || 1));
  draw();
}
