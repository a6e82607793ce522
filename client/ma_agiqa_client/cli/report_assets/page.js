"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};
const report = JSON.parse($("report").textContent);
const card = report.model;
const SHARES = ["semantic", "coherence", "quality"];
const number = (value, digits = 3) => value.toFixed(digits);
const grouped = (value) => value.toLocaleString("en");

/* Pictures lie in blocks that are parsed when one of theirs comes into view. */
const blocks = new Map();
const pictureOf = (image) => {
  const block = Math.floor(image.position / report.block);
  if (!blocks.has(block)) blocks.set(block, JSON.parse($(`pictures-${block}`).textContent));
  return blocks.get(block)[image.position % report.block];
};

/* Colors: of a score on the model's scale, and of a map. */
const mix = (stops, share) => {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const left = Math.min(Math.floor(place), stops.length - 2);
  return stops[left].map((channel, i) => Math.round(channel + (stops[left + 1][i] - channel) * (place - left)));
};
const SCORE_COLORS = [[178, 58, 46], [176, 116, 16], [31, 138, 91]];
const scoreColor = (normalized) => `rgb(${mix(SCORE_COLORS, normalized).join(" ")})`;
const normalize = (mos) => (mos - card.mos_min) / (card.mos_max - card.mos_min);

const COLORS = Array.from({ length: 256 }, (_, level) => mix(report.colors, level / 255));
const drawMap = (canvas, picture, longest) => {
  const { shape: [height, width], values } = picture.map;
  const bytes = atob(values);
  const small = new OffscreenCanvas(width, height);
  const levels = new ImageData(width, height);
  for (let i = 0; i < bytes.length; i++) levels.data.set([bytes.charCodeAt(i), 0, 0, 255], 4 * i);
  small.getContext("2d").putImageData(levels, 0, 0);
  const scale = longest / Math.max(...picture.size);
  canvas.width = Math.max(1, Math.round(picture.size[0] * scale));
  canvas.height = Math.max(1, Math.round(picture.size[1] * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const smooth = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < smooth.data.length; i += 4) {
    [smooth.data[i], smooth.data[i + 1], smooth.data[i + 2]] = COLORS[smooth.data[i]];
  }
  context.putImageData(smooth, 0, 0);
};

/* Head: title, tiles, histogram. */
$("title").textContent = document.title = report.title;
$("facts").textContent = [
  `${grouped(report.images.length)} image${report.images.length === 1 ? "" : "s"}`,
  `model ${card.name}`, `data set ${card.dataset}`, report.created,
].join("  ·  ");
if (card.note) { $("note").textContent = card.note; $("note").hidden = false; }
$("meaning").textContent = report.meaning;
$("checksum").textContent = `Weights ${card.checkpoint_sha256}`;

const ordered = report.images.map((image) => image.mos).sort((a, b) => a - b);
const quantile = (share) => ordered[Math.round(share * (ordered.length - 1))];
const median = quantile(0.5);
const tiles = ordered.length ? {
  Median: median,
  Mean: ordered.reduce((sum, mos) => sum + mos, 0) / ordered.length,
  Best: ordered.at(-1),
  Worst: ordered[0],
} : {};
for (const [label, value] of Object.entries(tiles)) {
  const tile = make("div");
  tile.append(make("dt", "", label), make("dd", "", number(value, 2)));
  $("tiles").append(tile);
}

const BINS = 40;
const binOf = (mos) => Math.min(BINS - 1, Math.max(0, Math.floor(normalize(mos) * BINS)));
const edge = (bin) => card.mos_min + (bin / BINS) * (card.mos_max - card.mos_min);
const histogram = $("histogram");
const bars = [];
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const drawHistogram = () => {
  const counts = new Array(BINS).fill(0);
  for (const mos of ordered) counts[binOf(mos)]++;
  const tallest = Math.max(1, ...counts);
  histogram.setAttribute("viewBox", `0 0 ${BINS * 10} 100`);
  histogram.setAttribute("aria-label", `Histogram of ${ordered.length} scores`);
  counts.forEach((count, bin) => {
    const height = count ? Math.max(2, (96 * count) / tallest) : 0;
    const bar = svg("rect", { x: bin * 10 + 0.8, width: 8.4, y: 100 - height, height, fill: scoreColor((bin + 0.5) / BINS) });
    bar.append(svg("title", {}));
    bar.firstChild.textContent = `${number(edge(bin), 2)} to ${number(edge(bin + 1), 2)}: ${grouped(count)}`;
    bars.push(bar);
    histogram.append(bar);
  });
  if (ordered.length) {
    const x = Math.min(1, Math.max(0, normalize(median))) * BINS * 10;
    histogram.append(svg("line", { class: "median", x1: x, x2: x, y1: 0, y2: 100 }));
  }
  for (let i = 0; i <= 5; i++) $("axis").append(make("span", "", String(Number(edge((BINS * i) / 5).toFixed(2)))));
};
drawHistogram();

/* The folders that all images share need not be said on every card. */
const folder = (name) => name.slice(0, name.lastIndexOf("/") + 1);
const common = report.images.reduce((shared, { image }) => {
  let prefix = shared ?? folder(image);
  while (!image.startsWith(prefix)) prefix = folder(prefix.slice(0, -1));
  return prefix;
}, null)?.length ?? 0;

/* State and what it shows. */
const state = { text: "", sort: "best", group: "", from: null, to: null };
report.images.forEach((image, position) => { image.position = position; });
[...report.images].sort((a, b) => b.mos - a.mos).forEach((image, index) => { image.rank = index + 1; });
const ORDERS = {
  best: (a, b) => a.rank - b.rank,
  worst: (a, b) => b.rank - a.rank,
  name: (a, b) => a.image.localeCompare(b.image, "en", { numeric: true }),
  semantic: (a, b) => b.gate.semantic - a.gate.semantic,
  coherence: (a, b) => b.gate.coherence - a.gate.coherence,
  quality: (a, b) => b.gate.quality - a.gate.quality,
};
const matches = (image) =>
  image.image.toLowerCase().includes(state.text) &&
  (!state.group || image.group === state.group) &&
  (state.from === null || image.mos >= state.from) &&
  (state.to === null || image.mos <= state.to);

const grid = $("grid");
let shown = [];
const cards = new Map();
const gateBar = (gate) => {
  const bar = make("div", "gate");
  for (const share of SHARES) {
    const part = make("i", share);
    part.style.width = `${100 * gate[share]}%`;
    bar.append(part);
  }
  bar.title = SHARES.map((share) => `${share} ${Math.round(100 * gate[share])} %`).join(", ");
  return bar;
};
/* What there is to say about a score: `?` for an extrapolation, `=` for a tie with the next. */
const MARKS = { foreign: " ?", tied: " =" };
const marksOf = (image) => Object.keys(MARKS).filter((name) => image[name]).map((name) => MARKS[name]).join("");
const remarksOf = (image) => Object.keys(MARKS).filter((name) => image[name]).map((name) => report.remarks[name]);
const cardOf = (image) => {
  if (cards.has(image)) return cards.get(image);
  const button = make("button", "card");
  button.type = "button";
  button.image = image;
  const picture = make("div", "picture");
  const badge = make("span", "badge", number(image.mos, 2) + marksOf(image));
  badge.title = remarksOf(image).join(" ");
  badge.style.setProperty("--score", scoreColor(image.normalized));
  picture.append(badge, make("span", "rank", `#${image.rank}`));
  const name = make("div", "name", image.image.slice(folder(image.image).length));
  name.title = image.image;
  const under = make("div", "under");
  const place = image.group ?? folder(image.image).slice(common, -1);
  const percentile = `${place ? "" : "better than "}${Math.round(image.percentile)} %`;
  under.append(...(place ? [make("span", "", place)] : []), make("span", "", percentile));
  under.lastChild.title = "Share of the model's training images that people rated lower, in percent";
  const text = make("div", "text");
  text.append(name, under, gateBar(image.gate));
  button.append(picture, text);
  button.addEventListener("click", () => open(image));
  cards.set(image, button);
  observer.observe(button);
  return button;
};

/* A card near the screen gets its picture; one far away gives the memory back. */
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) isIntersecting ? fill(target) : clear(target);
}, { rootMargin: "800px 0px" });
const fill = (button) => {
  const frame = button.firstChild;
  const picture = pictureOf(button.image);
  if (!frame.querySelector("img, .missing")) {
    if (picture.thumbnail) {
      const thumbnail = new Image();
      thumbnail.alt = "";
      thumbnail.decoding = "async";
      thumbnail.src = picture.thumbnail;
      frame.prepend(thumbnail);
    } else frame.prepend(make("span", "missing", "no preview"));
  }
  if (document.body.classList.contains("show-maps") && picture.map && !frame.querySelector("canvas")) {
    const canvas = make("canvas");
    frame.querySelector("img, .missing").after(canvas);
    drawMap(canvas, picture, 128);
  }
  button.near = true;
};
const clear = (button) => {
  button.firstChild.querySelectorAll("img, canvas").forEach((element) => element.remove());
  button.near = false;
};

