// The picture with its layers. Only drawing happens here: what is drawn comes from the server as a scene, so that the contour on
// the screen is the outline of the mask that is exported. Coordinates are native pixels of the picture throughout.

export const CONTOUR = "#00e5ff";
const HALO = "rgba(0, 0, 0, 0.8)";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export class Stage {
  /** @param {HTMLElement} host  where the stage is built
   *  @param {(gesture: object) => void} tell  what a finished gesture is handed to
   *  @param {() => {tool: string, radius: number}} ask  the tool in hand */
  constructor(host, tell, ask) {
    this.host = host;
    this.tell = tell;
    this.ask = ask;
    this.scene = null;
    this.zoom = 0; // 0: fit
    this.stroke = null;
    this.corner = null;
    this.cross = null;
    this.build();
  }

  build() {
    this.base = make("img", { class: "gs-base", alt: "" });
    this.heat = make("img", { class: "gs-heat", alt: "", "aria-hidden": "true" });
    this.spread = make("img", { class: "gs-heat", alt: "", "aria-hidden": "true" });
    this.canvas = make("canvas", { class: "gs-canvas", tabindex: "0", role: "img" });
    this.layers = make("div", { class: "gs-layers" }, this.heat, this.spread, this.canvas);
    this.inner = make("div", { class: "gs-inner" }, this.base, this.layers);
    this.view = make("div", { class: "gs-view" }, this.inner);
    this.empty = make("p", { class: "gs-empty" }, "No picture yet. Drop one above, paste one, or try an example.");
    this.bar = make("div", { class: "gs-bar", role: "group", "aria-label": "Layers and zoom" });
    this.show = {
      contour: this.check("Contour", true), numbers: this.check("Numbers", true), fill: this.check("Fill", false),
      heat: this.check("Heat map", false), spread: this.check("Disagreement", false),
    };
    this.show.spread.parentElement.hidden = true;
    this.opacity = this.range("Opacity", 40);
    this.wipe = this.range("Before / after", 100);
    this.wipe.title = "100: all layers; 0: the picture alone";
    for (const [text, label, act] of [["−", "Zoom out", () => this.scale(1 / 1.5)], ["Fit", "Fit to the page", () => this.scale(0)],
      ["1:1", "1:1, one picture pixel per screen pixel", () => this.scale("native")], ["+", "Zoom in", () => this.scale(1.5)],
      ["Full", "Full screen", () => this.fullscreen()]]) {
      const button = make("button", { type: "button", "aria-label": label, title: label }, text);
      button.addEventListener("click", act);
      this.bar.append(button);
    }
    this.host.replaceChildren(this.bar, this.empty, this.view);
    this.view.hidden = true;
    this.bar.hidden = true;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.view);
  }

  check(text, on) {
    const box = make("input", { type: "checkbox" });
    box.checked = on;
    box.addEventListener("change", () => this.draw());
    this.bar.append(make("label", {}, box, " " + text));
    return box;
  }

  range(text, value) {
    const slider = make("input", { type: "range", min: "0", max: "100", value: String(value) });
    slider.addEventListener("input", () => this.draw());
    this.bar.append(make("label", {}, text + " ", slider));
    return slider;
  }

  put(scene) {
    const other = !this.scene || this.scene.base !== scene.base;
    this.scene = scene;
    if (!scene.base) {
      this.view.hidden = this.bar.hidden = true;
      this.empty.hidden = false;
      return;
    }
    this.view.hidden = this.bar.hidden = false;
    this.empty.hidden = true;
    if (other) {
      this.base.src = scene.base;
      this.base.onload = () => this.draw();
      this.zoom = 0;
      this.cross = this.corner = null;
      this.show.spread.checked = false;
    }
    this.base.alt = scene.alt;
    this.canvas.setAttribute("aria-label", scene.alt + " Arrow keys move a cross over the picture, Enter uses the tool there.");
    const fresh = Boolean(scene.spread) && this.spread.getAttribute("src") !== scene.spread;
    this.show.spread.parentElement.hidden = !scene.spread;
    if (fresh) this.show.spread.checked = true;
    this.pending = null;
    this.draw();
  }

  scale(factor) {
    const fit = this.view.clientWidth / this.scene.width;
    if (factor === 0) this.zoom = 0;
    else if (factor === "native") this.zoom = 1 / (window.devicePixelRatio || 1);
    else this.zoom = Math.min(16, Math.max(fit / 4, (this.zoom || this.fitted()) * factor));
    this.draw();
  }

  fitted() {
    const tall = document.fullscreenElement === this.host ? window.innerHeight - this.bar.offsetHeight : window.innerHeight * 0.72;
    return Math.min(this.view.clientWidth / this.scene.width, Math.max(220, tall) / this.scene.height);
  }

  fullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.host.requestFullscreen().then(() => this.draw());
  }

  draw() {
    const scene = this.scene;
    if (!scene || !scene.base) return;
    const scale = this.zoom || this.fitted();
    const [width, height] = [Math.max(1, Math.round(scene.width * scale)), Math.max(1, Math.round(scene.height * scale))];
    this.inner.style.width = width + "px";
    this.inner.style.height = height + "px";
    this.layers.style.clipPath = `inset(0 ${100 - Number(this.wipe.value)}% 0 0)`;
    const opacity = Number(this.opacity.value) / 100;
    this.overlay(this.heat, this.show.heat.checked && scene.heat, opacity);
    this.overlay(this.spread, this.show.spread.checked && scene.spread, opacity);
    const dense = Math.min(window.devicePixelRatio || 1, 4096 / Math.max(width, height));
    this.canvas.width = Math.round(width * dense);
    this.canvas.height = Math.round(height * dense);
    const pen = this.canvas.getContext("2d");
    const unit = this.canvas.width / scene.width;
    pen.setTransform(unit, 0, 0, unit, 0, 0);
    this.drawRegions(pen, dense / unit, opacity);
    this.drawPrompts(pen, dense / unit);
  }

  overlay(image, source, opacity) {
    image.hidden = !source;
    image.style.opacity = String(opacity);
    if (source && image.getAttribute("src") !== source) image.src = source;
  }

  drawRegions(pen, pixel, opacity) {
    const path = new Path2D();
    for (const rings of this.scene.polygons) {
      for (const ring of rings) {
        ring.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
        path.closePath();
      }
    }
    if (this.show.fill.checked) {
      pen.globalAlpha = opacity;
      pen.fillStyle = CONTOUR;
      pen.fill(path, "evenodd");
      pen.globalAlpha = 1;
    }
    if (this.show.contour.checked) {
      pen.lineJoin = "round";
      this.line(pen, path, HALO, 5 * pixel);
      this.line(pen, path, CONTOUR, 2 * pixel);
    }
    if (this.show.numbers.checked) for (const region of this.scene.regions) this.number(pen, region, pixel);
  }

  line(pen, path, colour, width) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.stroke(path);
  }

  number(pen, region, pixel) {
    pen.font = `bold ${15 * pixel}px sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const [x, y] = [Math.min(Math.max(region.x, 12 * pixel), this.scene.width - 12 * pixel), Math.max(region.y, 12 * pixel)];
    pen.fillStyle = HALO;
    pen.beginPath();
    pen.arc(x, y, 11 * pixel, 0, 7);
    pen.fill();
    pen.fillStyle = "#ffffff";
    pen.fillText(String(region.id), x, y + pixel);
  }

  drawPrompts(pen, pixel) {
    for (const [x, y, label] of this.scene.points) this.point(pen, x, y, label, pixel);
    const box = this.drawnBox() || this.scene.box;
    if (box) {
      const path = new Path2D();
      path.rect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
      pen.setLineDash([8 * pixel, 5 * pixel]);
      this.line(pen, path, HALO, 4 * pixel);
      this.line(pen, path, "#ffd54a", 2 * pixel);
      pen.setLineDash([]);
    }
    const stroke = this.stroke || this.pending;
    if (stroke && stroke.tool.startsWith("brush")) this.drawStroke(pen, stroke);
    if (this.cross && document.activeElement === this.canvas) this.drawCross(pen, pixel);
  }

  /** A plus for "add" and a minus for "remove": told apart without colour. */
  point(pen, x, y, label, pixel) {
    pen.fillStyle = HALO;
    pen.beginPath();
    pen.arc(x, y, 9 * pixel, 0, 7);
    pen.fill();
    const path = new Path2D();
    path.moveTo(x - 5 * pixel, y);
    path.lineTo(x + 5 * pixel, y);
    if (label) {
      path.moveTo(x, y - 5 * pixel);
      path.lineTo(x, y + 5 * pixel);
    }
    this.line(pen, path, label ? "#7cff9b" : "#ff9e80", 2.5 * pixel);
  }

  drawStroke(pen, stroke) {
    pen.strokeStyle = stroke.tool === "brush add" ? "rgba(124, 255, 155, 0.55)" : "rgba(255, 158, 128, 0.55)";
    pen.lineWidth = 2 * stroke.radius;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    stroke.points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.lineTo(stroke.points.at(-1)[0] + 0.01, stroke.points.at(-1)[1]);
    pen.stroke();
  }

  drawCross(pen, pixel) {
    const [x, y] = this.cross;
    const path = new Path2D();
    path.moveTo(x - 14 * pixel, y);
    path.lineTo(x + 14 * pixel, y);
    path.moveTo(x, y - 14 * pixel);
    path.lineTo(x, y + 14 * pixel);
    this.line(pen, path, HALO, 4 * pixel);
    this.line(pen, path, "#ffffff", 1.5 * pixel);
  }

  drawnBox() {
    if (!this.corner) return null;
    const [[x0, y0], [x1, y1]] = [this.corner, this.at || this.corner];
    return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  }

  place(event) {
    const frame = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * this.scene.width;
    const y = ((event.clientY - frame.top) / frame.height) * this.scene.height;
    return [Math.min(Math.max(x, 0), this.scene.width - 0.01), Math.min(Math.max(y, 0), this.scene.height - 0.01)];
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => this.drop());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
  }

  down(event) {
    const { tool, radius } = this.ask();
    if (event.button !== 0 || tool === "look") return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const here = this.place(event);
    this.stroke = { tool, radius, points: [here] };
    this.cross = null;
    if (tool === "box" && !this.corner) this.corner = here;
    this.at = here;
    this.draw();
  }

  move(event) {
    if (!this.scene) return;
    const { tool } = this.ask();
    if (this.corner && tool !== "box") this.drop(); // another tool was taken: no half a box stays
    this.at = this.place(event);
    if (this.stroke) {
      const last = this.stroke.points.at(-1);
      const far = Math.hypot(this.at[0] - last[0], this.at[1] - last[1]) > Math.max(1, this.stroke.radius / 4);
      if (this.stroke.tool.startsWith("brush") && far && this.stroke.points.length < 2000) this.stroke.points.push(this.at);
    }
    if (this.stroke || this.corner) this.draw();
  }

  /** Another tool: a touch must know at its start whether it draws or scrolls. */
  taken() {
    this.canvas.classList.toggle("gs-tool", this.ask().tool !== "look");
  }

  up(event) {
    if (!this.stroke) return;
    const stroke = this.stroke;
    this.stroke = null;
    this.finish(stroke, this.place(event));
  }

  /** Hand over a gesture. A box is a drag, or two clicks. */
  finish(stroke, here) {
    const rounded = stroke.points.map(([x, y]) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10]);
    if (stroke.tool === "box") {
      const box = this.corner && [this.corner, here];
      const pixel = 1 / (this.zoom || this.fitted());
      if (!box || Math.hypot(box[1][0] - box[0][0], box[1][1] - box[0][1]) < 5 * pixel) return this.draw();
      this.corner = null;
      this.tell({ tool: "box", points: box.map(([x, y]) => [Math.round(x), Math.round(y)]) });
    } else {
      this.pending = stroke;
      this.tell({ tool: stroke.tool, radius: stroke.radius, points: rounded });
    }
    this.draw();
  }

  drop() {
    this.stroke = this.corner = null;
    this.draw();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { tool, radius } = this.ask();
    this.cross = this.cross || [this.scene.width / 2, this.scene.height / 2];
    if (steps[event.key]) {
      const pace = event.shiftKey ? 1 : Math.max(2, Math.round(this.scene.width / 100));
      this.cross = [Math.min(Math.max(this.cross[0] + pace * steps[event.key][0], 0), this.scene.width - 1),
        Math.min(Math.max(this.cross[1] + pace * steps[event.key][1], 0), this.scene.height - 1)];
      this.at = this.cross;
    } else if ((event.key === "Enter" || event.key === " ") && tool !== "look") {
      if (tool === "box" && !this.corner) this.corner = this.cross;
      else this.finish({ tool, radius, points: [this.cross] }, this.cross);
    } else if (event.key === "Escape") this.drop();
    else return;
    event.preventDefault();
    this.draw();
  }
}
