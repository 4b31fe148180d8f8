// Drawing: frames with patches, the time axis, the audio. Colours come from the style sheet and follow its theme.
const heat = [[48, 18, 59], [70, 107, 227], [40, 187, 180], [164, 233, 62], [251, 185, 56], [202, 42, 4]];

function heatColor(level, alpha) {
  const at = Math.min(0.9999, Math.max(0, level)) * (heat.length - 1), low = Math.floor(at), part = at - low;
  const mix = heat[low].map((value, channel) => Math.round(value + part * (heat[low + 1][channel] - value)));
  return "rgba(" + mix.join(",") + "," + alpha + ")";
}

function color(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }

function isDark() { return matchMedia("(prefers-color-scheme: dark)").matches; }

// Size a canvas in CSS pixels, sharp on dense screens and within the width that browsers allow.
function sized(canvas, width, height) {
  const density = Math.min(window.devicePixelRatio || 1, 16000 / width);
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

function eachCell(x, y, width, height, paint) {
  const w = width / data.grid.columns, h = height / data.grid.rows;
  for (let cell = 0; cell < cellCount; cell++) paint(cell, x + (cell % data.grid.columns) * w, y + Math.floor(cell / data.grid.columns) * h, w, h);
}

// Draw one frame with a method's decision into a rectangle.
function drawFrame(pen, images, method, position, view, x, y, width, height) {
  pen.drawImage(images[position], x, y, width, height);
  const column = method.video;
  if (view === "plain" || column === null) return;
  eachCell(x, y, width, height, (cell, left, top, w, h) => {
    const index = position * cellCount + cell;
    if (view === "kept") {
      if (isKept(column, index)) return;
      pen.fillStyle = isDark() ? "rgba(15,17,20,.8)" : "rgba(250,250,248,.8)";
    } else {
      pen.fillStyle = column.score[index] === null ? "rgba(128,128,128,.7)" : heatColor(levelOf(column, index), 0.72);
    }
    pen.fillRect(left, top, w, h);
  });
  if (view === "score") drawKeptBorders(pen, column, position, x, y, width, height);
}

function drawKeptBorders(pen, column, position, x, y, width, height) {
  if (width < 120) return;
  pen.lineWidth = 1.5;
  pen.strokeStyle = "#ffffff";
  eachCell(x, y, width, height, (cell, left, top, w, h) => {
    if (isKept(column, position * cellCount + cell)) pen.strokeRect(left + 5, top + 5, w - 10, h - 10);
  });
}

function drawMarks(pen, cells, style, thick, x, y, width, height, inset = 0) {
  pen.strokeStyle = color(style);
  pen.lineWidth = thick;
  eachCell(x, y, width, height, (cell, left, top, w, h) => {
    if (cells.has(cell)) pen.strokeRect(left + inset + thick / 2, top + inset + thick / 2, w - 2 * inset - thick, h - 2 * inset - thick);
  });
}

function drawBorders(pen, width, height) {
  pen.strokeStyle = color("soft");
  pen.globalAlpha = 0.55;
  pen.setLineDash([3, 3]);
  pen.lineWidth = 1;
  for (const [start] of data.chunks.slice(1)) {
    const x = Math.round((start / data.seconds) * width) + 0.5;
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, height);
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

function drawAxis(pen, width, height) {
  const steps = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600];
  const step = steps.find((one) => (one / data.seconds) * width >= 48) || 3600;
  pen.fillStyle = color("soft");
  pen.font = "12px system-ui, sans-serif";
  for (let time = 0; time <= data.seconds + 1e-6; time += step) {
    const x = (time / data.seconds) * width;
    pen.fillRect(Math.min(x, width - 1), height - 6, 1, 6);
    const text = time + " s", wide = pen.measureText(text).width;
    pen.fillText(text, Math.max(1, Math.min(x - wide / 2, width - wide - 1)), 12);
  }
}

function drawStrip(pen, images, method, view, outlined, width, height) {
  for (let position = 0; position < data.frames.length; position++) {
    const x = (startTime(position) / data.seconds) * width, space = ((endTime(position) - startTime(position)) / data.seconds) * width;
    const fit = Math.min((space - 1) / data.size[0], height / data.size[1]), w = data.size[0] * fit, h = data.size[1] * fit;
    if (w <= 0) continue;
    drawFrame(pen, images, method, position, view, x, (height - h) / 2, w, h);
    if (outlined) drawMarks(pen, evidenceCells(position), "truth", 1.5, x, (height - h) / 2, w, h);
  }
  drawBorders(pen, width, height);
}

// Call paint for each run of consecutive tokens with the same decision: fewer rectangles, no seams.
function eachRun(column, paint) {
  const count = data.audio.time.length;
  for (let start = 0; start < count; ) {
    let end = start + 1;
    while (end < count && isKept(column, end) === isKept(column, start)) end++;
    const until = end < count ? data.audio.time[end] : data.audio.time[end - 1] + data.audio.seconds;
    paint(isKept(column, start), data.audio.time[start], until);
    start = end;
  }
}

function drawWave(pen, method, width, height) {
  const { low, high, seconds } = data.wave, middle = height / 2;
  const path = new Path2D();
  low.forEach((value, index) => {
    const x = ((index / low.length) * seconds / data.seconds) * width, w = Math.max(1, (seconds / data.seconds / low.length) * width);
    const top = middle - (high[index] / 100) * middle, bottom = middle - (value / 100) * middle;
    path.rect(x, top, w, Math.max(1, bottom - top));
  });
  eachRun(method.audio, (kept, from, until) => {
    pen.save();
    pen.beginPath();
    pen.rect((from / data.seconds) * width, 0, ((until - from) / data.seconds) * width, height);
    pen.clip();
    pen.fillStyle = color(kept ? "kept" : "dropped");
    pen.fill(path);
    pen.restore();
  });
  drawBorders(pen, width, height);
}

function drawMel(pen, image, method, width, height) {
  pen.drawImage(image, 0, 0, (data.wave.seconds / data.seconds) * width, height);
  if (!isDark()) { // invert on light screens
    pen.globalCompositeOperation = "difference";
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, width, height);
    pen.globalCompositeOperation = "source-over";
  }
  pen.fillStyle = isDark() ? "rgba(15,17,20,.68)" : "rgba(250,250,248,.72)";
  eachRun(method.audio, (kept, from, until) => {
    const x = (from / data.seconds) * width, w = ((until - from) / data.seconds) * width;
    if (!kept) pen.fillRect(x, 0, w, height);
  });
  pen.fillStyle = color("kept");
  eachRun(method.audio, (kept, from, until) => {
    if (kept) pen.fillRect((from / data.seconds) * width, height - 4, ((until - from) / data.seconds) * width, 4);
  });
  drawBorders(pen, width, height);
}

function drawScores(pen, method, outlined, width, height) {
  const column = method.audio, base = height - 6, wide = Math.max(0.75, (data.audio.seconds / data.seconds) * width - 0.5);
  data.audio.time.forEach((time, index) => {
    const x = (time / data.seconds) * width, scored = column !== null && column.score[index] !== null;
    const tall = scored ? Math.max(2, levelOf(column, index) * base) : base * 0.5;
    pen.globalAlpha = isKept(column, index) ? 1 : 0.35;
    pen.fillStyle = scored ? heatColor(levelOf(column, index), 1) : color(isKept(column, index) ? "kept" : "dropped");
    pen.fillRect(x, base - tall, wide, tall);
  });
  pen.globalAlpha = 1;
  if (outlined) {
    pen.fillStyle = color("truth");
    for (const index of evidenceAudio().keys()) pen.fillRect((data.audio.time[index] / data.seconds) * width, base + 1, wide, 5);
  }
  drawBorders(pen, width, height);
}