const show = () => {
  shown = report.images.filter(matches).sort(ORDERS[state.sort]);
  grid.replaceChildren(...shown.map(cardOf));
  const all = shown.length === report.images.length;
  $("count").textContent = all ? `${grouped(shown.length)} images` : `${grouped(shown.length)} of ${grouped(report.images.length)}`;
  $("reset").hidden = all;
  $("empty").hidden = shown.length > 0 || report.images.length === 0;
  bars.forEach((bar, bin) => bar.classList.toggle("faded",
    (state.from !== null && edge(bin + 1) <= state.from) || (state.to !== null && edge(bin) >= state.to)));
};

/* Tools. */
$("search").addEventListener("input", (event) => { state.text = event.target.value.toLowerCase(); show(); });
$("sort").addEventListener("change", (event) => { state.sort = event.target.value; show(); });
for (const end of ["from", "to"]) {
  $(end).placeholder = String(end === "from" ? card.mos_min : card.mos_max);
  $(end).addEventListener("input", (event) => {
    state[end] = event.target.value === "" ? null : Number(event.target.value);
    show();
  });
}
const setRange = (from, to) => {
  [state.from, state.to] = [from, to];
  $("from").value = from === null ? "" : Number(from.toFixed(3));
  $("to").value = to === null ? "" : Number(to.toFixed(3));
  show();
};
const reset = () => {
  state.text = $("search").value = "";
  state.group = $("group").value = "";
  setRange(null, null);
};
$("reset").addEventListener("click", reset);
$("empty-reset").addEventListener("click", reset);
$("maps").addEventListener("change", (event) => {
  document.body.classList.toggle("show-maps", event.target.checked);
  $("strength").value = event.target.checked ? 65 : 0;
  for (const button of cards.values()) if (button.near) fill(button);
});
const groups = [...new Set(report.images.map((image) => image.group).filter(Boolean))];
if (groups.length) {
  $("group-label").hidden = false;
  $("group").append(new Option("all", ""), ...groups.map((group) => new Option(group)));
  $("group").addEventListener("change", (event) => { state.group = event.target.value; show(); });
}
$("maps-label").hidden = !report.maps;
$("legend-meaning").textContent = report.maps ? `Maps: ${report.legend}; each map has its own scale.` : "";

