// Grey values and probabilities: the same arithmetic as isbi_infer/pixels, in the same precision.
//
// An image is { pixels, shape: [Y, X] }, its pixels a typed array in rows.

import { findCanvas } from "./canvas.js";
import { mirrored } from "./tiles.js";

const TAIL = 0.05; // of the pixels below the lower quantile, and as many above the upper one
const FENCE = 2; // distances of the quantiles
const HOT = 0.001; // of the pixels, that may be hot or dead; where all others are noise, more are looked at again
const BINS = 2 ** 16 + 2;
const ENOUGH_BINS = 2 ** 10; // between the fences
const LEAST = 16 ** 2; // pixels of a section that can be called blank
const LAGS = [4, 7, 16]; // px
const REACH = 32; // px, how far a hole is filled
const PLAIN_OFFSET = 1024; // standard deviations; float32 holds grey values up to there
const SMALLEST_STD = 2 ** -126;

const isFloat = (pixels) => pixels instanceof Float32Array || pixels instanceof Float64Array;
const isCounted = (pixels) => !isFloat(pixels) && pixels.BYTES_PER_ELEMENT <= 2;

/**
 * Measure one section: { mean, std, low, high, fill, tissue, outliers, blank, box, canvas }.
 *
 * Mean and standard deviation are those of the tissue's pixels between the fences, `low` and `high`; `fill` is the grey
 * value nearest to the mean; `tissue` is the fraction of the section that is tissue, and `box` its window; `blank` is
 * "constant" or "noise" where there is none, else empty; `canvas` marks what is none, or is null.
 */
export function statistics(image) {
  const { pixels } = image;
  const canvas = findCanvas(image);
  const tissue = canvas ? pixels.filter((_, i) => !canvas[i]) : pixels;
  if (!tissue.length) {
    return { mean: 0, std: 0, low: 0, high: 0, fill: 0, tissue: 0, outliers: 0, blank: "constant", box: null, canvas };
  }
  const counted = histogram(tissue);
  let [low, high] = fences(counted);
  const inner = between(counted, low, high);
  let { mean, std, fill } = moments(inner);
  let outliers = tissue.length - sum(inner.counts);
  let blank = "";
  if (std === 0 && pixels.length >= LEAST) blank = "constant";
  else if (std > 0 && !hasStructure(image, canvas, low, high, fill)) blank = "noise";
  if (blank === "noise" && outliers > HOT * tissue.length) {
    const limits = range(tissue, -Infinity, Infinity);
    const whole = moments(isCounted(tissue) ? counted : countedIn(tissue, ...limits));
    if (hasStructure(image, canvas, ...limits, whole.fill)) {
      [[low, high], { mean, std, fill }, outliers, blank] = [limits, whole, 0, ""];
    }
  }
  const box = boxOf(canvas, image.shape);
  return { mean, std, low, high, fill, tissue: tissue.length / pixels.length, outliers, blank, box, canvas };
}

/** The smallest window that holds all tissue. */
function boxOf(canvas, [height, width]) {
  if (!canvas) return [[0, height], [0, width]];
  const [y, x] = [[height, 0], [width, 0]];
  canvas.forEach((none, i) => {
    if (none) return;
    const [row, column] = [Math.floor(i / width), i % width];
    y[0] = Math.min(y[0], row);
    y[1] = Math.max(y[1], row + 1);
    x[0] = Math.min(x[0], column);
    x[1] = Math.max(x[1], column + 1);
  });
  return [y, x];
}

/** Mean and standard deviation of all pixels, in two passes. */
export function plainMoments(pixels) {
  let total = 0;
  for (const pixel of pixels) total += pixel;
  const mean = total / pixels.length;
  let squares = 0;
  for (const pixel of pixels) squares += (pixel - mean) ** 2;
  return { mean, std: Math.sqrt(squares / pixels.length) };
}

/** What a section is normalised by: its statistics, or without a histogram's rounding where nothing is left out. */
export function normalising(pixels, found) {
  return isCounted(pixels) || found.canvas || found.outliers ? found : plainMoments(pixels);
}

/** Put the window of a padded section that a tile reads into `out`, normalised to zero mean and unit variance. */
export function gather(image, plan, tile, { mean, std }, out) {
  const [rows, columns] = tile.reads.map((span, axis) => mirrored(span, plan.pad[axis][0], image.shape[axis]));
  const inverse = std < SMALLEST_STD ? 0 : 1 / std;
  const far = Math.abs(mean) * inverse > PLAIN_OFFSET;
  const [mean32, inverse32] = [Math.fround(mean), Math.fround(inverse)];
  let at = 0;
  for (const row of rows) {
    const first = row * image.shape[1];
    for (const column of columns) {
      const grey = image.pixels[first + column];
      out[at++] = far ? (grey - mean) * inverse : Math.fround(Math.fround(grey) - mean32) * inverse32;
    }
  }
}

