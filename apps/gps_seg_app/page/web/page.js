// Joins Gradio's page to the stage, the galleries and the timeline. Gradio's own hooks for scripts compile text at run time,
// which the page's policy forbids; so the server shows a mark (token:version) in a hidden line, and gestures go back through a
// hidden text box, as if they were typed.

import { Stage } from "./stage.js";
import { Clip } from "./clip.js";
import { fillGallery } from "./gallery.js";

const stages = {};
const clips = {};
const seen = {};
let count = 0;

function type(selector, text) {
  const box = document.querySelector(`${selector} textarea, ${selector} input`);
  if (!box) return;
  const kind = box instanceof HTMLTextAreaElement ? HTMLTextAreaElement : HTMLInputElement;
  Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(box, text);
  box.dispatchEvent(new Event("input", { bubbles: true }));
}

function tool() {
  const chosen = document.querySelector("#tool input:checked");
  const radius = document.querySelector("#radius input[type=number]") || document.querySelector("#radius input");
  return { tool: chosen ? chosen.value : "look", radius: Number(radius ? radius.value : 10) };
}

function gesture(made) {
  count += 1;
  type("#gesture", JSON.stringify({ ...made, key: stages.image.scene.key, count }));
}

async function follow(kind, text) {
  const [mark, token, version] = text.match(/([\w-]{20,}):(\d+)/) || [];
  if (!mark || seen[kind] === mark) return;
  seen[kind] = mark;
  const answer = await fetch(`/scene/${token}/${kind}?version=${version}`);
  if (!answer.ok || seen[kind] !== mark) return;
  const scene = await answer.json();
  if (kind === "image") stages.image.put(scene);
  else if (kind === "video") clips.video.put(scene);
  else fillGallery(document.querySelector(`#${kind}-gallery`), scene);
}

/** Gradio makes tabs when they are first opened: whatever is there and not yet joined is joined now. */
function join() {
  const host = document.querySelector("#image-stage");
  if (host && !host.dataset.joined) {
    host.dataset.joined = "yes";
    stages.image = new Stage(host.appendChild(document.createElement("div")), gesture, tool);
    stages.image.host.className = "gs-stage";
    delete seen.image;
  }
  const clip = document.querySelector("#video-stage");
  if (clip && !clip.dataset.joined) {
    clip.dataset.joined = "yes";
    clips.video = new Clip(clip.appendChild(document.createElement("div")));
    delete seen.video;
  }
  for (const [kind, place] of [["image", host], ["video", clip], ["batch", document.querySelector("#batch-gallery")],
    ["compare", document.querySelector("#compare-gallery")]]) {
    const mark = document.querySelector(`#${kind}-mark`);
    if (place && mark) follow(kind, mark.textContent);
  }
  for (const words of document.querySelectorAll(".words:not([aria-live])")) {
    words.setAttribute("role", "status");
    words.setAttribute("aria-live", "polite");
    words.setAttribute("aria-atomic", "true");
  }
  for (const hidden of document.querySelectorAll("#gesture:not([aria-hidden]), .mark:not([aria-hidden])")) {
    hidden.setAttribute("aria-hidden", "true");
    for (const box of hidden.querySelectorAll("textarea, input")) box.tabIndex = -1;
  }
  for (const button of document.querySelectorAll('.upload button[aria-label="Click to upload or drop files"]')) {
    button.setAttribute("aria-label", button.innerText.replace(/\s+/g, " ").trim()); // the name contains what is read
  }
  for (const input of document.querySelectorAll(".upload input[type=file]:not([aria-label])")) {
    input.setAttribute("aria-label", "Choose a file");
  }
}

function shown(selector) {
  const found = document.querySelector(selector);
  return found && found.offsetParent !== null ? found : null;
}

/** A pasted picture goes to the tab that is open, if that takes pictures. */
function paste(event) {
  const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
  const place = ["#upload", "#batch-upload", "#compare-upload"].find(shown);
  const input = place && document.querySelector(`${place} input[type=file]`);
  if (!file || !input) return;
  const parcel = new DataTransfer();
  parcel.items.add(file);
  input.files = parcel.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  event.preventDefault();
}

function keys(event) {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || !shown("#image-stage")) return;
  if (event.target.matches("input, textarea") && !["checkbox", "radio", "range"].includes(event.target.type)) return;
  document.querySelector(event.shiftKey ? "button#redo" : "button#undo")?.click();
  event.preventDefault();
}

/** The second click of a double click may arrive when a short job has ended already: it would start another. */
function once(event) {
  if (event.detail > 1 && event.target.closest("#batch-start, #video-start")) {
    event.stopImmediatePropagation();
    event.preventDefault();
  }
}

document.documentElement.lang = "en";
const strip = document.body.appendChild(document.createElement("div")); // the banner, once it has scrolled away
strip.className = "gs-strip";
strip.setAttribute("aria-hidden", "true");
strip.textContent = "Research use only. Not a medical device.";
document.addEventListener("click", once, true);
document.addEventListener("paste", paste);
document.addEventListener("keydown", keys);
document.addEventListener("change", (event) => event.target.closest("#tool") && stages.image?.taken());
new MutationObserver(join).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
join();
