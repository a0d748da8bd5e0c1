"use strict";

/* An element with attributes and children; text is always text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/* A measure's name, which opens its meaning. */
function term(measure, text) {
  return element("button", { type: "button", class: "meaning", popovertarget: `meaning-${measure}` }, text);
}

/* Rows by a column; what has no value comes last either way. */
function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const key = numeric ? cell.dataset.sort : cell.textContent;
    return { row, key: numeric && key !== "" ? Number(key) : key };
  });
  const sign = descending ? -1 : 1;
  keyed.sort((a, b) => {
    if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
    return sign * (numeric ? a.key - b.key : a.key.localeCompare(b.key, "en"));
  });
  body.append(...keyed.map(({ row }) => row));
}

for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector(".sort").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table, column, descending);
    });
  });
}

for (const form of document.querySelectorAll("form[data-table]")) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const { words, h, significant } = form.elements;
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(
        wanted.every((word) => text.includes(word)) &&
        (h.value === "" || row.dataset.h === h.value) &&
        (!significant.checked || row.classList.contains("significant"))
      );
    }
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}

/* Of parts that carry data-NAME only those with the chosen value are shown. */
function switchTo(name, value) {
  for (const part of document.querySelectorAll(`[data-${name}]`)) {
    part.hidden = part.dataset[name] !== value;
  }
}

for (const control of document.querySelectorAll("[data-switch]")) {
  const name = control.dataset.switch;
  const value = () => control.value ?? control.querySelector("input:checked")?.value;
  control.addEventListener("change", () => switchTo(name, value()));
  if (value() !== undefined) switchTo(name, value());
}

addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
