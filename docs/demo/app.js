// The page: takes an image, asks the worker, draws what comes back.

import { outlines } from "./pixels.js";
import { tiffOf } from "./writing.js";

const OUTLINE = [230, 159, 0]; // of Okabe and Ito's palette, which colour-blind readers can tell apart
const PLAUSIBLE = 8; // times the model's pixel size, or less: beyond, a file is taken to be wrong
// A function that splats a v128: what the runtime's build needs.
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);

const small = matchMedia("(pointer: coarse)").matches && Math.min(screen.width, screen.height) < 600;
const phone = navigator.userAgentData?.mobile || small;
const limits = phone ? { mostPixels: 2048 ** 2, tilePixels: 512 ** 2 } : { mostPixels: 8192 ** 2, tilePixels: 1024 ** 2 };

const at = (id) => document.getElementById(id);
let models = [];
let opened = null; // { file, sections, shape, pixelSize }
let result = null; // { probability, grey, shape }
let asked = 0;

// ---------------------------------------------------------------- worker

const waiting = new Map();
let worker = null;

function ask(action, wanted) {
  if (!worker) {
    worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => {
      if (data.progress) return showProgress(data.progress);
      const { resolve, reject } = waiting.get(data.id);
      waiting.delete(data.id);
      if (data.error) reject(new Error(data.error));
      else resolve(data.answer);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const failed = new Error("This page could not be loaded whole: the first visit needs the network; connect and reload the page.");
      for (const { reject } of waiting.values()) reject(failed);
      waiting.clear();
      worker = null;
    };
  }
  const id = ++asked;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, action, ...wanted });
  });
}

// ---------------------------------------------------------------- what is said

function say(text) {
  at("state").textContent = text;
}

function fail(error) {
  at("progress").hidden = true;
  at("error").textContent = error.message;
  at("error").hidden = false;
  say("");
}

function clear() {
  at("error").hidden = true;
  at("notes").replaceChildren();
}

function note(sentences) {
  for (const sentence of sentences) {
    const item = document.createElement("li");
    item.textContent = sentence;
    at("notes").append(item);
  }
}

function showProgress({ done, total }) {
  at("progress").hidden = total < 2;
  at("progress").value = done / total;
  say(total < 2 ? "Looking for membranes …" : `Looking for membranes: tile ${done + 1} of ${total} …`);
}

// ---------------------------------------------------------------- model

const model = () => models.find(({ name }) => name === at("model").value);

function showModel() {
  const { name, about, terms, licence, citation, card } = model();
  const link = document.createElement("a");
  Object.assign(link, { href: card, textContent: "its card" });
  at("licence").replaceChildren(`Model ${name}: ${about}. Terms: ${terms} (${licence}). Cite: ${citation}. See `, link, ".");
}

// ---------------------------------------------------------------- image

