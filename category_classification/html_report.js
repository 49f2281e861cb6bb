"use strict";
const PAGE_ROWS = 50;
const get = (id) => document.getElementById(id);
const rows = JSON.parse(get("data").textContent);
const choices = ["label", "prediction", "language"].map(get), inputs = [...choices, get("search")];
const fold = (text) => text.normalize("NFKC").toLowerCase();
for (const row of rows) row.folded = fold(row.text);
let found = rows, page = 1;

function show() {
  const wanted = fold(get("search").value.trim());
  found = rows.filter((row) => (row.folded.includes(wanted) || row.cluster === wanted)
    && choices.every((choice) => !choice.value || row[choice.id] === choice.value));
  const pages = Math.max(1, Math.ceil(found.length / PAGE_ROWS));
  page = Math.min(Math.max(page, 1), pages);
  const titles = [...document.querySelectorAll("#rows th")].map((head) => head.textContent);
  const part = found.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
  document.querySelector("#rows tbody").replaceChildren(...part.map((row) => {
    const line = document.createElement("tr");
    const values = [row.text, row.label, row.prediction, row.probability.toFixed(4),
      row.label_probability.toFixed(4), row.language, row.cluster, row.row];
    values.forEach((value, i) => {
      const cell = line.insertCell();
      cell.textContent = value;
      cell.dataset.title = titles[i];
    });
    line.cells[0].dir = "auto";  // a text of any script stays in its cell and runs its own way
    line.cells[0].lang = row.language;
    return line;
  }));
  const many = found.length.toLocaleString("en");
  get("count").textContent = found.length === 1 ? "1 row found" : `${many} rows found`;
  get("page").textContent = `page ${page} of ${pages}`;
  get("previous").disabled = page === 1;
  get("next").disabled = page === pages;
}

// The filters are kept in the address, so that a link shows what its sender saw.
function write(to) {
  page = to;
  show();
  const filters = new URLSearchParams();
  for (const input of inputs) if (input.value) filters.set(input.id, input.value);
  if (page > 1) filters.set("page", page);
  history.replaceState(null, "", "#" + filters);
}

function read() {
  const filters = new URLSearchParams(location.hash.slice(1));
  for (const input of inputs) input.value = filters.get(input.id) ?? "";
  for (const choice of choices) if (choice.selectedIndex < 0) choice.value = "";  // no such class or language
  page = parseInt(filters.get("page")) || 1;
  show();
}

function turn(by) {
  write(page + by);
  get("errors").scrollIntoView();
}

function exportRows() {
  const quote = (value) => {
    // The apostrophe keeps a spreadsheet from running a text as a formula.
    const text = String(value).replace(/^[=+\-@\t\r](?!\d+$)/, "'$&");
    return `"${text.replaceAll('"', '""')}"`;
  };
  const names = Object.keys(rows[0]).filter((name) => name !== "folded");
  const lines = [names, ...found.map((row) => names.map((name) => row[name]))];
  const csv = lines.map((values) => values.map(quote).join(",") + "\r\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv], { type: "text/csv" }));
  link.download = "errors.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function sortLanguages(head) {
  const descending = head.ariaSort !== "descending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = get("languages").tBodies[1];
  const key = (line) => line.cells[head.cellIndex].dataset.value;
  const compare = (a, b) => key(a) - key(b) || key(a).localeCompare(key(b));  // NaN, of names, falls through
  body.append(...[...body.rows].sort((a, b) => (descending ? -1 : 1) * compare(a, b)));
}

for (const input of inputs) input.addEventListener("input", () => write(1));
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
get("clear").addEventListener("click", () => {
  for (const input of inputs) input.value = "";
  write(1);
});
get("previous").addEventListener("click", () => turn(-1));
get("next").addEventListener("click", () => turn(1));
get("export").addEventListener("click", exportRows);
document.querySelector("#languages thead").addEventListener("click", (event) => {
  if (event.target.closest("button")) sortLanguages(event.target.closest("th"));
});
for (const id of ["languages", "confusion"]) get(id).addEventListener("click", (event) => {
  if (event.target.closest("a")) get("errors").scrollIntoView();
});
addEventListener("hashchange", read);
read();
if (location.hash.length > 1) get("errors").scrollIntoView();