let dragStart = null;
const binAt = (event) => {
  const box = histogram.getBoundingClientRect();
  return Math.min(BINS - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * BINS)));
};
const drag = (event) => {
  if (dragStart === null) return;
  const [first, last] = [dragStart, binAt(event)].sort((a, b) => a - b);
  setRange(edge(first), edge(last + 1));
};
histogram.addEventListener("pointerdown", (event) => {
  dragStart = binAt(event);
  histogram.setPointerCapture(event.pointerId);
  drag(event);
});
histogram.addEventListener("pointermove", drag);
for (const end of ["pointerup", "pointercancel"]) histogram.addEventListener(end, () => { dragStart = null; });
histogram.addEventListener("dblclick", () => setRange(null, null));

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

/* One image. */
const dialog = $("detail");
let current = null;
const open = (image) => {
  current = image;
  const picture = pictureOf(image);
  const stage = $("stage");
  stage.replaceChildren();
  stage.style.setProperty("--shape", picture.size[0] / picture.size[1]);
  if (picture.thumbnail) {
    const large = new Image();
    large.alt = image.image;
    large.src = picture.thumbnail;
    stage.append(large);
  } else stage.append(make("span", "missing", "This image could not be drawn."));
  $("detail-map").hidden = !picture.map;
  if (picture.map) {
    const canvas = make("canvas");
    stage.append(canvas);
    drawMap(canvas, picture, 512);
    $("low").textContent = number(picture.map.low);
    $("high").textContent = number(picture.map.high);
    strengthen();
  }
  $("detail-name").textContent = image.image;
  $("detail-mos").textContent = number(image.mos);
  $("detail-scale").textContent = `of ${card.mos_min} to ${card.mos_max}, rank ${grouped(image.rank)} of ${grouped(report.images.length)}`;
  $("ruler").firstChild.style.left = `${100 * image.normalized}%`;
  const [low, high] = image.interval ?? [image.mos, image.mos];
  $("span").style.left = `${100 * normalize(low)}%`;
  $("span").style.width = `${100 * (normalize(high) - normalize(low))}%`;
  $("detail-interval").textContent = [
    ...(image.interval ? [`${Math.round(100 * report.level)} % interval: ${number(low, 2)} to ${number(high, 2)}.`] : []),
    ...(report.level ? [] : ["No interval: the model was not calibrated."]),
    ...remarksOf(image),
  ].join(" ");
  $("detail-percentile").textContent = `Better than ${Math.round(image.percentile)} % of the model's training images.`;
  $("detail-gate").replaceChildren(...gateBar(image.gate).children);
  $("detail-shares").replaceChildren(...SHARES.map((share) => {
    const line = make("li");
    line.append(make("i", share), make("span", "", share), make("b", "", `${Math.round(100 * image.gate[share])} %`));
    return line;
  }));
  const place = shown.indexOf(image);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place >= shown.length - 1;
  if (!dialog.open) dialog.showModal();
};
const step = (by) => { const image = shown[shown.indexOf(current) + by]; if (image) open(image); };
const strengthen = () => {
  const share = Number($("strength").value) / 100;
  const canvas = $("stage").querySelector("canvas");
  const large = $("stage").querySelector("img");
  if (canvas) canvas.style.opacity = share;
  if (large) large.style.filter = canvas && share ? "grayscale(1)" : "";
};
$("strength").addEventListener("input", strengthen);
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  if (event.target.id === "strength") return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
const legend = $("legend").getContext("2d");
for (let x = 0; x < 256; x++) { legend.fillStyle = `rgb(${mix(report.colors, x / 255).join(" ")})`; legend.fillRect(x, 0, 1, 1); }
$("detail-legend").textContent = `${report.legend[0].toUpperCase()}${report.legend.slice(1)}.`;

/* Images without a score. */
if (report.failures.length) {
  const failures = $("failures");
  failures.hidden = false;
  failures.querySelector("summary").textContent = `${grouped(report.failures.length)} without a score`;
  failures.querySelector("ul").append(...report.failures.map(({ image, error }) => {
    const line = make("li");
    line.append(make("b", "", image), `: ${error}`);
    return line;
  }));
}
show();
