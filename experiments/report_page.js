"use strict";
// Sorting and filtering of the tables, and the chart.
const chapters = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const [task, view, filter, found, legend, point] = ["task", "view", "filter", "found", "legend", "point"].map(byId);
const svg = document.querySelector("#plot svg");
const BASE = "fp32_baseline";
const BOX = { left: 70, right: 745, top: 12, bottom: 372 };
const VIEWS = {
  validation: ["validation loss over steps", "step", "validation loss"],
  difference: [`validation loss less ${BASE}'s`, "step", "difference"],
  training: ["training loss over steps", "step", "training loss"],
  speed: ["score against samples/s", "samples / s", "score"],
  memory: ["score against peak memory", "peak memory, GB", "score"],
};
const hidden = new Set();

// ---------------------------------------------------------------- tables

// The first number of a cell; words sort as words, and a missing cell comes last in both orders.
function value(cell) {
  const text = cell.textContent.trim();
  if (text === "-" || text === "") return null;
  const number = text.replaceAll(",", "").match(/^[[+]?(-?[\d.]+(e[-+]?\d+)?)/);
  return number ? Number(number[1]) : text;
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1;
}

function sort(head) {
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  const rows = [...body.rows].map((row) => [value(row.cells[head.cellIndex]), row]);
  const missing = rows.filter(([key]) => key === null);
  const present = rows.filter(([key]) => key !== null);
  present.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
  body.append(...[...present, ...missing].map(([, row]) => row));
}

function matcher() {
  const words = filter.value.toLowerCase().split("|").map((word) => word.trim()).filter(Boolean);
  return (name) => words.length === 0 || words.some((word) => name.toLowerCase().includes(word));
}

function narrow() {
  const matches = matcher();
  const names = new Set();
  for (const row of document.querySelectorAll("tr[data-config]")) {
    const name = row.dataset.config;
    row.hidden = name !== "" && !matches(name);
    if (name !== "" && !row.hidden) names.add(name);
  }
  found.textContent = filter.value.trim() ? `${names.size} shown` : "";
  draw();
}

// ---------------------------------------------------------------- chart

function make(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, content] of Object.entries(attributes)) made.setAttribute(name, content);
  if (text !== undefined) made.textContent = text;
  return made;
}

function series(config, base) {
  if (view.value === "training") return config.loss;
  if (view.value === "validation") return config.validation_loss;
  if (view.value === "difference") {
    const at = new Map(base ? base.validation_loss : []);
    return config.validation_loss.filter(([x]) => at.has(x)).map(([x, y]) => [x, y - at.get(x)]);
  }
  const x = view.value === "speed" ? config.samples_per_second : config.peak_memory_gb;
  return x === null || config.score === null ? [] : [[x, config.score]];
}

function ticks(low, high) {
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const list = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) list.push(n * step);
  return list;
}

const show = (number) => Number(number.toPrecision(5)).toLocaleString("en", { maximumSignificantDigits: 5 });

function extent(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - margin, high + margin];
}

function axes(scale, labels) {
  for (const number of ticks(...scale.xs)) {
    svg.append(make("path", { class: "grid", d: `M${scale.x(number)} ${BOX.top}V${BOX.bottom}` }));
    svg.append(make("text", { x: scale.x(number), y: BOX.bottom + 16, "text-anchor": "middle" }, show(number)));
  }
  for (const number of ticks(...scale.ys)) {
    svg.append(make("path", { class: "grid", d: `M${BOX.left} ${scale.y(number)}H${BOX.right}` }));
    svg.append(make("text", { x: BOX.left - 6, y: scale.y(number) + 4, "text-anchor": "end" }, show(number)));
  }
  const middle = (BOX.top + BOX.bottom) / 2;
  svg.append(make("text", { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 36, "text-anchor": "middle" }, labels[0]));
  const turned = `translate(14 ${middle}) rotate(-90)`;
  svg.append(make("text", { transform: turned, "text-anchor": "middle" }, labels[1]));
}

