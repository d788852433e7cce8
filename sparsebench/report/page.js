"use strict";
// The table of runs. Rows come as arrays of values; columns with "texts" hold indices into them.
(() => {
  const { columns, rows } = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const selects = [...document.querySelectorAll("select[data-column]")];
  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const index = Object.fromEntries(columns.map(({ key }, i) => [key, i]));
  const value = (row, i) => (columns[i].texts && row[i] !== null ? columns[i].texts[row[i]] : row[i]);
  // A run that has an accuracy, and nothing to compare it with.
  const undecided = (row, i) => columns[i].kind === "difference" && row[i] === null && row[index.top1] !== null;
  const text = (row, i) => {
    const given = value(row, i);
    if (given === null) return undecided(row, i) ? "no dense run" : "";
    const { digits, kind } = columns[i];
    if (typeof given !== "number") return given;
    const shown = digits !== undefined ? given.toFixed(digits)
      : String(Number.isInteger(given) ? given : Number(given.toPrecision(6)));
    return kind === "difference" && given > 0 ? `+${shown}` : shown;
  };
  // Empty values come last in both directions; ranks make texts as quick to compare as numbers.
  const keys = columns.map(({ texts }) => {
    if (!texts) return null;
    const rank = [];
    texts.map((_, i) => i).sort((a, b) => order.compare(texts[a], texts[b])).forEach((i, n) => { rank[i] = n; });
    return rank;
  });
  const haystacks = rows.map((row) => columns.map((_, i) => text(row, i)).join("\n").toLowerCase());
  let sorted = { column: null, down: false }, page = 0, shown = [];

  const select = () => {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((s) => s.value).map((s) => [index[s.dataset.column], Number(s.value)]);
    shown = [...rows.keys()].filter((n) =>
      wanted.every(([i, v]) => rows[n][i] === v) && words.every((word) => haystacks[n].includes(word)));
    if (sorted.column !== null) {
      const i = sorted.column, rank = keys[i], sign = sorted.down ? -1 : 1;
      const key = (n) => (rank && rows[n][i] !== null ? rank[rows[n][i]] : rows[n][i]);
      shown.sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (x - y);
      });
    }
    page = 0;
    draw();
  };

  const cell = (row, i) => {
    const td = document.createElement("td"), { key, kind } = columns[i], content = text(row, i);
    if (kind === "number" || kind === "difference") td.className = "number";
    else td.className = key;
    if (kind === "command" && content) td.append(copyable(content));
    else if (undecided(row, i) && row[index.dense_command] !== null) {
      td.append(copyable(value(row, index.dense_command), "no dense run: copy command"));
    } else if (key === "run_id" && row[index.folder] !== null) {
      const a = document.createElement("a");
      a.href = value(row, index.folder);
      a.textContent = content;
      td.append(a);
    } else td.textContent = content;
    return td;
  };

  const copyable = (command, label) => {
    const part = document.createDocumentFragment(), button = document.createElement("button");
    const name = label || "copy";
    button.type = "button";
    button.textContent = name;
    button.title = command;
    button.className = "copy";
    button.addEventListener("click", async () => {
      let done = "copied";
      try { await navigator.clipboard.writeText(command); } catch { done = byHand(command); }
      button.textContent = done;
      setTimeout(() => { button.textContent = name; }, 1500);
    });
    part.append(button);
    if (!label) {
      const code = document.createElement("code");
      code.textContent = command;
      code.title = command;
      part.append(code);
    }
    return part;
  };
  const byHand = (command) => { // where the clipboard is not given to scripts
    const area = document.createElement("textarea");
    area.value = command;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? "copied" : "select it by hand";
  };

  const visible = columns.map((_, i) => i).filter((i) => columns[i].name);
  const draw = () => {
    const size = Number($("size").value), pages = Math.max(1, Math.ceil(shown.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const body = document.createDocumentFragment();
    for (const n of shown.slice(page * size, (page + 1) * size)) {
      const tr = document.createElement("tr");
      if (value(rows[n], index.state) !== "finished") tr.className = "out";
      visible.forEach((i) => tr.append(cell(rows[n], i)));
      body.append(tr);
    }
    document.querySelector("#table tbody").replaceChildren(body);
    $("count").textContent = `${shown.length} of ${rows.length} runs`;
    $("page").textContent = `page ${page + 1} of ${pages}`;
    $("previous").disabled = page === 0;
    $("next").disabled = page === pages - 1;
  };

  visible.forEach((i) => {
    const th = document.createElement("th"), button = document.createElement("button");
    th.scope = "col";
    th.setAttribute("aria-sort", "none");
    if (["number", "difference"].includes(columns[i].kind)) th.className = "number";
    button.type = "button";
    button.textContent = columns[i].name;
    if (columns[i].title) button.title = columns[i].title;
    button.addEventListener("click", () => {
      sorted = { column: i, down: sorted.column === i ? !sorted.down : false };
      document.querySelectorAll("#table th").forEach((other) => other.setAttribute("aria-sort", "none"));
      th.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      select();
    });
    th.append(button);
    document.querySelector("#table thead tr").append(th);
  });
  selects.forEach((s) => {
    const { texts } = columns[index[s.dataset.column]];
    s.append(new Option("all", ""));
    texts.map((name, i) => [name, i]).sort((a, b) => order.compare(a[0], b[0]))
      .forEach(([name, i]) => s.append(new Option(name, i)));
    s.addEventListener("change", select);
  });
  $("search").addEventListener("input", select);
  $("size").addEventListener("change", draw);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(select));
  $("previous").addEventListener("click", () => { page -= 1; draw(); });
  $("next").addEventListener("click", () => { page += 1; draw(); });
  $("app").hidden = false;
  select();
})();
