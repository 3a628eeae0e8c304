"use strict";
// The page reads without this script; it adds sorting, filtering, and the plot's tips and pins.
// Text from the page is only ever put back as text, never as markup.
(() => {
  const root = document.documentElement;
  addEventListener("error", () => { root.dataset.failed = "true"; });

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  };

  const table = document.querySelector(".trials");
  const rowOf = (number) => document.getElementById(`t${number}`);
  const cellOf = (row, label) => row.querySelector(`[data-label="${label}"]`);
  const figure = (row, label) => cellOf(row, label).firstChild.textContent.trim();
  const range = (row, label) => cellOf(row, label).querySelector("small")?.textContent ?? "";
  const recipe = (row) => row.querySelector(".recipe code").textContent;

  function tables() {
    if (!table) return;
    const body = table.tBodies[0];
    const heads = all("thead th", table);
    const key = (row, column, kind) => {
      const cell = row.cells[column];
      if (kind === "text") return cell.textContent.trim();
      return cell.dataset.key === "" ? null : Number(cell.dataset.key);
    };
    heads.forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => {
        const { kind } = head.dataset;
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = all("tr", body).map((row) => [key(row, column, kind), row]);
        rows.sort(([a], [b]) => {
          // What has no figure stays at the end, whichever way the rest runs.
          if (a === null || b === null) return (a === null) - (b === null);
          const order = kind === "text" ? a.localeCompare(b) : a - b;
          return down ? -order : order;
        });
        body.append(...rows.map(([, row]) => row));
      });
    });

    const controls = document.querySelector(".controls");
    const search = controls.querySelector("input[type=search]");
    const boxes = all("input[type=checkbox]", controls);
    const count = controls.querySelector("output");
    const filter = () => {
      const wanted = search.value.trim().toLowerCase();
      const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      let left = 0;
      for (const row of body.rows) {
        const text = `${recipe(row)} ${row.querySelector(".why").textContent}`.toLowerCase();
        row.hidden = !shown.has(row.dataset.outcome) || !text.includes(wanted);
        left += row.hidden ? 0 : 1;
      }
      count.textContent = `${left} of ${body.rows.length}`;
    };
    search.addEventListener("input", filter);
    boxes.forEach((box) => box.addEventListener("change", filter));
    filter();
  }

  function plot() {
    const frame = document.querySelector(".plot");
    if (!frame) return;
    const tip = frame.querySelector(".tip");
    const pinned = document.querySelector(".pinned");
    const marks = all(".mark", frame).filter((mark) => rowOf(mark.dataset.n));
    const across = (mark) => Number(/translate\(([\d.-]+)/.exec(mark.getAttribute("transform"))[1]);
    const byPlace = [...marks].sort((a, b) => across(a) - across(b));

    const show = (mark) => {
      const row = rowOf(mark.dataset.n);
      tip.replaceChildren();
      make("code", recipe(row), tip);
      for (const [label, name] of [["Speed", "speed"], ["Lost", "lost"], ["File", "file"]]) {
        const ends = range(row, label);
        const value = figure(row, label);
        if (value !== "–") make("span", `${name} ${value}${ends ? ` (${ends})` : ""}`, tip);
      }
      make("span", `${row.dataset.outcome}: ${figure(row, "Why")}`, tip);
      tip.hidden = false;
      const box = frame.getBoundingClientRect();
      const at = mark.querySelector(".shape").getBoundingClientRect();
      const left = at.left + at.width / 2 - box.left;
      const room = Math.max(box.width - tip.offsetWidth, 0);
      tip.style.left = `${Math.min(Math.max(left - tip.offsetWidth / 2, 0), room)}px`;
      const above = at.top - box.top - tip.offsetHeight - 12;
      tip.style.top = `${above >= 0 ? above : at.bottom - box.top + 12}px`;
    };
    const hide = () => { tip.hidden = true; };

    const unpin = (mark) => {
      mark.setAttribute("aria-pressed", "false");
      pinned.querySelector(`tr[data-n="${mark.dataset.n}"]`)?.remove();
      pinned.hidden = !pinned.querySelector("tbody tr");
    };
    const pin = (mark) => {
      if (mark.getAttribute("aria-pressed") === "true") return unpin(mark);
      mark.setAttribute("aria-pressed", "true");
      const { n } = mark.dataset;
      const row = rowOf(n);
      const line = make("tr", "", pinned.querySelector("tbody"));
      line.dataset.n = n;
      const link = make("a", n, make("td", "", line));
      link.href = `#t${n}`;
      make("code", recipe(row), make("td", "", line));
      ["Speed", "Lost", "File"].forEach((label) => make("td", figure(row, label), line));
      const button = make("button", "×", make("td", "", line));
      button.type = "button";
      button.setAttribute("aria-label", `Remove ${n}`);
      button.addEventListener("click", () => unpin(mark));
      pinned.hidden = false;
      return undefined;
    };

    const step = (mark, by) => {
      const seen = byPlace.filter((other) => !other.classList.contains("off"));
      const next = seen[(seen.indexOf(mark) + by + seen.length) % seen.length];
      enter(next);
      next.focus();
    };
    const enter = (mark) => marks.forEach((other) => {
      other.setAttribute("tabindex", other === mark ? "0" : "-1");
    });

    for (const mark of marks) {
      mark.addEventListener("pointerenter", () => show(mark));
      mark.addEventListener("pointerleave", hide);
      mark.addEventListener("focus", () => show(mark));
      mark.addEventListener("blur", hide);
      mark.addEventListener("click", () => { pin(mark); show(mark); });
      mark.addEventListener("keydown", (event) => {
        const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
        if (event.key in moves) step(mark, moves[event.key]);
        else if (event.key === "Enter" || event.key === " ") pin(mark);
        else if (event.key === "Escape") hide();
        else return;
        event.preventDefault();
      });
    }
    // One stop for the Tab key, at what was delivered; the arrows do the rest.
    enter(marks.find((mark) => mark.classList.contains("chosen")) ?? marks[0]);

    all(".engines input").forEach((box) => box.addEventListener("change", () => {
      marks.filter((mark) => mark.dataset.engine === box.dataset.engine)
        .forEach((mark) => mark.classList.toggle("off", !box.checked));
      const seen = byPlace.filter((mark) => !mark.classList.contains("off"));
      if (seen.length) enter(seen.find((mark) => mark.getAttribute("tabindex") === "0") ?? seen[0]);
    }));
  }

  tables();
  plot();
  root.dataset.ready = "true";
})();
