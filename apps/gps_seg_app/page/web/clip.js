// The annotated clip and the area of the regions over time; a click (or Enter) on the timeline seeks.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [800, 160, 44, 22, 10];

function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export class Clip {
  constructor(host) {
    this.host = host;
    host.className = "gs-clip";
    this.video = document.createElement("video");
    this.video.controls = true;
    this.video.playsInline = true;
    this.video.setAttribute("aria-label", "Annotated clip");
    this.plot = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "gs-timeline", tabindex: "0", role: "slider",
      "aria-label": "Region area over time; arrow keys seek", "aria-valuemin": "0" });
    this.plot.addEventListener("click", (event) => this.seek(this.time(event)));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.video.addEventListener("timeupdate", () => this.mark());
    host.append(this.video, this.plot);
    host.hidden = true;
  }

  put(scene) {
    this.scene = scene;
    this.host.hidden = !scene.source;
    if (!scene.source) return this.video.removeAttribute("src");
    this.video.src = scene.source;
    this.plot.setAttribute("aria-valuemax", scene.seconds.toFixed(1));
    this.trace();
    this.mark();
  }

  x(time) {
    return LEFT + ((WIDTH - LEFT - 8) * time) / Math.max(this.scene.seconds, 0.001);
  }

  y(percent) {
    return HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * percent) / this.top;
  }

  trace() {
    this.top = Math.max(1, ...this.scene.areas) * 1.05;
    const corners = this.scene.times.map((time, index) => `${this.x(time).toFixed(1)},${this.y(this.scene.areas[index]).toFixed(1)}`);
    const first = this.x(this.scene.times[0] || 0);
    const last = this.x(this.scene.times.at(-1) || 0);
    this.plot.replaceChildren(
      draw("line", { x1: LEFT, y1: HEIGHT - BOTTOM, x2: WIDTH - 8, y2: HEIGHT - BOTTOM, class: "gs-axis" }),
      draw("line", { x1: LEFT, y1: TOP, x2: LEFT, y2: HEIGHT - BOTTOM, class: "gs-axis" }),
      draw("polygon", { points: `${first},${HEIGHT - BOTTOM} ${corners.join(" ")} ${last},${HEIGHT - BOTTOM}`, class: "gs-area" }),
      draw("polyline", { points: corners.join(" "), class: "gs-curve" }),
      draw("text", { x: LEFT - 4, y: TOP + 8, "text-anchor": "end" }, `${this.top.toFixed(0)} %`),
      draw("text", { x: LEFT - 4, y: HEIGHT - BOTTOM, "text-anchor": "end" }, "0 %"),
      draw("text", { x: LEFT, y: HEIGHT - 5 }, "0 s"),
      draw("text", { x: WIDTH - 8, y: HEIGHT - 5, "text-anchor": "end" }, `${this.scene.seconds.toFixed(1)} s`),
      draw("text", { x: WIDTH / 2, y: HEIGHT - 5, "text-anchor": "middle" }, "part of the visible field over time; click to seek"),
      (this.hand = draw("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "gs-hand" })),
    );
  }

  time(event) {
    const frame = this.plot.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * WIDTH;
    return ((x - LEFT) / (WIDTH - LEFT - 8)) * this.scene.seconds;
  }

  seek(time) {
    this.video.currentTime = Math.min(Math.max(time, 0), this.scene.seconds);
    this.mark();
  }

  mark() {
    if (!this.hand) return;
    const time = this.video.currentTime;
    this.hand.setAttribute("x1", this.x(time));
    this.hand.setAttribute("x2", this.x(time));
    this.plot.setAttribute("aria-valuenow", time.toFixed(1));
    this.plot.setAttribute("aria-valuetext", `${time.toFixed(1)} seconds`);
  }

  key(event) {
    const steps = { ArrowLeft: -0.5, ArrowRight: 0.5, PageDown: -5, PageUp: 5 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.seek(this.video.currentTime + steps[event.key]);
  }
}