function mark(config, points, scale) {
  const group = make("g", { class: config.colour === "#333333" ? "mark fp32" : "mark", "data-config": config.name });
  if (config.colour !== "#333333") group.style.setProperty("--mark", config.colour);
  const places = points.map(([x, y]) => [scale.x(x).toFixed(1), scale.y(y).toFixed(1)]);
  if (places.length > 1) group.append(make("path", { class: "curve", d: `M${places.map((p) => p.join(" ")).join("L")}` }));
  places.forEach(([x, y], i) => {
    const dot = make("circle", { class: "dot", cx: x, cy: y, r: places.length > 1 ? 2.5 : 6 });
    dot.append(make("title", {}, `${config.name}: ${show(points[i][0])}, ${show(points[i][1])}`));
    dot.addEventListener("pointerenter", () => {
      point.textContent = `${config.name}: ${show(points[i][0])}, ${show(points[i][1])}`;
      group.classList.add("bold");
    });
    dot.addEventListener("pointerleave", () => group.classList.remove("bold"));
    group.append(dot);
  });
  svg.append(group);
}

function draw() {
  const chapter = chapters[Number(task.value)];
  svg.replaceChildren();
  legend.replaceChildren();
  if (!chapter) return;
  const matches = matcher();
  const base = chapter.configs.find((config) => config.name === BASE);
  const shown = [];
  for (const config of chapter.configs) {
    const points = series(config, base);
    if (!matches(config.name) || points.length === 0) continue;
    entry(config);
    if (!hidden.has(config.name)) shown.push([config, points]);
  }
  const every = shown.flatMap(([, points]) => points);
  if (every.length === 0) {
    svg.append(make("text", { x: 380, y: 200, "text-anchor": "middle" }, "no run gives this yet"));
    return;
  }
  const xs = extent(every.map(([x]) => x));
  const ys = extent(every.map(([, y]) => y));
  const x = (number) => BOX.left + ((number - xs[0]) / (xs[1] - xs[0])) * (BOX.right - BOX.left);
  const y = (number) => BOX.bottom - ((number - ys[0]) / (ys[1] - ys[0])) * (BOX.bottom - BOX.top);
  const [, across, up] = VIEWS[view.value];
  axes({ x, y, xs, ys }, [across, up === "score" ? `test ${chapter.metric}` : up]);
  for (const [config, points] of shown) mark(config, points, { x, y });
}

function entry(config) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  const swatch = document.createElement("i");
  box.type = "checkbox";
  box.checked = !hidden.has(config.name);
  box.style.width = "auto";
  if (config.colour === "#333333") swatch.className = "fp32";
  else swatch.style.setProperty("--mark", config.colour);
  box.addEventListener("change", () => {
    if (box.checked) hidden.delete(config.name);
    else hidden.add(config.name);
    draw();
  });
  const over = (on) => {
    const group = [...svg.querySelectorAll(".mark")].find((g) => g.dataset.config === config.name);
    if (group) group.classList.toggle("bold", on);
  };
  label.addEventListener("pointerenter", () => over(true));
  label.addEventListener("pointerleave", () => over(false));
  label.append(box, swatch, document.createTextNode(config.name));
  legend.append(label);
}

function option(list, key, text) {
  const made = document.createElement("option");
  made.value = key;
  made.textContent = text;
  list.append(made);
}

chapters.forEach((chapter, number) => option(task, number, chapter.title));
for (const [key, [title]] of Object.entries(VIEWS)) option(view, key, title);
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}
for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", narrow);
task.addEventListener("change", draw);
view.addEventListener("change", draw);
byId("all").addEventListener("click", () => {
  hidden.clear();
  draw();
});
byId("none").addEventListener("click", () => {
  for (const config of chapters[Number(task.value)].configs) hidden.add(config.name);
  draw();
});
draw();
