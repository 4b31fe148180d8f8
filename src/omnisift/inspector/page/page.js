// The page itself: what is shown now, and what happens when somebody points, types or slides.
const by = (id) => document.getElementById(id);
const state = { place: 0, cell: -1, panel: 0, token: -1, view: "kept", sound: 0, zoom: 1 };
const lanes = [];
const panels = [];
let images = [], mel = null;

function make(tag, parent, attributes) {
  const element = parent.appendChild(document.createElement(tag));
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  return element;
}

function load(uri) {
  return new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(image);
    image.src = uri;
  });
}

function outlined() { return data.evidence !== null && by("evidence").checked; }

function say(text) { by("detail").textContent = text; }

// --- building ------------------------------------------------------------------------------------------------------

function build() {
  by("scrubber").hidden = by("views").hidden = !data.grid;
  by("outline").hidden = data.evidence === null;
  by("listen").hidden = data.sound === null || chosen.length < 2;
  by("frame").max = Math.max(0, data.frames.length - 1);
  chosen.forEach((method, index) => { make("option", by("method"), { value: index }).textContent = method.label; });
  if (data.grid) for (const method of chosen) buildPanel(method);
  buildLanes();
  make("div", by("lanes"), { id: "head" }).hidden = !data.grid;
  make("div", by("lanes"), { id: "ear" }).hidden = true;
  listen();
}

function buildPanel(method) {
  const figure = make("figure", by("panels")), caption = make("figcaption", figure);
  const canvas = make("canvas", figure, { tabindex: 0, role: "application", "aria-roledescription": "grid of patches" });
  const number = panels.push({ method, canvas, caption }) - 1;
  canvas.addEventListener("pointermove", (event) => point(number, event));
  canvas.addEventListener("pointerdown", (event) => point(number, event));
  canvas.addEventListener("pointerleave", () => { state.cell = -1; drawPanels(); });
  canvas.addEventListener("focus", () => { if (state.cell < 0 || state.panel !== number) moveCell(number, 0, 0); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) { event.preventDefault(); moveCell(number, ...step); }
  });
}

