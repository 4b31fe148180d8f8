// The page: its state, and its reactions to pointer, keyboard and sliders.
const byId = (id) => document.getElementById(id);
const state = { position: 0, cell: -1, panel: 0, token: -1, view: "kept", audioMethod: 0, zoom: 1 };
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

function outlined() { return data.evidence !== null && byId("evidence").checked; }

function announce(text) { byId("detail").textContent = text; }

// --- building ------------------------------------------------------------------------------------------------------

function build() {
  byId("scrubber").hidden = byId("views").hidden = !data.grid;
  byId("outline").hidden = data.evidence === null;
  byId("listen").hidden = data.wave === null || chosen.length < 2;
  byId("frame").max = Math.max(0, data.frames.length - 1);
  chosen.forEach((method, index) => { make("option", byId("method"), { value: index }).textContent = method.label; });
  if (data.grid) for (const method of chosen) buildPanel(method);
  buildLanes();
  make("div", byId("lanes"), { id: "frameCursor" }).hidden = !data.grid;
  make("div", byId("lanes"), { id: "audioCursor" }).hidden = true;
  addListeners();
}

function buildPanel(method) {
  const figure = make("figure", byId("panels")), caption = make("figcaption", figure);
  const canvas = make("canvas", figure, { tabindex: 0, role: "application", "aria-roledescription": "grid of patches" });
  const number = panels.push({ method, canvas, caption }) - 1;
  canvas.addEventListener("pointermove", (event) => pointAt(number, event));
  canvas.addEventListener("pointerdown", (event) => pointAt(number, event));
  canvas.addEventListener("pointerleave", () => { state.cell = -1; drawPanels(); });
  canvas.addEventListener("focus", () => { if (state.cell < 0 || state.panel !== number) moveCell(number, 0, 0); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) { event.preventDefault(); moveCell(number, ...step); }
  });
}

