"use strict";
// The recorded decisions, and functions that look them up.
const data = JSON.parse(document.getElementById("data").textContent);
const chosen = data.methods.filter((method) => method.name !== "none");
const cellCount = data.grid ? data.grid.rows * data.grid.columns : 0;
const kindNames = { spatial: "spatial saliency", temporal: "temporal saliency", learned: "learned score", selector: "selector score", method: "score", track: "text score" };

// Frames and chunks are numbered from 1 on the page.
function frameNumber(frame) { return frame + 1; }

function positionOfFrame(frame) { return data.frames.indexOf(frame); }

function startTime(position) { return data.frames[position] * data.grid.seconds; }

// A frame represents the clip until the next shown frame.
function endTime(position) { return position + 1 < data.frames.length ? startTime(position + 1) : Math.max(data.seconds, startTime(position) + data.grid.seconds); }

function chunkAt(time) {
  let latest = -1;
  data.chunks.forEach((chunk, number) => { if (chunk[0] <= time + 1e-6) latest = number; });
  return latest;
}

function chunkAtPosition(position) { return chunkAt(startTime(position) + data.grid.seconds / 2); }

function isKept(column, index) { return column === null || column.kept[index] === "1"; }

function kindOf(column, index) { return column === null ? "" : data.kinds[Number(column.kind[index])]; }

// Lowest and highest score of each kind, per method and modality.
const ranges = new Map();
function rangeOf(column, kind) {
  if (!ranges.has(column)) {
    const byKind = {};
    column.score.forEach((score, index) => {
      if (score === null) return;
      const range = (byKind[kindOf(column, index)] ||= [Infinity, -Infinity]);
      range[0] = Math.min(range[0], score);
      range[1] = Math.max(range[1], score);
    });
    ranges.set(column, byKind);
  }
  return ranges.get(column)[kind];
}

// The score scaled to 0..1 within its kind.
function levelOf(column, index) {
  const [low, high] = rangeOf(column, kindOf(column, index));
  return high > low ? (column.score[index] - low) / (high - low) : 1;
}

function evidenceCells(position) {
  const cells = new Set();
  for (const event of data.evidence || []) {
    if (event.kind !== "shape") continue;
    for (const [frame, cell] of event.where) if (frame === data.frames[position]) cells.add(cell);
  }
  return cells;
}

function evidenceAudio() {
  return new Map((data.evidence || []).filter((event) => event.kind === "sound").flatMap((event) => event.where.map((index) => [index, event.name])));
}

function countKept(column, from, to) {
  let kept = 0;
  for (let index = from; index < to; index++) kept += isKept(column, index);
  return kept;
}

function scoreText(column, index, of) {
  if (column === null) return "read without selection";
  const kept = isKept(column, index) ? "kept" : "dropped";
  if (column.score[index] === null) return kept + ", no score";
  return kindNames[kindOf(column, index)] + " " + column.score[index] + ", rank " + column.rank[index] + of + ", " + kept;
}

function patchText(method, position, cell) {
  const row = Math.floor(cell / data.grid.columns), column = cell % data.grid.columns;
  let text = method.label + ": patch in row " + (row + 1) + ", column " + (column + 1) + " of frame " + frameNumber(data.frames[position]);
  text += ", " + scoreText(method.video, position * cellCount + cell, " of " + cellCount + " in its frame");
  return text + (evidenceCells(position).has(cell) ? ". Evidence of the answer" : "");
}

function audioText(method, index) {
  const chunk = data.audio.chunk[index];
  let text = method.label + ": audio at " + data.audio.time[index].toFixed(2) + " s";
  text += chunk < 0 ? ", outside chunks" : ", chunk " + (chunk + 1);
  text += ", " + scoreText(method.audio, index, chunk < 0 ? "" : " of " + data.chunks[chunk][3] + " in its chunk");
  const anchors = method.anchors ? method.anchors[index] : [];
  if (anchors.length) {
    const named = anchors.map(([frame, cell, share]) => "row " + (Math.floor(cell / data.grid.columns) + 1) + ", column " + (cell % data.grid.columns + 1) + " of frame " + frameNumber(frame) + " (" + share + " %)");
    text += ". Attends most to " + named.join("; ");
  }
  const name = evidenceAudio().get(index);
  return text + (name ? ". Evidence of the answer: " + name : "");
}