function lane(title, height, draw, label) {
  if (title) make("div", by("lanes"), { class: "lane" }).textContent = title;
  const canvas = make("canvas", by("lanes"), label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" });
  lanes.push({ canvas, height, draw });
  return canvas;
}

function buildLanes() {
  lane("", 20, (pen, width, height) => drawAxis(pen, width, height));
  if (data.grid) {
    for (const method of chosen) {
      const canvas = lane(method.label + ": frames", stripHeight, (pen, width, height) => drawStrip(pen, images, method, state.view, outlined(), width, height), "Frames as " + method.label + " keeps them; the slider above goes through them");
      canvas.addEventListener("pointerdown", (event) => { show(placeAt(timeAt(event))); });
    }
  }
  if (data.sound === null) return;
  soundLane(lane("Waveform, kept parts in colour", 56, (pen, width, height) => drawWave(pen, listened(), width, height), "Waveform"));
  const canvas = lane("Mel spectrogram, dropped parts dimmed", 84, (pen, width, height) => drawMel(pen, mel, listened(), width, height));
  canvas.removeAttribute("aria-hidden");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Mel spectrogram; left and right go through the sound tokens");
  canvas.addEventListener("keydown", soundKey);
  canvas.addEventListener("focus", () => { if (state.token < 0) moveToken(0); });
  soundLane(canvas);
  chosen.forEach((method, index) => {
    const title = method.label + (method.audio === null ? ": sound tokens, all read" : ": sound tokens by score, dropped ones pale") + (method.merged.includes("audio") ? ", kept ones carry what dropped ones held" : "");
    soundLane(lane(title, 40, (pen, width, height) => drawScores(pen, method, outlined(), width, height), title), index);
  });
}

function soundLane(canvas, index) {
  const hear = (event) => { showToken(tokenAt(timeAt(event)), index); };
  canvas.addEventListener("pointermove", hear);
  canvas.addEventListener("pointerdown", (event) => { hear(event); jump(index); });
}

// --- drawing -------------------------------------------------------------------------------------------------------

// As high as the widest frame that fits into its time.
function stripHeight(width) {
  const space = (width * (endOfPlace(0) - timeOfPlace(0))) / data.seconds;
  return Math.round(Math.max(16, Math.min(110, ((space - 1) * data.size[1]) / data.size[0])));
}

function listened() { return chosen[state.sound]; }

function drawAll() {
  drawPanels();
  drawLanes();
}

function drawLanes() {
  const space = by("timeline").clientWidth;
  const roomy = data.grid ? Math.max(space, data.frames.length * 56) : space;
  const width = Math.min(30000, roomy * state.zoom);
  by("lanes").style.width = width + "px";
  for (const { canvas, height, draw } of lanes) {
    const tall = typeof height === "function" ? height(width) : height;
    draw(sized(canvas, width, tall), width, tall);
  }
  placeHead();
}

function drawPanels() {
  if (!data.grid) return;
  panels.forEach(({ method, canvas, caption }, number) => {
    const width = canvas.clientWidth || 300, height = Math.round((width * data.size[1]) / data.size[0]);
    const pen = sized(canvas, width, height);
    drawFrame(pen, images, method, state.place, state.view, 0, 0, width, height);
    if (outlined()) drawMarks(pen, evidenceCells(state.place), "truth", 3, 0, 0, width, height);
    drawMarks(pen, attended(method), "kept", 3, 0, 0, width, height, 7);
    if (state.cell >= 0 && number === state.panel) drawMarks(pen, new Set([state.cell]), "cursor", 3, 0, 0, width, height);
    const kept = countKept(method.video, state.place * cellCount, (state.place + 1) * cellCount);
    const text = method.label + ": " + kept + " of " + cellCount + " patches kept" + (method.merged.includes("video") ? " (kept ones carry what dropped ones held)" : "");
    caption.textContent = text;
    canvas.setAttribute("aria-label", text + " in frame " + data.frames[state.place] + "; arrow keys go through the patches");
  });
  drawScale();
}

// The patches of this frame that the sound token under the cursor attended to most.
function attended(method) {
  if (state.token < 0 || !method.anchors) return new Set();
  return new Set(method.anchors[state.token].filter(([frame]) => frame === data.frames[state.place]).map(([, cell]) => cell));
}

function drawScale() {
  const scale = by("scale");
  scale.textContent = "";
  if (state.view !== "score") return;
  panels.forEach(({ method }) => {
    const kind = kindOf(method.video, state.place * cellCount), range = kind && rangeOf(method.video, kind);
    const part = make("span", scale);
    if (!range) { part.textContent = method.label + " has no scores of the picture. "; return; }
    part.append(method.label + ", " + kindNames[kind] + ": " + range[0]);
    make("i", part).style.background = "linear-gradient(90deg," + heat.map((_, stop) => heatColor(stop / (heat.length - 1), 1)).join(",") + ")";
    part.append(range[1] + ", kept patches framed in white. ");
  });
}

function placeHead() {
  if (!data.grid) return;
  const middle = (timeOfPlace(state.place) + Math.min(endOfPlace(state.place), timeOfPlace(state.place) + data.grid.seconds)) / 2;
  by("head").style.left = (100 * middle) / data.seconds + "%";
}

// The sound token under the cursor.
function placeEar() {
  by("ear").hidden = state.token < 0;
  if (state.token >= 0) by("ear").style.left = (100 * (data.audio.time[state.token] + data.audio.seconds / 2)) / data.seconds + "%";
}

// --- moving --------------------------------------------------------------------------------------------------------

function show(place) {
  if (!data.grid) return;
  state.place = Math.min(data.frames.length - 1, Math.max(0, place));
  const time = timeOfPlace(state.place), text = "frame " + data.frames[state.place] + " of " + data.grid.frames + ", " + time.toFixed(2) + " s, chunk " + chunkOfPlace(state.place);
  by("frame").value = state.place;
  by("frame").setAttribute("aria-valuetext", text + ", " + panels.map(({ caption, method }) => method.label + " keeps " + countKept(method.video, state.place * cellCount, (state.place + 1) * cellCount)).join(", ") + " of " + cellCount + " patches");
  by("where").textContent = text;
  drawPanels();
  placeHead();
  reveal(time);
}

// Scrolls the time axis so that this moment is in sight.
function reveal(time) {
  const box = by("timeline"), x = (time / data.seconds) * box.scrollWidth;
  if (x < box.scrollLeft || x > box.scrollLeft + box.clientWidth - 60) box.scrollLeft = x - box.clientWidth / 2;
}

function point(number, event) {
  const box = panels[number].canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * data.grid.columns), row = Math.floor(((event.clientY - box.top) / box.height) * data.grid.rows);
  if (column < 0 || row < 0 || column >= data.grid.columns || row >= data.grid.rows) return;
  setCell(number, row * data.grid.columns + column);
}

