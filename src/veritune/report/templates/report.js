(() => {
  "use strict";
  const table = document.getElementById("cases");
  const form = document.getElementById("case-controls");
  if (!table || !form) return;
  const body = table.tBodies[0];
  const total = body.rows.length;
  const rows = Array.from(body.rows, (row, order) => ({
    row,
    order,
    place: Number(row.dataset.place),
    values: JSON.parse(row.dataset.values),
    outcomes: JSON.parse(row.dataset.outcomes).map((words) => words.split(" ")),
    shown: Array.from(row.querySelectorAll("td > .value")),
    text: null,
  }));
  const fields = form.elements;
  const heads = Array.from(table.querySelectorAll("th[data-sort]"));
  const count = document.getElementById("case-count");
  const none = document.getElementById("case-none");
  let sorted = null;

  const matches = {
    "": () => true,
    parses: (words) => words.includes("parses"),
    unparsed: (words) => !words.includes("parses") && !words.includes("missing"),
    empty: (words) => words.includes("empty"),
    cut: (words) => words.includes("cut"),
  };

  const keyOf = (item) =>
    sorted.by === "place" ? item.place : item.values[sorted.by][fields.metric.value] ?? null;

  const compare = (one, other) => {
    if (!sorted) return one.order - other.order;
    const [a, b] = [keyOf(one), keyOf(other)];
    if (a === b) return one.order - other.order;
    if (a === null || b === null) return a === null ? 1 : -1;
    return sorted.rising ? a - b : b - a;
  };

  const arrange = () => {
    const fragment = document.createDocumentFragment();
    for (const item of rows.slice().sort(compare)) fragment.append(item.row);
    body.append(fragment);
    for (const head of heads) {
      if (sorted && head.dataset.sort === String(sorted.by)) {
        head.setAttribute("aria-sort", sorted.rising ? "ascending" : "descending");
      } else head.removeAttribute("aria-sort");
    }
  };

  const filter = () => {
    const wanted = fields.text.value.trim().toLowerCase();
    const test = matches[fields.outcome.value];
    const system = fields.system.value;
    let left = 0;
    for (const item of rows) {
      const chosen = system === "any" ? item.outcomes : [item.outcomes[Number(system)]];
      let keep = chosen.some(test);
      if (keep && wanted) {
        item.text ??= item.row.cells[1].textContent.toLowerCase();
        keep = item.text.includes(wanted);
      }
      item.row.hidden = !keep;
      left += keep ? 1 : 0;
    }
    count.textContent = left === total ? `${total} shown` : `${left} of ${total} shown`;
    none.hidden = left > 0;
  };

  const showMetric = () => {
    const metric = Number(fields.metric.value || 0);
    for (const item of rows) {
      item.shown.forEach((place, system) => {
        const value = item.values[system][metric];
        place.textContent = value === null || value === undefined ? "–" : value.toFixed(1);
      });
    }
    const chosen = fields.metric.selectedOptions[0];
    if (chosen) table.caption.textContent = `Unseen questions with the ${chosen.textContent} of every system`;
  };

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Sort by ${head.textContent.replace("#", "").trim()}`);
    head.append(button);
    button.addEventListener("click", () => {
      const by = head.dataset.sort === "place" ? "place" : Number(head.dataset.sort);
      sorted = { by, rising: sorted && sorted.by === by ? !sorted.rising : true };
      arrange();
    });
  }

  const open = (isOpen) => {
    for (const item of rows) {
      if (!item.row.hidden) item.row.querySelector("details").open = isOpen;
    }
    fields.expand.setAttribute("aria-pressed", String(isOpen));
    fields.expand.textContent = isOpen ? "Close all" : "Open all";
  };

  let waiting = 0;
  fields.text.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  fields.system.addEventListener("change", filter);
  fields.outcome.addEventListener("change", filter);
  fields.metric.addEventListener("change", () => {
    showMetric();
    if (sorted) arrange();
  });
  fields.expand.addEventListener("click", () => open(fields.expand.getAttribute("aria-pressed") !== "true"));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    // The fields have their first values only after this event.
    setTimeout(() => {
      sorted = null;
      open(false);
      showMetric();
      arrange();
      filter();
    });
  });
  form.hidden = false;
  form.reset();
})();
