// Turns the microphone's sound into int16 samples of one channel at 16 kHz.
const RATE = 16000, HALF = 16, PHASES = 128, MESSAGE = 1600;

// A sinc under a Hann window, cut off at the lower of the two Nyquist frequencies: one row per phase.
function kernels(ratio) {
  const width = Math.ceil(HALF * Math.max(1, ratio)), cut = 0.94 / Math.max(1, ratio), rows = [];
  for (let phase = 0; phase < PHASES; phase++) {
    const row = new Float32Array(2 * width);
    let sum = 0;
    for (let tap = 0; tap < 2 * width; tap++) {
      const x = tap - width + 1 - phase / PHASES, angle = Math.PI * x * cut;
      const sinc = Math.abs(angle) < 1e-9 ? 1 : Math.sin(angle) / angle;
      row[tap] = Math.abs(x) >= width ? 0 : sinc * (0.5 + 0.5 * Math.cos(Math.PI * x / width));
      sum += row[tap];
    }
    rows.push(row.map((value) => value / sum));
  }
  return {rows, width};
}

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ratio = sampleRate / RATE;
    Object.assign(this, kernels(this.ratio));
    this.input = new Float32Array(this.width - 1);  // silence before the first sample
    this.place = this.width - 1;  // of the next output sample in `input`
    this.output = new Int16Array(MESSAGE);
    this.filled = 0;
    this.sent = 0;
    this.start = null;
  }

  process([channels]) {
    if (!channels.length) return true;  // the microphone is not connected yet
    this.start ??= currentTime;
    const size = channels[0].length, input = new Float32Array(this.input.length + size);
    input.set(this.input);
    for (const channel of channels)
      for (let at = 0; at < size; at++) input[this.input.length + at] += channel[at] / channels.length;
    let first = Math.floor(this.place);
    while (first + this.width < input.length) {
      const row = this.rows[Math.min(PHASES - 1, Math.round((this.place - first) * PHASES))];
      let value = 0;
      for (let tap = 0; tap < row.length; tap++) value += row[tap] * input[first - this.width + 1 + tap];
      this.add(value);
      this.place += this.ratio;
      first = Math.floor(this.place);
    }
    const unused = Math.max(0, first - this.width + 1);
    this.input = input.slice(unused);
    this.place -= unused;
    return true;
  }

  add(value) {
    this.output[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
    if (this.filled < MESSAGE) return;
    this.port.postMessage({time: this.start + this.sent / RATE, samples: this.output.slice()});
    this.sent += this.filled;
    this.filled = 0;
  }
}

registerProcessor("microphone", Microphone);
