"use strict";
(() => {
  const { operations, searches } = JSON.parse(document.getElementById("searches").textContent);
  const EDGES = 14, OPERATIONS = operations.length;
  const byId = (id) => document.getElementById(id);
  const svg = byId("supernet"), slider = byId("epoch"), moment = byId("moment"), choice = byId("which");
  const edges = [...svg.querySelectorAll(".edge")].sort((a, b) => a.dataset.edge - b.dataset.edge);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  let search, selected = 0;

  /** Shares of one edge: after an epoch of the search, or once the cell was found. */
  const sharesAt = (edge, epoch) => {
    if (epoch > search.epochs) {
      return operations.map((_, o) => (o === search.final[edge] ? 255 : 0));
    }
    const from = ((epoch - 1) * EDGES + edge) * OPERATIONS;
    return search.shares.subarray(from, from + OPERATIONS);
  };
  const alive = (shares) => shares.reduce((n, s) => n + (s > 0), 0);
  const percent = (part, whole) => `${Math.round((100 * part) / whole)} %`;
  const isLast = (epoch) => epoch > search.epochs;

  const drawEdge = (edge, epoch) => {
    const shares = sharesAt(edge, epoch), group = edges[edge], chip = group.querySelector(".chip");
    const top = Number(chip.getAttribute("y")), height = Number(chip.getAttribute("height"));
    const total = shares.reduce((a, b) => a + b, 0) || 1;
    let y = top;
    group.querySelectorAll(".share").forEach((rect, o) => {
      const part = (height * shares[o]) / total;
      rect.setAttribute("y", y);
      rect.setAttribute("height", part);
      y += part;
    });
    const left = alive(shares);
    const words = left === 1 ? operations[shares.findIndex((s) => s > 0)].short : ["", ""];
    group.querySelectorAll("tspan").forEach((line, i) => { line.textContent = words[i]; });
    const psi = search.psi[(Math.min(epoch, search.epochs) - 1) * EDGES + edge] / 255;
    group.style.setProperty("--psi", `${(1 + 8 * psi).toFixed(2)}px`);
    group.classList.toggle("dropped", isLast(epoch) && search.kept[edge] < 0);
  };

  const drawMoment = () => {
    const epoch = Number(slider.value);
    let left = 0, settled = 0;
    for (let edge = 0; edge < EDGES; edge += 1) {
      const n = alive(sharesAt(edge, epoch));
      left += n;
      settled += n === 1;
      drawEdge(edge, epoch);
    }
    const where = epoch <= search.warmup ? "warm-up, " : "";
    const text = isLast(epoch) ? "found cell: eight edges kept"
      : `${where}epoch ${epoch} of ${search.epochs}: ${left} of ${EDGES * OPERATIONS} operations left, ${settled} of ${EDGES} edges settled`;
    moment.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    drawDetail();
  };

  /** The course of the selected edge: shares stacked, a cross where one is pruned. */
  const drawCourse = () => {
    const last = search.epochs, x = (epoch) => (300 * epoch) / last;
    const upper = new Float64Array(last), paths = [], middles = {};
    for (let o = 0; o < OPERATIONS; o += 1) {
      const low = Float64Array.from(upper);
      for (let e = 0; e < last; e += 1) {
        const shares = sharesAt(selected, e + 1), total = shares.reduce((a, b) => a + b, 0);
        upper[e] += (100 * shares[o]) / total;
        middles[`${e + 1} ${o}`] = (low[e] + upper[e]) / 2;
      }
      const out = [], back = [];
      for (let e = 0; e < last; e += 1) {
        out.push(`${x(e)},${upper[e]}`, `${x(e + 1)},${upper[e]}`);
        back.push(`${x(e)},${low[e]}`, `${x(e + 1)},${low[e]}`);
      }
      const points = out.concat(back.reverse());
      paths.push(`<polygon points="${points.join(" ")}" fill="${operations[o].colour}"/>`);
    }
    const crosses = search.prunes.filter(([edge]) => edge === selected).map(([, epoch, o]) =>
      `<path class="cross" d="M${x(epoch) - 4} ${middles[`${epoch} ${o}`] - 4}l8 8m0 -8l-8 8"/>`);
    byId("course-areas").innerHTML = paths.join("") + crosses.join("");
    byId("course-end").textContent = last;
  };
  const drawDetail = () => {
    const epoch = Number(slider.value), shares = sharesAt(selected, epoch);
    const total = shares.reduce((a, b) => a + b, 0) || 1;
    const now = (300 * Math.min(epoch, search.epochs)) / search.epochs;
    byId("course-now").setAttribute("x1", now);
    byId("course-now").setAttribute("x2", now);
    const name = edges[selected].getAttribute("aria-label");
    const dropped = isLast(epoch) && search.kept[selected] < 0;
    byId("edge-name").textContent = name + (dropped ? ", left out of the found cell" : "");
    byId("edge-shares").querySelectorAll("tr").forEach((row, o) => {
      row.classList.toggle("pruned", shares[o] === 0);
      row.lastElementChild.textContent = shares[o] === 0 ? "pruned" : percent(shares[o], total);
    });
  };

  const select = (edge) => {
    edges[selected].classList.remove("selected");
    selected = edge;
    edges[selected].classList.add("selected");
    drawCourse();
    drawDetail();
  };

  const show = (index) => {
    search = { ...searches[index] };
    search.shares = bytes(search.shares);
    search.psi = bytes(search.psi);
    slider.max = search.epochs + (search.kept ? 1 : 0);
    slider.value = slider.max;
    drawMoment();
    select(selected);
  };

  edges.forEach((group, edge) => {
    group.addEventListener("pointerenter", () => select(edge));
    group.addEventListener("focus", () => select(edge));
    group.addEventListener("click", () => select(edge));
  });
  slider.addEventListener("input", drawMoment);
  if (choice) choice.addEventListener("change", () => show(choice.selectedIndex));
  byId("explorer").hidden = false;
  show(0);
})();