/** Open what was dropped: one file. */
function take(dropped) {
  const files = [...dropped.files];
  const folder = [...dropped.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (files.length === 1 && !folder) return open(files[0]);
  clear();
  const found = folder ? "A folder was" : files.length ? `${files.length} files were` : "No file was";
  fail(new Error(`${found} dropped; drop one TIFF, PNG or JPEG.`));
}

async function open(file) {
  clear();
  opened = null;
  at("result").hidden = true;
  say(`Reading ${file.name} …`);
  try {
    opened = { file, ...(await ask("open", { file, mostPixels: limits.mostPixels })) };
  } catch (error) {
    return fail(error);
  }
  at("section-label").hidden = opened.sections < 2;
  Object.assign(at("section"), { max: opened.sections, value: 1 });
  at("section-number").textContent = `1 of ${opened.sections}`;
  prefill(opened.pixelSize);
  return run();
}

/** Put the file's pixel size into the field, if it can be true of a section. */
function prefill(size) {
  const [field, source] = [at("pixel-size"), at("pixel-size-source")];
  field.value = "";
  source.textContent = "";
  if (!size) return;
  const own = model().pixel_size_nm;
  const [y, x] = [size.y, size.x].map((nm) => Number(nm.toPrecision(6)));
  const said = y === x ? `${y} nm` : `${y} nm (y) x ${x} nm (x)`;
  if ([y, x].every((nm) => nm / own <= PLAUSIBLE && own / nm <= PLAUSIBLE)) {
    field.value = y;
    source.textContent = y === x ? "from the file" : `from the file: ${said}`;
  } else {
    opened.pixelSize = null;
    source.textContent = `the file says ${said}: taken to be wrong`;
  }
}

/** The pixel size to use: the file's own, both axes, until the field is changed. */
function pixelSize() {
  const typed = Number(at("pixel-size").value);
  const own = opened.pixelSize;
  if (own && typed === Number(own.y.toPrecision(6))) return own;
  return typed ? { y: typed, x: typed } : null;
}

async function run() {
  if (!opened) return;
  const mine = opened;
  clear();
  say("Looking for membranes …");
  const size = pixelSize();
  const tile = at("tile").value ? Number(at("tile").value) : undefined;
  const section = Number(at("section").value) - 1;
  try {
    const answer = await ask("run", { section, model: model(), pixelSize: size, tile, tilePixels: limits.tilePixels });
    if (opened !== mine) return;
    result = { ...answer, pixelSize: size, section };
  } catch (error) {
    if (opened === mine) fail(error);
    return;
  }
  at("progress").hidden = true;
  at("threshold").value = result.threshold;
  note([...mine.notes, ...result.notes]);
  draw();
  at("result").hidden = false;
  const tiles = result.tiles > 1 ? ` in ${result.tiles} tiles` : "";
  say(`Done: ${result.shape[1]} x ${result.shape[0]} pixels${tiles} in ${result.seconds.toFixed(1)} s.`);
}

// ---------------------------------------------------------------- pictures

function draw() {
  const threshold = Number(at("threshold").value);
  at("threshold-number").textContent = threshold;
  const { probability, grey, shape } = result;
  const edge = outlines(probability, shape, threshold);
  paint(at("probability"), shape, (i) => 255 * probability[i]);
  paint(at("outlined"), shape, (i, channel) => (edge[i] ? OUTLINE[channel] : grey[i]));
}

function paint(canvas, [height, width], value) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let channel = 0; channel < 3; channel++) image.data[4 * i + channel] = value(i, channel);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function download(blob, ending) {
  const stem = opened.file.name.replace(/\.[^.]*$/, "");
  const number = opened.sections > 1 ? `.${result.section + 1}` : "";
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: `${stem}${number}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ---------------------------------------------------------------- start

function listen() {
  at("file").addEventListener("change", () => at("file").files[0] && open(at("file").files[0]));
  at("file").addEventListener("click", () => (at("file").value = "")); // the same file can be chosen again
  at("sample").addEventListener("click", async () => {
    const answer = await fetch("sample.tif").catch(() => null);
    if (answer?.ok) open(new File([await answer.blob()], "sample.tif"));
    else fail(new Error("The sample could not be loaded: the first visit needs the network; connect and reload the page."));
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer);
    });
  }
  at("section").addEventListener("input", () => (at("section-number").textContent = `${at("section").value} of ${opened.sections}`));
  for (const id of ["section", "pixel-size", "tile"]) at(id).addEventListener("change", run);
  at("model").addEventListener("change", () => {
    showModel();
    run();
  });
  at("threshold").addEventListener("input", () => result && draw());
  at("download-tiff").addEventListener("click", () => download(tiffOf(result.probability, result.shape, result.pixelSize), "probability.tif"));
  at("download-png").addEventListener("click", () => at("outlined").toBlob((blob) => download(blob, "outlines.png")));
}

/** Keep all files of the page for visits without a network; browsers allow it for https:// and localhost only. */
async function keepForLater() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("service-worker.js");
    await navigator.serviceWorker.ready;
    at("offline").textContent = "From now on the page works without a network, too.";
  } catch {
    at("offline").textContent = "Without a network the page will not work: its files could not be kept.";
  }
}

async function start() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    throw new Error("This browser lacks WebAssembly SIMD, which the model needs; use a current Firefox, Chrome, Edge or Safari.");
  }
  const answer = await fetch("models.json").catch(() => null);
  if (!answer?.ok) throw new Error("The page could not be loaded whole: the first visit needs the network; connect and reload the page.");
  models = await answer.json();
  for (const { name } of models) at("model").add(new Option(name, name));
  showModel();
  listen();
  const { threads } = await ask("start", { model: model() });
  say(`Ready${threads > 1 ? `, with ${threads} threads` : ""}.`);
  document.documentElement.dataset.ready = "";
  await keepForLater();
}

start().catch(fail);
