// Sorts and filters the tables, copies filters and commands. The page is complete without it.
"use strict";
(() => {
  const live = document.getElementById("live");
  const say = (text) => { live.textContent = text; };

  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value ?? cell.textContent.trim();
    return value === "" ? null : cell.classList.contains("number") ? Number(value.replaceAll(",", "")) : value;
  };
  const compare = (a, b) => {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  };
  const sort = (table, header, column) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    // what has no value stays at the end, whichever way
    rows.sort(([a], [b]) => (a === null || b === null || !down ? compare(a, b) : compare(b, a)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    say(`Sorted by ${header.textContent.trim()}, ${down ? "descending" : "ascending"}.`);
  };
  const filter = (table, input, count) => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.dataset.text ??= row.textContent.toLowerCase();
      row.hidden = !words.every((word) => row.dataset.text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown.toLocaleString("en")} ${shown === 1 ? "row" : "rows"}`;
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header, column));
    });
    const box = document.getElementById(`${table.id}-filter`);
    if (!box) continue;
    box.hidden = false;
    const [input, count] = [box.querySelector("input"), box.querySelector("output")];
    let waiting = 0;
    input.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 60, table, input, count);
    });
  }

  const write = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await write(button.parentElement.querySelector("code").textContent);
      const before = button.textContent;
      button.textContent = "copied";
      say("Copied.");
      setTimeout(() => { button.textContent = before; }, 1500);
    });
  }
  // paper folds nothing out: what other systems need is printed as well
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details.others")) folded.open = true;
  });
  document.documentElement.dataset.ready = "yes";
})();