/** Take what a tile owns from its result. */
export function keep(result, plan, tile, out) {
  const [cropY, cropX] = tile.crop;
  for (let y = cropY[0]; y < cropY[1]; y++) {
    const from = y * plan.tileShape[1];
    const to = (tile.owns[0][0] + y - cropY[0]) * plan.shape[1] + tile.owns[1][0];
    out.set(result.subarray(from + cropX[0], from + cropX[1]), to);
  }
}

// ---------------------------------------------------------------- histogram

function histogram(pixels) {
  if (isCounted(pixels)) {
    const bits = 8 * pixels.BYTES_PER_ELEMENT;
    const signed = pixels instanceof Int8Array || pixels instanceof Int16Array;
    const first = signed ? -(2 ** (bits - 1)) : 0;
    const counts = new Float64Array(2 ** bits);
    for (const pixel of pixels) counts[pixel - first]++;
    return { first, width: 1, counts, below: 0, above: 0 };
  }
  let [low, high] = range(pixels, -Infinity, Infinity);
  for (;;) {
    const counted = countedIn(pixels, low, high);
    let [fenceLow, fenceHigh] = fences(counted);
    if (!Number.isFinite(fenceLow) && counted.counts.reduce((n, count) => n + (count > 0), 0) > 1) {
      // All quantiles fall into one step: look at that step alone.
      const most = counted.counts.reduce((best, count, i) => (count > counted.counts[best] ? i : best), 0);
      fenceLow = fenceHigh = (counted.first + most) * counted.width;
    } else if (!Number.isFinite(fenceLow) || (fenceHigh - fenceLow) / counted.width >= ENOUGH_BINS) {
      return counted;
    }
    const closer = range(pixels, fenceLow - counted.width, fenceHigh + counted.width);
    if (closer[0] === low && closer[1] === high) return counted;
    [low, high] = closer;
  }
}

function countedIn(pixels, low, high) {
  const spread = Math.max(high - low, 2 ** -1022 * 2 ** 60);
  const width = Math.max(2 ** Math.ceil(Math.log2(spread / (BINS - 2))), spacing(Math.max(Math.abs(low), Math.abs(high))));
  const first = Math.floor(low / width);
  const bins = Math.ceil(high / width) - first + 1;
  const counts = new Float64Array(bins + 2);
  for (const pixel of pixels) {
    const place = roundHalfEven(pixel / width) - (first - 1);
    counts[Math.min(Math.max(place, 0), bins + 1)]++;
  }
  return { first, width, counts: counts.subarray(1, -1), below: counts[0], above: counts[bins + 1] };
}

function spacing(value) {
  return value === 0 ? 2 ** -1074 : 2 ** Math.max(Math.floor(Math.log2(value)) - 52, -1074);
}

function roundHalfEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function range(pixels, low, high) {
  let [least, greatest] = [Infinity, -Infinity];
  for (const pixel of pixels) {
    if (pixel < low || pixel > high) continue;
    if (pixel < least) least = pixel;
    if (pixel > greatest) greatest = pixel;
  }
  return [least, greatest];
}

function sum(counts) {
  let total = 0;
  for (const count of counts) total += count;
  return total;
}

function fences({ first, width, counts, below, above }) {
  const all = below + sum(counts) + above;
  const skipped = Math.floor(TAIL * all);
  let [lower, upper] = [-1, -1];
  let cumulative = below;
  for (let i = 0; i < counts.length && upper < 0; i++) {
    cumulative += counts[i];
    if (lower < 0 && cumulative > skipped) lower = i;
    if (cumulative >= all - skipped) upper = i;
  }
  const last = counts.length - 1;
  if (lower < 0) lower = last;
  if (upper < 0) upper = last;
  if (lower === upper) return [-Infinity, Infinity];
  const reach = FENCE * (upper - lower);
  return [(first + lower - reach) * width, (first + upper + reach) * width];
}

function between({ first, width, counts }, low, high) {
  let [start, stop] = [0, counts.length];
  if (Number.isFinite(low)) {
    start = Math.min(Math.max(Math.ceil(low / width) - first, 0), stop);
    stop = Math.min(Math.max(Math.floor(high / width) + 1 - first, start), stop);
  }
  return { first: first + start, width, counts: counts.subarray(start, stop) };
}