function lane(title, height, draw, label) {
  if (title) make("div", byId("lanes"), { class: "lane" }).textContent = title;
  const canvas = make("canvas", byId("lanes"), label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" });
  lanes.push({ canvas, height, draw });
  return canvas;
}

function buildLanes() {
  lane("", 20, (pen, width, height) => drawAxis(pen, width, height));
  if (data.grid) {
    for (const method of chosen) {
      const canvas = lane(method.label + ": frames", stripHeight, (pen, width, height) => drawStrip(pen, images, method, state.view, outlined(), width, height), "Frames with the patches that " + method.label + " keeps; the slider above moves through them");
      canvas.addEventListener("pointerdown", (event) => { showFrame(positionAt(timeAt(event))); });
    }
  }
  if (data.wave !== null) buildSound();
  buildText();
}

function buildSound() {
  audioLane(lane("Waveform, kept parts in colour", 56, (pen, width, height) => drawWave(pen, audioMethod(), width, height), "Waveform"));
  const canvas = lane("Mel spectrogram, dropped parts dimmed", 84, (pen, width, height) => drawMel(pen, mel, audioMethod(), width, height));
  canvas.removeAttribute("aria-hidden");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Mel spectrogram; left and right move through the audio tokens");
  canvas.addEventListener("keydown", audioKey);
  canvas.addEventListener("focus", () => { if (state.token < 0) moveToken(0); });
  audioLane(canvas);
  chosen.forEach((method, index) => {
    const title = method.label + (method.audio === null ? ": audio tokens, all read" : ": audio tokens by score, dropped ones pale") + (method.merged.includes("audio") ? ", dropped ones are merged into kept ones" : "");
    audioLane(lane(title, 40, (pen, width, height) => drawScores(pen, method, outlined(), width, height), title), index);
  });
}

function audioLane(canvas, index) {
  const point = (event) => { showToken(tokenAt(timeAt(event)), index); };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", (event) => { point(event); jump(index); });
}

// --- drawing -------------------------------------------------------------------------------------------------------

// The height of a frame that is as wide as its time span.
function stripHeight(width) {
  const space = (width * (endTime(0) - startTime(0))) / data.seconds;
  return Math.round(Math.max(16, Math.min(110, ((space - 1) * data.size[1]) / data.size[0])));
}

function audioMethod() { return chosen[state.audioMethod]; }

function drawAll() {
  drawPanels();
  drawLanes();
}

function drawLanes() {
  const space = byId("timeline").clientWidth;
  const roomy = data.grid ? Math.max(space, data.frames.length * 56) : space;
  const width = Math.min(30000, roomy * state.zoom);
  byId("lanes").style.width = width + "px";
  for (const { canvas, height, draw } of lanes) {
    const tall = typeof height === "function" ? height(width) : height;
    draw(sized(canvas, width, tall), width, tall);
  }
  placeText(width);
  moveFrameCursor();
}

function drawPanels() {
  if (!data.grid) return;
  panels.forEach(({ method, canvas, caption }, number) => {
    const width = canvas.clientWidth || 300, height = Math.round((width * data.size[1]) / data.size[0]);
    const pen = sized(canvas, width, height);
    drawFrame(pen, images, method, state.position, state.view, 0, 0, width, height);
    if (outlined()) drawMarks(pen, evidenceCells(state.position), "truth", 3, 0, 0, width, height);
    drawMarks(pen, attended(method), "kept", 3, 0, 0, width, height, 7);
    if (state.cell >= 0 && number === state.panel) drawMarks(pen, new Set([state.cell]), "cursor", 3, 0, 0, width, height);
    const kept = countKept(method.video, state.position * cellCount, (state.position + 1) * cellCount);
    const text = method.label + ": " + kept + " of " + cellCount + " patches kept" + (method.merged.includes("video") ? " (dropped ones are merged into kept ones)" : "");
    caption.textContent = text;
    canvas.setAttribute("aria-label", text + " in frame " + frameNumber(data.frames[state.position]) + "; arrow keys move through the patches");
  });
  drawScale();
}

// The patches of this frame that the selected audio token attends to most.
function attended(method) {
  if (state.token < 0 || !method.anchors) return new Set();
  return new Set(method.anchors[state.token].filter(([frame]) => frame === data.frames[state.position]).map(([, cell]) => cell));
}

function drawScale() {
  const scale = byId("scale");
  scale.textContent = "";
  if (state.view !== "score") return;
  panels.forEach(({ method }) => {
    const kind = kindOf(method.video, state.position * cellCount), range = kind && rangeOf(method.video, kind);
    const part = make("span", scale);
    if (!range) { part.textContent = method.label + " has no video scores. "; return; }
    part.append(method.label + ", " + kindNames[kind] + ": " + range[0]);
    make("i", part).style.background = "linear-gradient(90deg," + heat.map((_, stop) => heatColor(stop / (heat.length - 1), 1)).join(",") + ")";
    part.append(range[1] + ", kept patches outlined in white. ");
  });
}

function moveFrameCursor() {
  if (!data.grid) return;
  const middle = (startTime(state.position) + Math.min(endTime(state.position), startTime(state.position) + data.grid.seconds)) / 2;
  byId("frameCursor").style.left = (100 * middle) / data.seconds + "%";
}

// Mark the selected audio token.
function moveAudioCursor() {
  byId("audioCursor").hidden = state.token < 0;
  if (state.token >= 0) byId("audioCursor").style.left = (100 * (data.audio.time[state.token] + data.audio.seconds / 2)) / data.seconds + "%";
}

// --- moving --------------------------------------------------------------------------------------------------------

function showFrame(position) {
  if (!data.grid) return;
  state.position = Math.min(data.frames.length - 1, Math.max(0, position));
  const time = startTime(state.position), text = "frame " + frameNumber(data.frames[state.position]) + " of " + data.grid.frames + ", " + time.toFixed(2) + " s, chunk " + (chunkAtPosition(state.position) + 1) + " of " + data.chunks.length;
  byId("frame").value = state.position;
  byId("frame").setAttribute("aria-valuetext", text + ", " + panels.map(({ caption, method }) => method.label + " keeps " + countKept(method.video, state.position * cellCount, (state.position + 1) * cellCount)).join(", ") + " of " + cellCount + " patches");
  byId("where").textContent = text;
  drawPanels();
  moveFrameCursor();
  reveal(time);
}

// Scroll the time axis until this moment is visible.
function reveal(time) {
  const box = byId("timeline"), x = (time / data.seconds) * box.scrollWidth;
  if (x < box.scrollLeft || x > box.scrollLeft + box.clientWidth - 60) box.scrollLeft = x - box.clientWidth / 2;
}

function pointAt(number, event) {
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
  announce(patchText(panels[number].method, state.position, cell));
  drawPanels();
  moveAudioCursor();
}

function timeAt(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * data.seconds;
}

function positionAt(time) {
  let latest = 0;
  data.frames.forEach((_, position) => { if (startTime(position) <= time) latest = position; });
  return latest;
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
  announce(audioText(method === undefined ? audioMethod() : chosen[method], index));
  drawPanels();
  moveAudioCursor();
}

function moveToken(step) {
  showToken(Math.min(data.audio.time.length - 1, Math.max(0, state.token + step)));
  reveal(data.audio.time[state.token]);
}

// Move to the frame of the patch that the token attends to most, or to the frame of its time.
function jump(method) {
  if (!data.grid || state.token < 0) return;
  const anchors = (method === undefined ? audioMethod() : chosen[method]).anchors;
  const first = anchors && anchors[state.token][0], position = first ? positionOfFrame(first[0]) : -1;
  showFrame(position >= 0 ? position : positionAt(data.audio.time[state.token]));
}

function audioKey(event) {
  const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -25, PageDown: 25, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Enter") jump();
  else if (move !== undefined) { event.preventDefault(); moveToken(move); }
}

function addListeners() {
  byId("frame").addEventListener("input", (event) => showFrame(Number(event.target.value)));
  byId("back").addEventListener("click", () => showFrame(state.position - 1));
  byId("next").addEventListener("click", () => showFrame(state.position + 1));
  byId("zoom").addEventListener("input", (event) => { state.zoom = Number(event.target.value); drawLanes(); });
  byId("method").addEventListener("change", (event) => { state.audioMethod = Number(event.target.value); drawAll(); });
  byId("evidence").addEventListener("change", drawAll);
  document.querySelectorAll("input[name=view]").forEach((radio) => radio.addEventListener("change", () => { state.view = radio.value; drawAll(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let waiting = 0;
  addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(drawAll); });
}

async function start() {
  images = await Promise.all(data.images.map(load)); // before any listener is added: each event draws
  mel = data.wave ? await load(data.wave.mel) : null;
  build();
  showFrame(0);
  drawLanes();
}

// In a frame, the surrounding page is told the height, so that the frame needs no scrollbar. It also asks for it, because
// observers pause while the frame is out of view.
function sendHeight() { parent.postMessage({ reportHeight: document.body.offsetHeight }, "*"); }

if (parent !== window) {
  new ResizeObserver(sendHeight).observe(document.body);
  addEventListener("message", sendHeight);
}
start().then(() => { if (parent !== window) sendHeight(); });
