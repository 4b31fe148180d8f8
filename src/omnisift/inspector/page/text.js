// Lines of text at their times: for each method a lane, in which dropped tokens are struck out.
const textLanes = [];
const TEXT_ROWS = 4, TEXT_ROW = 20;

function textLabel(method, index) {
  const chunk = data.text.chunk[index], word = textLanes[0].words[index];
  let text = method.label + ": text \u201c" + word.textContent.trim() + "\u201d at " + word.parentElement.dataset.time + " s";
  if (chunk === undefined || method.text === null) return text + ", read without selection";
  const rank = chunk < 0 ? "" : " of " + data.chunks[chunk][4] + " in its chunk";
  return text + (chunk < 0 ? ", outside chunks" : ", chunk " + (chunk + 1)) + ", " + scoreText(method.text, index, rank);
}

function buildText() {
  if (!data.text.lines.length) return;
  for (const method of chosen) {
    const title = method.label + ": text, dropped tokens struck out";
    make("div", byId("lanes"), { class: "lane" }).textContent = title;
    const lane = make("div", byId("lanes"), { class: "text", tabindex: 0, role: "application", "aria-label": title + "; left and right move through the tokens" });
    const words = [], boxes = [], state = { at: -1 };
    for (const [start, pieces] of data.text.lines) {
      const box = make("span", lane, { "data-time": start });
      boxes.push([start, box]);
      for (const piece of pieces) {
        const dropped = method.text !== null && method.text.kept[words.length] === "0";
        const word = make(dropped ? "s" : "span", box, { "data-index": words.length });
        word.textContent = piece;
        words.push(word);
      }
    }
    textLanes.push({ lane, words, boxes });
    const show = (index) => {
      if (state.at >= 0) words[state.at].classList.remove("at");
      state.at = index;
      words[index].classList.add("at");
      words[index].title = textLabel(method, index);
      announce(words[index].title);
    };
    const point = (event) => { if (event.target.dataset.index !== undefined) show(Number(event.target.dataset.index)); };
    lane.addEventListener("pointerover", point);
    lane.addEventListener("pointerdown", point);
    lane.addEventListener("focus", () => { if (state.at < 0) show(0); });
    lane.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(Math.min(words.length - 1, Math.max(0, state.at + step)));
      reveal(Number(words[state.at].parentElement.dataset.time));
    });
  }
}

// Put each line at its time, in the first row with room; those without room appear when the axis is zoomed.
function placeText(width) {
  for (const { lane, boxes } of textLanes) {
    for (const [, box] of boxes) box.hidden = false;
    const wide = boxes.map(([, box]) => box.offsetWidth), ends = [];
    boxes.forEach(([start, box], number) => {
      const x = Math.max(0, Math.min((start / data.seconds) * width, width - wide[number]));
      let row = ends.findIndex((end) => end <= x);
      if (row < 0) row = ends.length;
      box.hidden = row >= TEXT_ROWS;
      if (box.hidden) return;
      ends[row] = x + wide[number] + 4;
      box.style.left = x + "px";
      box.style.top = row * TEXT_ROW + "px";
    });
    lane.style.height = ends.length * TEXT_ROW + 4 + "px";
  }
}