function moveCell(number, down, right) {
  const cell = Math.max(0, state.cell), columns = data.grid.columns;
  const row = Math.min(data.grid.rows - 1, Math.max(0, Math.floor(cell / columns) + down)), column = Math.min(columns - 1, Math.max(0, (cell % columns) + right));
  setCell(number, row * columns + column);
}

function setCell(number, cell) {
  if (state.panel === number && state.cell === cell) return;
  Object.assign(state, { panel: number, cell, token: -1 });
  say(patchText(panels[number].method, state.place, cell));
  drawPanels();
  placeEar();
}

function timeAt(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * data.seconds;
}

function placeAt(time) {
  let found = 0;
  data.frames.forEach((_, place) => { if (timeOfPlace(place) <= time) found = place; });
  return found;
}

function tokenAt(time) {
  let low = 0, high = data.audio.time.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (data.audio.time[middle] <= time) low = middle;
    else high = middle - 1;
  }
  return low;
}

function showToken(index, method) {
  if (index < 0) return;
  Object.assign(state, { token: index, cell: -1 });
  say(soundText(method === undefined ? listened() : chosen[method], index));
  drawPanels();
  placeEar();
}

function moveToken(step) {
  showToken(Math.min(data.audio.time.length - 1, Math.max(0, state.token + step)));
  reveal(data.audio.time[state.token]);
}

// To the frame of the patch that the token attended to most, or else of its time.
function jump(method) {
  if (!data.grid || state.token < 0) return;
  const anchors = (method === undefined ? listened() : chosen[method]).anchors;
  const first = anchors && anchors[state.token][0], place = first ? placeOfFrame(first[0]) : -1;
  show(place >= 0 ? place : placeAt(data.audio.time[state.token]));
}

function soundKey(event) {
  const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -25, PageDown: 25, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Enter") jump();
  else if (move !== undefined) { event.preventDefault(); moveToken(move); }
}

function listen() {
  by("frame").addEventListener("input", (event) => show(Number(event.target.value)));
  by("back").addEventListener("click", () => show(state.place - 1));
  by("next").addEventListener("click", () => show(state.place + 1));
  by("zoom").addEventListener("input", (event) => { state.zoom = Number(event.target.value); drawLanes(); });
  by("method").addEventListener("change", (event) => { state.sound = Number(event.target.value); drawAll(); });
  by("evidence").addEventListener("change", drawAll);
  document.querySelectorAll("input[name=view]").forEach((radio) => radio.addEventListener("change", () => { state.view = radio.value; drawAll(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let waiting = 0;
  addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(drawAll); });
}

async function start() {
  images = await Promise.all(data.pictures.map(load)); // before anything listens: each event draws
  mel = data.sound ? await load(data.sound.mel) : null;
  build();
  show(0);
  drawLanes();
}

start();
