"use strict";
// What was kept, as the library recorded it, and the questions that the page asks of it.
const data = JSON.parse(document.getElementById("data").textContent);
const chosen = data.methods.filter((method) => method.name !== "none");
const cellCount = data.grid ? data.grid.rows * data.grid.columns : 0;
const kindNames = { spatial: "spatial saliency", temporal: "temporal saliency", learned: "learned score", selector: "selector score", method: "score" };

function placeOfFrame(frame) { return data.frames.indexOf(frame); }

function timeOfPlace(place) { return data.frames[place] * data.grid.seconds; }

// Until when a frame stands for the clip: to the next one that is shown.
function endOfPlace(place) { return place + 1 < data.frames.length ? timeOfPlace(place + 1) : Math.max(data.seconds, timeOfPlace(place) + data.grid.seconds); }

function chunkAt(time) {
  let found = -1;
  data.chunks.forEach((chunk, number) => { if (chunk[0] <= time + 1e-6) found = number; });
  return found;
}

function chunkOfPlace(place) { return chunkAt(timeOfPlace(place) + data.grid.seconds / 2); }

function isKept(column, index) { return column === null || column.kept[index] === "1"; }

function kindOf(column, index) { return column === null ? "" : data.kinds[Number(column.kind[index])]; }

// Smallest and largest score of each kind, by method and modality.
const ranges = new Map();
function rangeOf(column, kind) {
  if (!ranges.has(column)) {
    const found = {};
    column.score.forEach((score, index) => {
      if (score === null) return;
      const range = (found[kindOf(column, index)] ||= [Infinity, -Infinity]);
      range[0] = Math.min(range[0], score);
      range[1] = Math.max(range[1], score);
    });
    ranges.set(column, found);
  }
  return ranges.get(column)[kind];
}

// 0 to 1 within its kind.
function levelOf(column, index) {
  const [low, high] = rangeOf(column, kindOf(column, index));
  return high > low ? (column.score[index] - low) / (high - low) : 1;
}

function evidenceCells(place) {
  const cells = new Set();
  for (const event of data.evidence || []) {
    if (event.kind !== "shape") continue;
    for (const [frame, cell] of event.where) if (frame === data.frames[place]) cells.add(cell);
  }
  return cells;
}

function evidenceSounds() {
  return new Map((data.evidence || []).filter((event) => event.kind === "sound").flatMap((event) => event.where.map((index) => [index, event.name])));
}

function countKept(column, from, to) {
  let kept = 0;
  for (let index = from; index < to; index++) kept += isKept(column, index);
  return kept;
}

function scoreText(column, index, of) {
  if (column === null) return "read whole, without a score";
  const kept = isKept(column, index) ? "kept" : "dropped";
  if (column.score[index] === null) return kept + ", without a score";
  return kindNames[kindOf(column, index)] + " " + column.score[index] + ", rank " + column.rank[index] + of + ", " + kept;
}

function patchText(method, place, cell) {
  const row = Math.floor(cell / data.grid.columns), column = cell % data.grid.columns;
  let text = method.label + ": patch in row " + (row + 1) + ", column " + (column + 1) + " of frame " + data.frames[place];
  text += ", " + scoreText(method.video, place * cellCount + cell, " of " + cellCount + " in its frame");
  return text + (evidenceCells(place).has(cell) ? ". Evidence of the answer" : "");
}

function soundText(method, index) {
  const chunk = data.audio.chunk[index];
  let text = method.label + ": sound at " + data.audio.time[index].toFixed(2) + " s";
  text += chunk < 0 ? ", outside chunks" : ", chunk " + chunk;
  text += ", " + scoreText(method.audio, index, chunk < 0 ? "" : " of " + data.chunks[chunk][3] + " in its chunk");
  const anchors = method.anchors ? method.anchors[index] : [];
  if (anchors.length) {
    const named = anchors.map(([frame, cell, share]) => "row " + (Math.floor(cell / data.grid.columns) + 1) + ", column " + (cell % data.grid.columns + 1) + " of frame " + frame + " (" + share + " %)");
    text += ". Attended most to " + named.join("; ");
  }
  const name = evidenceSounds().get(index);
  return text + (name ? ". Evidence of the answer: " + name : "");
}
