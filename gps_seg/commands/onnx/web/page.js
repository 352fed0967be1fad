// The page: loads what lies beside it, takes a picture, shows the answer. What it says of a failure is one sentence.

import { answered, judged, rgb } from "./numbers.js";

const FORMAT = "gps-seg onnx 1";
const AGAIN = "write the folder again with gps-seg export RUN --onnx DIR --page";
const TINT = [0, 200, 230, 0.15], OUTLINE = [0, 229, 255], HALO = [0, 0, 0]; // the mask's area, its edge, and a line around it
const at = (id) => document.getElementById(id);
let drawn = null; // {picture, marked}: what is on the canvas without and with the mask

class Trouble extends Error {} // its message is meant to be read

function say(words, kind = "") { // kind: done, wrong, or neither
  at("status").textContent = words;
  at("status").className = kind;
}

const failed = (error) => say(error instanceof Trouble ? error.message : `The page failed: ${firstLine(error)}`, "wrong");
const firstLine = (error) => String(error?.message ?? error).split("\n")[0].slice(0, 200);
const settled = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done))); // what was said is on the screen

async function fetched(name) {
  const found = await fetch(name, { cache: "no-cache" }).catch(() => null);
  if (found === null) throw new Trouble(`${name} cannot be loaded: the server of this page does not answer.`);
  if (!found.ok) throw new Trouble(`${name} is missing beside this page (answer ${found.status}): ${AGAIN}.`);
  return found.arrayBuffer();
}

async function described() {
  const bytes = await fetched("onnx.json");
  try {
    const about = JSON.parse(new TextDecoder().decode(bytes));
    const { picture } = about;
    const right = about.format === FORMAT && picture.input_size > 0 && picture.mean.length === 3 && picture.std.length === 3
      && ["longest_side", "squash"].includes(picture.resize) && about.threshold > 0 && about.threshold < 1
      && about.files["model.onnx"] && (about.calibration === null || about.calibration.temperature > 0);
    if (right) return about;
  } catch { /* said below */ }
  throw new Trouble(`onnx.json does not describe a model as "${FORMAT}" does: ${AGAIN}.`);
}

// Browsers have SHA-256 for pages of this machine and of https alone; elsewhere the file is taken as it is.
async function checked(model, about) {
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", model));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== about.files["model.onnx"]) throw new Trouble(`model.onnx is not the file that onnx.json describes: ${AGAIN}.`);
}

async function loaded() {
  const about = await described();
  const model = await fetched("model.onnx");
  await checked(model, about);
  const runtime = await import("./runtime/ort.wasm.bundle.min.mjs").catch(() => {
    throw new Trouble(`The folder runtime is missing beside this page, or not whole: ${AGAIN}.`);
  });
  runtime.env.logLevel = "error";
  runtime.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  runtime.env.wasm.proxy = true; // computes in a worker, so that the page answers meanwhile
  try {
    const session = await runtime.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
    return { about, run: (image) => ran(runtime, session, image, about.picture.input_size) };
  } catch (error) {
    throw new Trouble(`ONNX Runtime refuses model.onnx (${firstLine(error)}).`);
  }
}

async function ran(runtime, session, image, size) {
  const found = await session.run({ image: new runtime.Tensor("float32", image, [1, 3, size, size]) }, ["logits", "quality"]);
  return { logits: found.logits.data, side: found.logits.dims[3], quality: found.quality.data[0] };
}

// A file -> its pixels as they are stored, upright, without a colour profile: what gps-seg reads.
async function opened(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
    throw new Trouble(`${file.name} is not a picture that this browser reads: give PNG, JPEG, WebP or BMP.`);
  });
  try {
    const paper = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
    paper.drawImage(bitmap, 0, 0);
    const picture = paper.getImageData(0, 0, bitmap.width, bitmap.height);
    for (let alpha = 3; alpha < picture.data.length; alpha += 4) picture.data[alpha] = 255;
    return picture;
  } catch {
    throw new Trouble(`${file.name} has ${bitmap.width} x ${bitmap.height} pixels, more than this browser takes: shrink it.`);
  } finally {
    bitmap.close();
  }
}