function moments({ first, width, counts }) {
  const present = [];
  counts.forEach((count, i) => count && present.push(i));
  const middle = present[Math.floor(present.length / 2)];
  const n = sum(counts);
  let total = 0;
  let squares = 0n; // beyond what a number holds exactly
  for (const i of present) {
    total += counts[i] * (i - middle);
    squares += BigInt(counts[i]) * BigInt((i - middle) ** 2);
  }
  const variance = Number(BigInt(n) * squares - BigInt(total) ** 2n) / n / n;
  let nearest = present[0];
  for (const i of present) {
    if (Math.abs(i - middle - total / n) < Math.abs(nearest - middle - total / n)) nearest = i;
  }
  return {
    mean: (((first + middle) * n + total) / n) * width,
    std: Math.sqrt(variance) * width,
    fill: (first + nearest) * width,
  };
}

// ---------------------------------------------------------------- what is no tissue

/** Whether a section shows more than the noise of a camera; see isbi_infer/pixels/canvas.py. */
function hasStructure({ pixels, shape }, canvas, low, high, offset) {
  if (pixels.length < 2 * 128 ** 2) return true;
  const [height, width] = shape;
  const wide = pixels.BYTES_PER_ELEMENT > 2 ? offset : 0;
  const differences = (lines, lineStep, length, step, every) =>
    LAGS.map((lag) => {
      let [total, count] = [0, 0];
      for (let line = 0; line < lines; line += every) {
        const start = line * lineStep;
        for (let i = 0; i + lag < length; i++) {
          const [one, other] = [pixels[start + i * step], pixels[start + (i + lag) * step]];
          if (one < low || one > high || other < low || other > high) continue;
          if (canvas && (canvas[start + i * step] || canvas[start + (i + lag) * step])) continue;
          const difference = one - wide - (other - wide);
          total += difference * difference;
          count++;
        }
      }
      return [total, count];
    });
  const quarter = differences(height, width, width, 1, 4);
  if (largestRatio(quarter) > 1.2) return true;
  const along = differences(height, width, width, 1, 1);
  const across = differences(width, 1, height, width, 1);
  const both = along.map(([total, count], i) => [total + across[i][0], count + across[i][1]]);
  return Math.min(...both.map(([, count]) => count)) < 2 * 128 ** 2 || largestRatio(both) > 1.03;
}

function largestRatio(sums) {
  const means = sums.map(([total, count]) => total / Math.max(count, 1));
  const least = Math.min(...means);
  return least ? Math.max(...means) / least : Infinity;
}

/** Cut a section to its tissue, and fill canvas and hot pixels in it with the mirror image of what is beside them. */
export function mended(image, { low, high, fill, outliers, canvas, box }) {
  if (!outliers && !canvas) return image;
  const [[top, bottom], [left, right]] = box;
  const shape = [bottom - top, right - left];
  const [height, width] = shape;
  const out = new image.pixels.constructor(height * width);
  const hole = new Uint8Array(out.length);
  let holes = [];
  for (let i = 0; i < out.length; i++) {
    const at = (top + Math.floor(i / width)) * image.shape[1] + left + (i % width);
    const pixel = image.pixels[at];
    out[i] = pixel;
    if (pixel >= low && pixel <= high && !canvas?.[at]) continue;
    hole[i] = 1;
    holes.push(i);
    out[i] = fill;
  }
  const edge = (i, place, length, step) => {
    // The nearest pixel along one axis that is no hole; the one before, of two as near.
    for (let distance = 1; distance <= REACH; distance++) {
      if (place >= distance && !hole[i - distance * step]) return -distance;
      if (place + distance < length && !hole[i + distance * step]) return distance;
    }
    return Infinity;
  };
  for (let round = 0; round < 2; round++) {
    const filled = [];
    for (const i of holes) {
      const [y, x] = [Math.floor(i / width), i % width];
      const [across, along] = [edge(i, x, width, 1), edge(i, y, height, width)];
      const byRow = Math.abs(across) <= Math.abs(along);
      const distance = byRow ? across : along;
      if (!Number.isFinite(distance)) continue;
      const [step, place, length] = byRow ? [1, x, width] : [width, y, height];
      const image2 = place + 2 * distance;
      const inside = image2 >= 0 && image2 < length && !hole[i + 2 * distance * step];
      filled.push([i, out[inside ? i + 2 * distance * step : i + distance * step]]);
    }
    for (const [i, value] of filled) {
      out[i] = value;
      hole[i] = 0;
    }
    holes = holes.filter((i) => hole[i]);
  }
  return { pixels: out, shape };
}

