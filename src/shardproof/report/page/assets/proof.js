// The page of a proof: filters, heat maps, the certificate.

// Filters ------------------------------------------------------------------------------------------------------------

const form = document.querySelector(".filters");
const sections = [...document.querySelectorAll("details.section")].map((section) => ({
  element: section,
  open: section.open,
  phase: section.dataset.phase,
  rows: [...section.querySelectorAll(".tensor")],
}));
const total = sections.reduce((sum, section) => sum + section.rows.length, 0);
const texts = new WeakMap();
const choices = [...form.querySelectorAll("input[name=verdict]")];
const known = new Set(choices.map((choice) => choice.value));

function textOf(row) {
  if (!texts.has(row)) texts.set(row, row.querySelector("details").textContent.toLowerCase());
  return texts.get(row);
}

function filter() {
  const wanted = form.querySelector("#filter-text").value.trim().toLowerCase();
  const phase = form.querySelector("#filter-phase").value;
  const verdicts = new Set(choices.filter((choice) => choice.checked).map((choice) => choice.value));
  const active = wanted || phase || verdicts.size < choices.length;
  let shown = 0;
  for (const section of sections) {
    let here = 0;
    for (const row of section.rows) {
      const verdict = row.dataset.verdict;
      const found = (!phase || phase === section.phase)
        && (known.has(verdict) ? verdicts.has(verdict) : verdicts.size === choices.length)
        && (!wanted || textOf(row).includes(wanted));
      row.hidden = !found;
      here += found;
    }
    shown += here;
    section.element.hidden = !here;
    section.element.open = active ? here > 0 : section.open;
  }
  form.querySelector(".shown").textContent = active ? `${shown} of ${total} are shown` : "";
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const search = form.querySelector("#filter-text");
  if (event.key === "/" && !event.target.matches("input, select, textarea")) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && event.target === search) {
    search.value = "";
    filter();
  }
});

// Heat maps ----------------------------------------------------------------------------------------------------------

function decode(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).split(",").map(Number);
  return { low: read("--low"), middle: read("--middle"), high: read("--high"), none: read("--void"), ink: style.getPropertyValue("--ink") };
}

function shade(value, largest, palette) {
  if (!Number.isFinite(value)) return palette.none;
  const share = largest ? Math.min(1, Math.abs(value) / largest) : 0;
  const end = value < 0 ? palette.low : palette.high;
  return palette.middle.map((from, i) => Math.round(from + (end[i] - from) * Math.sqrt(share)));
}

function largestOf(...arrays) {
  let largest = 0;
  for (const array of arrays) for (const value of array) if (Number.isFinite(value)) largest = Math.max(largest, Math.abs(value));
  return largest;
}

function paint(canvas, map, values, largest, marked, cursor) {
  const palette = colours();
  const size = Math.max(4, Math.min(26, Math.floor(300 / Math.max(map.columns, map.rows, 6))));
  const scale = window.devicePixelRatio || 1;
  canvas.width = map.columns * size * scale;
  canvas.height = map.rows * size * scale;
  canvas.style.width = `${map.columns * size}px`;
  canvas.style.height = `${map.rows * size}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  for (let at = 0; at < values.length; at += 1) {
    const x = (at % map.columns) * size;
    const y = Math.floor(at / map.columns) * size;
    context.fillStyle = `rgb(${shade(values[at], largest, palette).join(",")})`;
    context.fillRect(x, y, size, size);
    if (marked && map.differs[at]) {
      context.fillStyle = palette.ink;
      const dot = Math.max(1.5, size / 4);
      context.fillRect(x + (size - dot) / 2, y + (size - dot) / 2, dot, dot);
    }
  }
  if (cursor >= 0) {
    context.strokeStyle = palette.ink;
    context.lineWidth = 2;
    context.strokeRect((cursor % map.columns) * size + 1, Math.floor(cursor / map.columns) * size + 1, size - 2, size - 2);
  }
}

function number(value) {
  return Number.isFinite(value) ? value.toPrecision(4) : String(value);
}

function drawMaps(figure) {
  const cells = data.values[figure.dataset.map];
  const map = {
    rows: Number(figure.dataset.rows), columns: Number(figure.dataset.columns),
    expected: decode(cells.expected, Float32Array), difference: decode(cells.difference, Float32Array), differs: decode(cells.differs, Uint8Array),
  };
  map.actual = map.expected.map((value, at) => value + map.difference[at]);
  const rank = figure.dataset.rank;
  const both = largestOf(map.expected, map.actual);
  const views = [
    ["One device", map.expected, both, false], [`Rank ${rank}`, map.actual, both, true],
    [`Rank ${rank} less one device`, map.difference, largestOf(map.difference), true],
  ];
  const panels = figure.querySelector(".panels");
  panels.replaceChildren();
  const reading = figure.querySelector(".reading") || figure.appendChild(document.createElement("p"));
  reading.className = "reading quiet";
  reading.textContent = "A dot marks a cell that differs. Point at a cell, or move with the arrow keys, to read it.";
  let cursor = -1;
  const canvases = views.map(([name, values, largest, marked]) => {
    const panel = document.createElement("div");
    panel.className = "panel";
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}, ${map.rows} by ${map.columns} cells. ${figure.querySelector("figcaption").textContent}`);
    const title = document.createElement("span");
    title.className = "name";
    title.textContent = name;
    const range = document.createElement("span");
    range.className = "range";
    range.textContent = largest ? `blue -${largest.toPrecision(3)} to orange ${largest.toPrecision(3)}` : "zero everywhere";
    panel.append(title, canvas, range);
    panels.append(panel);
    return canvas;
  });
  const repaint = () => views.forEach(([, values, largest, marked], i) => paint(canvases[i], map, values, largest, marked, cursor));
  const read = (at) => {
    cursor = at;
    repaint();
    const place = map.rows > 1 ? `row ${Math.floor(at / map.columns)}, column ${at % map.columns}` : `element ${at}`;
    reading.textContent = `${place}: one device ${number(map.expected[at])}, rank ${rank} ${number(map.actual[at])}`
      + (map.differs[at] ? `; off by ${number(map.difference[at])}` : "; equal");
  };
  for (const canvas of canvases) {
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * map.columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * map.rows);
      const at = row * map.columns + column;
      if (row >= 0 && column >= 0 && row < map.rows && column < map.columns && at !== cursor) read(at);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -map.columns, ArrowDown: map.columns }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = Math.max(cursor, 0) + (cursor < 0 ? 0 : step);
      if (next >= 0 && next < map.expected.length) read(next);
    });
  }
  repaint();
  figure.repaint = repaint;
}

function drawInside(details) {
  if (!details.open) return;
  for (const figure of details.querySelectorAll(":scope > .inside > .maps")) if (!figure.repaint) drawMaps(figure);
}

for (const details of document.querySelectorAll(".tensor details:has(.maps)")) {
  details.addEventListener("toggle", () => drawInside(details));
  drawInside(details);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const figure of document.querySelectorAll(".maps")) if (figure.repaint) figure.repaint();
});

// The certificate ----------------------------------------------------------------------------------------------------

const certificate = document.getElementById("certificate");
if (certificate && "DecompressionStream" in window) {
  certificate.addEventListener("click", async (event) => {
    if (event.defaultPrevented || certificate.dataset.plain) return;
    event.preventDefault();
    const bytes = decode(certificate.getAttribute("href").split(",")[1], Uint8Array);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const text = await new Response(stream).text();
    const link = document.createElement("a");
    link.download = "proof.json";
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}