// The picture with the mask's area tinted, and its edge in two colours that are seen on light and on dark.
function marked(picture, mask) {
  const { width, height } = picture, found = new ImageData(picture.data.slice(), width, height);
  const paint = (pixel, [red, green, blue]) => found.data.set([red, green, blue], 4 * pixel);
  for (let pixel = 0; pixel < mask.length; pixel++) {
    if (mask[pixel]) paint(pixel, TINT.slice(0, 3).map((tone, channel) => tone * TINT[3] + picture.data[4 * pixel + channel] * (1 - TINT[3])));
  }
  const edge = edges(mask, width, height), reach = Math.max(1, Math.round(Math.min(width, height) / 400));
  for (const [around, color] of [[reach + 1, HALO], [reach, OUTLINE]]) {
    for (const pixel of edge) {
      const row = Math.floor(pixel / width), column = pixel % width;
      for (let y = Math.max(0, row - around); y <= Math.min(height - 1, row + around); y++) {
        for (let x = Math.max(0, column - around); x <= Math.min(width - 1, column + around); x++) paint(y * width + x, color);
      }
    }
  }
  return found;
}

function edges(mask, width, height) {
  const found = [];
  for (let pixel = 0; pixel < mask.length; pixel++) {
    const column = pixel % width, row = (pixel - column) / width;
    if (mask[pixel] && !(column > 0 && mask[pixel - 1] && column < width - 1 && mask[pixel + 1]
      && row > 0 && mask[pixel - width] && row < height - 1 && mask[pixel + width])) found.push(pixel);
  }
  return found;
}

async function png(mask, width, height) {
  const paper = new OffscreenCanvas(width, height), picture = new ImageData(width, height);
  mask.forEach((inside, pixel) => picture.data.set([255 * inside, 255 * inside, 255 * inside, 255], 4 * pixel));
  paper.getContext("2d").putImageData(picture, 0, 0);
  return paper.convertToBlob({ type: "image/png" });
}

function draw() {
  if (drawn) at("view").getContext("2d").putImageData(at("shown").checked ? drawn.marked : drawn.picture, 0, 0);
}

const percent = (part) => `${(100 * part).toFixed(1)} %`;

function verdict({ refused, part }) {
  if (refused) return "no polyp";
  return part ? `polyp, ${percent(part)} of the picture` : "no polyp above the threshold";
}

function facts(about, found, quality, seconds) {
  const rows = [["Largest probability", `${percent(found.largest)}${about.calibration ? ", calibrated" : ""}`]];
  if (about.has_quality) {
    const below = about.presence === null ? "" : `; below ${about.presence.toFixed(2)} the answer is none`;
    rows.push(["Quality by the model's own account", `${quality.toFixed(2)}${below}`]);
  }
  rows.push(["Threshold of the mask", String(about.threshold)], ["Seconds", seconds.toFixed(1)],
    ["Model", `${about.picture.name}, ${about.picture.input_size} px${about.flips ? ", mean of four mirror images" : ""}`]);
  at("facts").replaceChildren(...rows.flatMap(([name, value]) =>
    [["dt", name], ["dd", value]].map(([kind, words]) => Object.assign(document.createElement(kind), { textContent: words }))));
}

async function show(file, picture, found) {
  const { width, height } = picture;
  drawn = { picture, marked: marked(picture, found.mask) };
  Object.assign(at("view"), { width, height });
  at("view").setAttribute("aria-label", `${file.name}, ${width} x ${height} pixels. ${verdict(found)}.`);
  URL.revokeObjectURL(at("save").href);
  at("save").href = URL.createObjectURL(await png(found.mask, width, height));
  at("save").download = `${file.name.replace(/\.[^.]*$/, "")}_mask.png`;
  at("answer").hidden = false;
  draw();
}

async function segmented(file) {
  at("answer").hidden = true;
  say(`Reading ${file.name} ...`);
  const picture = await opened(file);
  say("Loading the model ...");
  const { about, run } = await model;
  say(`Segmenting ${file.name} ...`);
  await settled();
  const start = performance.now();
  const { logits, quality } = await answered(rgb(picture.data), picture.height, picture.width, about, run);
  const found = judged(logits, quality, about);
  const seconds = (performance.now() - start) / 1000;
  await show(file, picture, found);
  facts(about, found, quality, seconds);
  say(`${file.name}: ${verdict(found)}`, "done");
}

let waiting = Promise.resolve(); // one picture after the other

function take(files) {
  if (files.length === 0) return;
  if (files.length > 1) say(`Expected one picture, got ${files.length}.`, "wrong");
  else waiting = waiting.then(() => segmented(files[0])).catch(failed);
}

function listen() {
  at("file").addEventListener("change", () => { take([...at("file").files]); at("file").value = ""; });
  at("shown").addEventListener("change", draw);
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") take([...event.dataTransfer.files]);
    });
  }
}

say("Loading the model ...");
const model = loaded();
model.then(({ about }) => say(`The model is ready: ${about.picture.name}, ${about.picture.input_size} px.`), failed);
listen();