/** Put the result of tissue back into its section, with 0 (membrane) where there is no tissue. */
export function inSection(result, shape, { canvas, box }) {
  if (!canvas) return result;
  const out = new Float32Array(shape[0] * shape[1]);
  const [[top, bottom], [left, right]] = box;
  for (let y = top, i = 0; y < bottom; y++) {
    for (let x = left; x < right; x++, i++) if (!canvas[y * shape[1] + x]) out[y * shape[1] + x] = result[i];
  }
  return out;
}

// ---------------------------------------------------------------- pixel size

/** What resampled tissue is normalised by: its own mean and standard deviation, without what is more canvas than tissue. */
export function resampledMoments(inner, { canvas, box }, width) {
  if (!canvas) return plainMoments(inner.pixels);
  const [[top, bottom], [left, right]] = box;
  const cut = { pixels: new Uint8Array((bottom - top) * (right - left)), shape: [bottom - top, right - left] };
  for (let y = top; y < bottom; y++) {
    cut.pixels.set(canvas.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  }
  const outside = resample(cut, inner.shape).pixels;
  const inside = inner.pixels.filter((_, i) => outside[i] < 0.5);
  return plainMoments(inside.length ? inside : inner.pixels);
}

/** Interpolate an image to another shape over the same field of view: separable, linear, as float32. */
export function resample(image, shape) {
  const [height, width] = image.shape;
  const rows = new Float32Array(shape[0] * width);
  const [placesY, weightsY] = taps(height, shape[0]);
  for (let y = 0; y < shape[0]; y++) {
    for (let tap = 0; tap < placesY.length; tap++) {
      const [from, weight] = [placesY[tap][y] * width, weightsY[tap][y]];
      for (let x = 0; x < width; x++) {
        rows[y * width + x] += Math.fround(Math.fround(image.pixels[from + x]) * weight);
      }
    }
  }
  const pixels = new Float32Array(shape[0] * shape[1]);
  const [placesX, weightsX] = taps(width, shape[1]);
  for (let tap = 0; tap < placesX.length; tap++) {
    for (let y = 0; y < shape[0]; y++) {
      for (let x = 0; x < shape[1]; x++) {
        pixels[y * shape[1] + x] += Math.fround(rows[y * width + placesX[tap][x]] * weightsX[tap][x]);
      }
    }
  }
  return { pixels, shape };
}

/** What each of `count` outputs reads of `size` inputs: places and weights, by tap. */
function taps(size, count) {
  const step = size / count;
  const reach = Math.max(1, step);
  const number = Math.ceil(2 * reach);
  const places = Array.from({ length: number }, () => new Int32Array(count));
  const weights = Array.from({ length: number }, () => new Float32Array(count));
  for (let i = 0; i < count; i++) {
    const centre = (i + 0.5) * step - 0.5;
    const first = Math.floor(centre - reach) + 1;
    const raw = Array.from({ length: number }, (_, tap) => Math.max(0, 1 - Math.abs(first + tap - centre) / reach));
    const total = raw.reduce((a, b) => a + b, 0);
    for (let tap = 0; tap < number; tap++) {
      places[tap][i] = Math.min(Math.max(first + tap, 0), size - 1);
      weights[tap][i] = raw[tap] / total;
    }
  }
  return [places, weights];
}

// ---------------------------------------------------------------- what is shown

/** Grey values as bytes to look at, the darkest and brightest half percent cut off. */
export function shown({ pixels }) {
  const step = Math.max(1, Math.floor(pixels.length / 2 ** 18));
  const some = Float64Array.from({ length: Math.ceil(pixels.length / step) }, (_, i) => pixels[i * step]).sort();
  const [low, high] = [0.005, 0.995].map((part) => some[Math.round(part * (some.length - 1))]);
  const out = new Uint8ClampedArray(pixels.length);
  for (let i = 0; i < out.length; i++) out[i] = (255 * (pixels[i] - low)) / Math.max(high - low, 1e-6);
  return out;
}

/** The pixels beside which the probability crosses a threshold, to the right or below. */
export function outlines(probability, [height, width], threshold) {
  const edge = new Uint8Array(probability.length);
  for (let i = 0, y = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const cell = probability[i] > threshold;
      const beside = x + 1 < width && probability[i + 1] > threshold !== cell;
      edge[i] = beside || (y + 1 < height && probability[i + width] > threshold !== cell);
    }
  }
  return edge;
}
