// Opens images and runs the model, beside the page so that it stays responsive.

import { UserError } from "./errors.js";
import { fetchModel, fetched } from "./model.js";
import {
  gather,
  inSection,
  keep,
  mended,
  normalising,
  resample,
  resampledMoments,
  shown,
  statistics,
} from "./pixels.js";
import { PLAUSIBLE_NM } from "./pixel-size.js";
import { openImage } from "./reading.js";
import { planSection } from "./tiles.js";
import * as ort from "./vendor/ort.wasm.min.mjs";

const SAME = 0.01; // relative differences of pixel sizes that are not worth an interpolation
const ROUNDING = 1e-5;
const MOST_THREADS = 8;

const here = new URL("./", import.meta.url);
const sessions = new Map();
let image = null;

ort.env.wasm.wasmPaths = new URL("./vendor/", here).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency ?? 1, MOST_THREADS) : 1;

const actions = {
  async start({ model }) {
    await sessionOf(model);
    return { threads: ort.env.wasm.numThreads };
  },

  async open({ file, mostPixels }) {
    image = null;
    const opened = await openImage(file);
    const [height, width] = opened.shape;
    if (height * width > mostPixels) {
      throw new UserError(
        `A section of ${width} x ${height} pixels is too much for this ${mostPixels < 2 ** 24 ? "phone" : "page"}: ` +
          `at most ${(mostPixels / 1e6).toFixed(0)} megapixels; cut a part out of it, or use the isbi-infer command.`,
      );
    }
    image = opened;
    const { sections, shape, pixelSize, notes } = opened;
    return { sections, shape, pixelSize, notes };
  },

  async run({ section, model, pixelSize, tile, tilePixels }) {
    const { session, contract } = await sessionOf(model);
    const raw = await image.read(section);
    const started = performance.now();
    const found = statistics(raw);
    const notes = notesOn(found);
    const grey = shown(raw);
    if (found.blank) {
      const probability = new Float32Array(raw.pixels.length);
      return { probability, grey, shape: raw.shape, notes, threshold: contract.threshold ?? 0.5, tiles: 0, seconds: 0 };
    }
    const tissue = mended(raw, found);
    const scale = scaling(contract.pixel_size_nm, pixelSize);
    const inner = scale ? resample(tissue, tissue.shape.map((size, i) => Math.max(1, halfEven(size * scale[i])))) : tissue;
    const moments = scale ? resampledMoments(inner, found, raw.shape[1]) : normalising(tissue.pixels, found);
    const plan = planSection(inner.shape, contract, { tile, mostPixels: tilePixels });
    const result = new Float32Array(inner.shape[0] * inner.shape[1]);
    const batch = new Float32Array(plan.tileShape[0] * plan.tileShape[1]);
    for (const [done, each] of plan.tiles.entries()) {
      post({ progress: { done, total: plan.tiles.length } });
      gather(inner, plan, each, moments, batch);
      const input = new ort.Tensor("float32", batch, [1, 1, ...plan.tileShape]);
      const output = (await session.run({ [contract.input_name]: input }))[contract.output_name];
      keep(checked(output.data), plan, each, result);
      output.dispose();
      input.dispose();
    }
    const own = scale ? checked(resample({ pixels: result, shape: inner.shape }, tissue.shape).pixels) : result;
    const probability = inSection(own, raw.shape, found);
    const seconds = (performance.now() - started) / 1000;
    return { probability, grey, shape: raw.shape, notes, threshold: contract.threshold ?? 0.5, tiles: plan.tiles.length, seconds };
  },
};

/** Return the session and the contract of a model, opened once; a failed attempt is not kept. */
function sessionOf(model) {
  if (!sessions.has(model.file)) {
    const opening = open(model);
    opening.catch(() => sessions.delete(model.file));
    sessions.set(model.file, opening);
  }
  return sessions.get(model.file);
}

async function open(model) {
  const { content, contract } = await fetchModel(model, here);
  ort.env.wasm.wasmBinary ??= (await fetched(new URL("vendor/ort-wasm-simd-threaded.wasm", here), "The runtime")).buffer;
  try {
    const session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
    return { session, contract };
  } catch (error) {
    throw new UserError(`The model cannot be run by this browser (${error.message}); try another one.`);
  }
}

function scaling(modelNm, pixelSize) {
  if (!pixelSize || !modelNm) return null;
  const sizes = [pixelSize.y, pixelSize.x];
  const [least, most] = PLAUSIBLE_NM;
  if (!sizes.every((size) => size >= least && size <= most)) {
    throw new UserError(`A pixel size of ${pixelSize.y} nm is invalid: expected ${least} to ${most} nanometres.`);
  }
  const factors = sizes.map((size) => size / modelNm);
  return factors.every((factor) => Math.abs(factor - 1) <= SAME) ? null : factors;
}

function halfEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function checked(values) {
  for (let i = 0; i < values.length; i++) {
    if (!(values[i] >= -ROUNDING && values[i] <= 1 + ROUNDING)) {
      throw new UserError("The model gives values that are no probabilities on this section; nothing of it is shown.");
    }
    values[i] = Math.min(Math.max(values[i], 0), 1);
  }
  return values;
}

function notesOn(found) {
  if (found.blank === "constant") return ["The section is blank: all of one grey value."];
  if (found.blank === "noise") return ["The section is blank but for noise."];
  const notes = [];
  const percent = Math.round(100 * (1 - found.tissue));
  if (found.tissue < 1) notes.push(`${percent || "Less than 1"} % of the section is canvas, and left out.`);
  if (found.outliers) notes.push(`${found.outliers} hot or dead ${found.outliers === 1 ? "pixel was" : "pixels were"} replaced.`);
  return notes;
}

function post(message, transfer = []) {
  self.postMessage(message, transfer);
}

// One at a time, in the order of asking.
let queue = Promise.resolve();
self.onmessage = ({ data: { id, action, ...asked } }) => {
  queue = queue.then(async () => {
    try {
      const answer = await actions[action](asked);
      post({ id, answer }, answer.probability ? [answer.probability.buffer, answer.grey.buffer] : []);
    } catch (error) {
      const memory = error instanceof RangeError || /memory|allocat/i.test(error.message);
      const sentence = error instanceof UserError ? error.message : memory ? "There is too little memory in this browser for this section; cut a part out of it." : null;
      post({ id, error: sentence ?? `This should not happen: ${error.message}; please report it.` });
    }
  });
};
