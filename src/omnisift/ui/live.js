// The Live tab: sends the camera's images and the microphone's samples to the page's server, and shows its answers.
(() => {
  const IMAGE_MS = 300, SIDE = 640, WAITING = 40, MAX_SENT = 24, IMAGE = 0, SAMPLES = 1;
  let live = null;

  const at = (id) => document.getElementById(id);
  const say = (text, isError = false) => {
    at("live-message").textContent = text;
    at("live-message").classList.toggle("error", isError && text !== "");
  };

  async function post(path, body, session = "") {
    const options = {method: "POST", body, headers: {"x-live-session": session}};
    const answer = await fetch("live/" + path, options);
    const text = await answer.text();
    const isJson = answer.headers.get("content-type")?.startsWith("application/json");
    const result = isJson ? JSON.parse(text) : {error: text.trim()};
    if (answer.ok && !result.error) return result;
    throw Object.assign(new Error(result.error || "the server answers " + answer.status), {ended: answer.status === 410});
  }

  // Why the browser gives no camera; null if it may.
  function missing() {
    if (navigator.mediaDevices?.getUserMedia) return null;
    const port = location.port ? ":" + location.port : "";
    return "This browser gives camera and microphone only to pages at localhost or over https, and this page was opened "
      + `at ${location.origin}. Open http://localhost${port} on the machine of the server, or forward its port to yours.`;
  }

  const REASONS = {
    NotAllowedError: "Camera or microphone are not allowed. Allow them for this page in the browser, then start again.",
    NotFoundError: "No camera or microphone was found. Connect one; without a microphone, untick it.",
    NotReadableError: "Another program uses the camera or the microphone. Close it, then start again.",
    OverconstrainedError: "The camera has no suitable size. Choose another camera in the browser.",
  };

  async function start() {
    if (live) return;
    const reason = missing();
    if (reason) return say(reason, true);
    at("live-start").disabled = true;
    say("Waiting for the camera.");
    update({seconds: 0, held_tokens: 0, held_seconds: 0, behind_seconds: 0, dropped_seconds: 0, notices: []}, 0);
    at("live-answers").replaceChildren();
    const audio = at("live-audio").checked;
    const one = live = {waiting: [], sending: false, sent: null, unsent: 0, session: "", tracks: []};
    try {
      const sound = {channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false};
      const media = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: SIDE}}, audio: audio && sound});
      one.tracks = media.getTracks();
      for (const track of one.tracks) track.onended = () => stop("The camera or the microphone was disconnected.");
      await show(media, one);
      await listen(audio ? media : null, one);
      const settings = {model: at("live-model").value, percent: Number(at("live-percent").value), audio};
      one.session = (await post("start", JSON.stringify(settings))).session;
      if (live !== one) return void post("stop", "{}", one.session);  // the camera was disconnected meanwhile
      one.origin = one.now();
      one.timer = setInterval(() => tick(one), IMAGE_MS);
      say("Live.");
      switchButtons(true);
    } catch (error) {
      if (live !== one) return;
      release(one);
      say(REASONS[error.name] || error.message, true);
    }
  }

  async function show(media, one) {
    const video = one.video = document.createElement("video");
    Object.assign(video, {muted: true, playsInline: true, srcObject: media});
    video.setAttribute("aria-label", "The camera's image");
    at("live-preview").replaceChildren(video);
    await video.play();
  }

  // One clock for images and sound: that of the sound, or the browser's without a microphone.
  async function listen(media, one) {
    one.now = () => performance.now() / 1000;
    if (!media) return;
    const context = one.context = new AudioContext();
    await context.audioWorklet.addModule("live/live_microphone.js");
    const node = new AudioWorkletNode(context, "microphone", {numberOfOutputs: 0});
    node.port.onmessage = ({data}) => {
      if (one.origin !== undefined && data.time >= one.origin) add(one, data.time - one.origin, SAMPLES, data.samples);
    };
    context.createMediaStreamSource(media).connect(node);
    await context.resume();
    one.now = () => context.currentTime;
  }

  async function tick(one) {
    const {video} = one, time = one.now() - one.origin;
    const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
    const canvas = one.canvas ??= document.createElement("canvas");
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    if (canvas.width && canvas.height) {
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
      if (blob) add(one, time, IMAGE, new Uint8Array(await blob.arrayBuffer()));
    }
    send(one);
  }

  // A message: its length, then time, kind and content. The oldest waiting ones make room.
  function add(one, time, kind, content) {
    const bytes = new Uint8Array(content.buffer, content.byteOffset, content.byteLength);
    const message = new Uint8Array(13 + bytes.length), view = new DataView(message.buffer);
    view.setUint32(0, 9 + bytes.length, true);
    view.setFloat64(4, Math.max(0, time), true);
    view.setUint8(12, kind);
    message.set(bytes, 13);
    one.waiting.push({time, message});
    while (one.waiting.length > WAITING) {
      const {time: dropped} = one.waiting.shift();
      one.unsent += Math.max(0, one.waiting[0].time - dropped);
    }
  }

  async function send(one) {
    if (one.sending || live !== one) return;
    one.sending = true;
    await (one.sent = sendWaiting(one));
    one.sending = false;
  }

  async function sendWaiting(one) {
    try {
      while (one.waiting.length && live === one) {
        const parts = one.waiting.splice(0, MAX_SENT).map(({message}) => message);
        const status = await post("pieces", new Blob(parts), one.session);
        if (live === one) update(status, one.unsent);
      }
    } catch (error) {
      if (live === one) stop(error.message, !error.ended);
    }
  }

  const seconds = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0)) + " s";

  function update(status, unsent) {
    at("live-seconds").textContent = seconds(status.seconds);
    at("live-tokens").textContent = status.held_tokens;
    at("live-held").textContent = seconds(status.held_seconds);
    at("live-behind").textContent = seconds(status.behind_seconds);
    at("live-dropped").textContent = seconds(status.dropped_seconds + unsent);
    at("live-notices").replaceChildren(...status.notices.map((text) => element("li", text)));
  }

  function element(tag, text, name = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name) made.className = name;
    return made;
  }

  async function ask() {
    const one = live, question = at("live-text").value;
    if (!one?.session) return say("Start the stream first.", true);
    at("live-ask").disabled = true;
    try {
      const body = JSON.stringify({question, follow_up: at("live-follow").checked});
      const answer = await post("ask", body, one.session);
      const card = element("section", "", "card");
      const when = `after ${seconds(answer.time)} of the stream, in ${answer.latency.toFixed(2)} s`;
      card.append(element("h2", question), element("p", answer.text || "(nothing)", "answer"), element("p", when, "when"));
      at("live-answers").prepend(card);
      update(answer.status, one.unsent);
      say("Live.");
    } catch (error) {
      if (error.ended && live === one) stop(error.message, false);
      else say(error.message, true);
    } finally {
      at("live-ask").disabled = !live?.session;
    }
  }

  async function forget() {
    try {
      update(await post("forget", "{}", live.session), live.unsent);
      at("live-answers").replaceChildren();
      say("The dialogue is forgotten; the stream goes on.");
    } catch (error) {
      say(error.message, true);
    }
  }

  function release(one) {
    clearInterval(one.timer);
    for (const track of one.tracks) Object.assign(track, {onended: null}).stop();
    one.context?.close();
    live = null;
    at("live-preview").replaceChildren(Object.assign(element("p", "The camera's image appears here."), {className: "empty"}));
    switchButtons(false);
  }

  function switchButtons(isLive) {
    for (const id of ["live-stop", "live-ask", "live-forget"]) at(id).disabled = !isLive;
    for (const id of ["live-start", "live-model", "live-percent", "live-audio"]) at(id).disabled = isLive;
  }

  // `tellServer` is false where the server has ended the stream itself.
  async function stop(text, tellServer = true) {
    const one = live;
    if (!one) return;
    release(one);
    say(text, text !== "Stopped.");
    if (!tellServer || !one.session) return;
    try {
      await one.sent;  // pieces that arrive after the end would be refused
      update(await post("stop", "{}", one.session), one.unsent);
    } catch (error) {
      if (!error.ended) say(error.message, true);
    }
  }

  // Gradio builds the tab when it is opened, so the document listens for its elements.
  document.addEventListener("click", ({target}) => {
    const id = target.closest?.("button")?.id;
    if (id === "live-start") start();
    else if (id === "live-stop") stop("Stopped.");
    else if (id === "live-forget") forget();
  });
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "live-form") return;
    event.preventDefault();
    ask();
  });
  addEventListener("pagehide", () => {
    if (live?.session) fetch("live/stop", {method: "POST", body: "{}", keepalive: true, headers: {"x-live-session": live.session}});
  });
})();
