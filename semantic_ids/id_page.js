"use strict";
// Items stand in the order of their codes, so that a prefix is a run of rows [start, end).
const data = JSON.parse(document.getElementById("data").textContent);
const { levels, ids, titles, codes, terms } = data;
const MOST_RESULTS = 200;
const tree = document.getElementById("tree");
const results = document.getElementById("results");
const search = document.getElementById("search");
const order = document.getElementById("order");
const found = document.getElementById("found");
const code = (row, level) => codes[row * levels + level];
const name = (row, depth) => codes.slice(row * levels, row * levels + depth).join("-");

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function runs(start, end, level) {
  const found = [];
  for (let row = start; row < end; ) {
    let next = row + 1;
    while (next < end && code(next, level) === code(row, level)) next++;
    found.push([row, next]);
    row = next;
  }
  if (order.value === "size") found.sort((a, b) => b[1] - b[0] - (a[1] - a[0]) || a[0] - b[0]);
  return found;
}

function item(row, link) {
  const line = element("div", "item");
  const id = link ? element("button", "code", name(row, levels)) : element("span", "code", name(row, levels));
  if (link) {
    id.type = "button";
    id.addEventListener("click", () => open(row));
  }
  line.append(id, element("span", "id", ids[row]), element("span", "title", titles[row]));
  return line;
}

// The rows [start, end) share `depth` codes; their children are made when they are first opened.
function children(start, end, depth) {
  const box = document.createElement("div");
  if (depth === levels) {
    for (let row = start; row < end; row++) box.append(item(row, false));
    return box;
  }
  const found = runs(start, end, depth);
  const most = Math.max(...found.map(([a, b]) => b - a));
  for (const [a, b] of found) box.append(b - a === 1 ? item(a, false) : prefix(a, b, depth + 1, most));
  return box;
}

function prefix(start, end, depth, most) {
  const node = document.createElement("details");
  const summary = document.createElement("summary");
  const count = element("span", "count", (end - start).toLocaleString("en"));
  const bar = document.createElement("i");
  bar.style.width = `${(100 * (end - start)) / most}%`;
  count.append(bar);
  const key = name(start, depth);
  node.dataset.prefix = key;
  summary.append(element("span", "code", key), count, element("span", "terms", terms[key] ?? titles[start]));
  node.append(summary);
  const fill = () => {
    if (node.childElementCount === 1) node.append(children(start, end, depth));
  };
  node.addEventListener("toggle", fill);
  node.fill = fill;
  return node;
}

function draw() {
  tree.replaceChildren(...(ids.length ? children(0, ids.length, 0).childNodes : []));
}

// Open all prefixes above an item and show it.
function open(row) {
  let box = tree;
  for (let depth = 1; depth <= levels; depth++) {
    const key = name(row, depth);
    const node = [...box.children].find((child) => child.dataset.prefix === key);
    if (!node) break;
    node.fill();
    node.open = true;
    box = node.lastElementChild;
  }
  box.scrollIntoView({ block: "center" });
}

function look() {
  const wanted = search.value.trim().toLowerCase();
  const isPrefix = /^\d+(-\d+)+$/.test(wanted);
  const matches = (row) =>
    isPrefix
      ? `${name(row, levels)}-`.startsWith(`${wanted}-`)
      : titles[row].toLowerCase().includes(wanted) || ids[row].toLowerCase().includes(wanted);
  results.hidden = wanted === "";
  results.replaceChildren();
  found.textContent = "";
  if (!wanted) return;
  let count = 0;
  for (let row = 0; row < ids.length; row++) {
    if (matches(row) && ++count <= MOST_RESULTS) results.append(item(row, true));
  }
  const shown = count > MOST_RESULTS ? `, the first ${MOST_RESULTS} shown` : "";
  found.textContent = `${count.toLocaleString("en")} items${shown}`;
}

search.addEventListener("input", look);
search.form.addEventListener("submit", (event) => event.preventDefault());
order.addEventListener("change", draw);
draw();
