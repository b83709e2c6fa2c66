// What of a section is no tissue: the same rules as isbi_infer/pixels/canvas.py and flat.py, on a section held whole.
//
// Canvas is a large connected region of exactly one grey value that ends abruptly. Tissue that was clipped to black or
// white is flat too, but in smaller and ragged patches, beyond which the grey value changes slowly.

const SOLID = 32; // px
const CORNER = 256; // pixels of a region that holds a corner of the section
const THIN = 4; // px
const MARGIN = THIN - 1; // px
const CONTACT = 128; // px
const RIM = 2; // px
const STEP = 0.6; // of the mean difference between tissue and canvas
const RAGGED = 0.12; // of the rim's pixels have the region's value too
const LARGE = 160; // px; where JPEG blurs the edges only size tells
const BLUR = 7; // px
const ALIKE = 0.4; // of the mean difference between tissue and canvas
const MOST_REGIONS = 64; // a section of more has few grey levels and no canvas
const TISSUE = 16; // px, side of the smallest square that counts as tissue left
const GREATEST_GREY = 1e30;

/** Return 1 for every pixel that is no tissue, everywhere in a blank section; null where all is tissue. */
export function findCanvas({ pixels, shape }) {
  const regions = flatRegions(pixels, shape);
  if (!regions.length) return null;
  const [height, width] = shape;
  const canvas = new Uint8Array(pixels.length);
  for (const region of regions) paint(canvas, shape, region);
  const side = Math.min(TISSUE, height, width);
  if (!hasSquare((i) => !canvas[i], shape, side)) canvas.fill(1);
  return canvas;
}

function flatRegions(pixels, shape) {
  const [height, width] = shape;
  const least = Math.min(height, width);
  if (least < 2 * THIN) return [];
  const side = Math.min(SOLID, Math.max(2 * THIN, Math.floor(least / 2)));
  const solid = startsOfFlat(pixels, shape, side);
  const contact = edgeContacts(pixels, shape);
  const corners = flatCorners(pixels, shape);
  if (!(solid.length || contact.length || corners.length)) return [];
  const wide = widened(pixels, shape);
  const grid = [height + MARGIN, width + MARGIN]; // where windows of 4 x 4 pixels of it may start
  const flat = flatWindows(wide.pixels, wide.shape, THIN);
  const labels = new Int32Array(grid[0] * grid[1]);
  const parts = [null]; // the origins of each region, from 1
  const labelled = (places) => new Set(places.map(([y, x]) => {
    const start = (y && y + MARGIN) * grid[1] + (x && x + MARGIN);
    if (!labels[start] && flat[start]) parts.push(flood(flat, labels, grid, start, parts.length));
    return labels[start];
  }));
  const [solidOnes, touching, cornered] = [solid, contact, corners].map(labelled);
  let candidates = new Set([...touching, ...cornered, ...solidOnes]);
  if (candidates.size > MOST_REGIONS) candidates = new Set([...touching, ...cornered]);
  const found = [...candidates]
    .filter((label) => label)
    .map((label) => regionOf(parts[label], pixels, shape, grid[1], touching.has(label)))
    .filter((region, i) => {
      const label = [...candidates].filter((each) => each)[i];
      const byCornerAlone = cornered.has(label) && !touching.has(label) && !solidOnes.has(label);
      return !byCornerAlone || region.mask.reduce((n, one) => n + one, 0) >= CORNER;
    })
    .filter(({ value }) => Math.abs(value) < GREATEST_GREY);
  return abrupt(pixels, shape, found);
}

/** Mark where a square of equal pixels starts, in an array of the image's shape less `side - 1`. */
function flatWindows(pixels, [height, width], side) {
  const [rows, columns] = [height - side + 1, width - side + 1];
  const out = new Uint8Array(rows * columns);
  const depth = new Int32Array(width); // rows from here down that are equal over the window's width, and to one another
  const run = new Int32Array(width);
  for (let y = height - 1; y >= 0; y--) {
    for (let x = width - 1; x >= 0; x--) {
      const i = y * width + x;
      run[x] = x + 1 < width && pixels[i] === pixels[i + 1] ? run[x + 1] + 1 : 1;
      const on = y + 1 < height && pixels[i] === pixels[i + width];
      depth[x] = run[x] >= side ? 1 + (on ? depth[x] : 0) : 0;
      if (y < rows && x < columns && depth[x] >= side) out[y * columns + x] = 1;
    }
  }
  return out;
}

/** List where runs of flat squares start, along rows. */
function startsOfFlat(pixels, shape, side) {
  const flat = flatWindows(pixels, shape, side);
  const columns = shape[1] - side + 1;
  const found = [];
  flat.forEach((one, i) => {
    if (one && (i % columns === 0 || !flat[i - 1])) found.push([Math.floor(i / columns), i % columns]);
  });
  return found;
}

/** List places on the section's edges where a long run of equal pixels starts. */
function edgeContacts(pixels, [height, width]) {
  const found = [];
  const edges = [
    [width, (i) => [0, i]],
    [width, (i) => [height - 1, i]],
    [height, (i) => [i, 0]],
    [height, (i) => [i, width - 1]],
  ];
  for (const [length, place] of edges) {
    const contact = Math.max(Math.floor(length / 4), Math.min(CONTACT, Math.floor(length / 2)));
    const at = (i) => pixels[place(i)[0] * width + place(i)[1]];
    let run = 0;
    for (let i = length - 1; i >= 0; i--) {
      run = i + 1 < length && at(i) === at(i + 1) ? run + 1 : 1;
      if (run >= contact) found.push(place(i));
    }
  }
  return found;
}

function flatCorners(pixels, [height, width]) {
  const corners = [0, height - THIN].flatMap((y) => [0, width - THIN].map((x) => [y, x]));
  return corners.filter(([y, x]) => {
    for (let i = 0; i < THIN ** 2; i++) {
      if (pixels[(y + Math.floor(i / THIN)) * width + x + (i % THIN)] !== pixels[y * width + x]) return false;
    }
    return true;
  });
}

/** Return the image going on as its edge pixels by 3 pixels, so that strips of a single pixel are seen. */
function widened(pixels, [height, width]) {
  const shape = [height + 2 * MARGIN, width + 2 * MARGIN];
  const out = new pixels.constructor(shape[0] * shape[1]);
  for (let y = 0, at = 0; y < shape[0]; y++) {
    const row = Math.min(Math.max(y - MARGIN, 0), height - 1) * width;
    for (let x = 0; x < shape[1]; x++) out[at++] = pixels[row + Math.min(Math.max(x - MARGIN, 0), width - 1)];
  }
  return { pixels: out, shape };
}

/** Label what is connected with a place, and list it. */
function flood(flat, labels, [height, width], start, label) {
  const found = [start];
  labels[start] = label;
  const visit = (i) => {
    if (!flat[i] || labels[i]) return;
    labels[i] = label;
    found.push(i);
  };
  for (let next = 0; next < found.length; next++) {
    const i = found[next];
    if (i % width) visit(i - 1);
    if ((i + 1) % width) visit(i + 1);
    if (i >= width) visit(i - width);
    if (i + width < height * width) visit(i + width);
  }
  return found;
}

/** Return { value, touches, box: [top, bottom, left, right], mask }: the pixels of the windows that start at `origins`. */
function regionOf(origins, pixels, [height, width], columns, touches) {
  let [top, bottom, left, right] = [Infinity, 0, Infinity, 0];
  for (const i of origins) {
    const [y, x] = [Math.floor(i / columns), i % columns];
    top = Math.min(top, Math.max(0, y - MARGIN));
    bottom = Math.max(bottom, Math.min(height, y + 1));
    left = Math.min(left, Math.max(0, x - MARGIN));
    right = Math.max(right, Math.min(width, x + 1));
  }
  const mask = new Uint8Array((bottom - top) * (right - left));
  for (const i of origins) {
    const [y, x] = [Math.floor(i / columns), i % columns];
    for (let row = Math.max(y - MARGIN, top); row <= Math.min(y, bottom - 1); row++) {
      const first = (row - top) * (right - left) - left;
      mask.fill(1, first + Math.max(x - MARGIN, left), first + Math.min(x + 1, right));
    }
  }
  const at = mask.indexOf(1);
  const inside = right - left;
  const value = pixels[(top + Math.floor(at / inside)) * width + left + (at % inside)];
  return { value, touches, box: [top, bottom, left, right], mask };
}

function paint(out, [, width], { box: [top, bottom, left, right], mask }) {
  for (let y = top, i = 0; y < bottom; y++) {
    for (let x = left; x < right; x++, i++) if (mask[i]) out[y * width + x] = 1;
  }
}

/** Keep regions on a long edge, very large ones, and those that differ from their rim as from tissue anywhere. */
function abrupt(pixels, shape, regions) {
  const flat = new Uint8Array(pixels.length);
  for (const region of regions) paint(flat, shape, region);
  const kept = [];
  for (const region of regions) {
    const overall = steps(pixels, (i) => !flat[i], region.value);
    const rim = around(region, shape, RIM);
    const found = { total: 0, count: 0, equal: 0 };
    each(rim, shape, (i) => {
      if (flat[i]) return;
      found.total += Math.abs(pixels[i] - region.value);
      found.count++;
      found.equal += pixels[i] === region.value;
    });
    const ragged = found.equal >= RAGGED * found.count;
    const soft = (found.count ? found.total / found.count : 0) < STEP * overall;
    if (!found.count || !(ragged || soft)) {
      kept.push(region);
      continue;
    }
    const [top, bottom, left, right] = region.box;
    if (!region.touches && !hasSquare((i) => region.mask[i], [bottom - top, right - left], LARGE)) continue;
    kept.push(region);
    if (soft) {
      const blurred = around(region, shape, BLUR);
      each(blurred, shape, (i, place) => {
        blurred.mask[place] = !flat[i] && Math.abs(pixels[i] - region.value) < ALIKE * overall;
      });
      kept.push(blurred);
    }
  }
  return kept;
}

function steps(pixels, wanted, value) {
  let [total, count] = [0, 0];
  for (let i = 0; i < pixels.length; i++) {
    if (!wanted(i)) continue;
    total += Math.abs(pixels[i] - value);
    count++;
  }
  return count ? total / count : 0;
}

/** Call with the place in the section, and in the mask, of every pixel of a region. */
function each({ box: [top, bottom, left, right], mask }, [, width], call) {
  for (let y = top, i = 0; y < bottom; y++) {
    for (let x = left; x < right; x++, i++) if (mask[i]) call(y * width + x, i);
  }
}

/** Return where there is a pixel of a region at most so far away, along each axis. */
function around({ box, mask }, [height, width], distance) {
  const [top, bottom] = [Math.max(0, box[0] - distance), Math.min(height, box[1] + distance)];
  const [left, right] = [Math.max(0, box[2] - distance), Math.min(width, box[3] + distance)];
  const across = right - left;
  const rows = new Uint8Array((box[1] - box[0]) * across);
  const inside = box[3] - box[2];
  for (let y = 0; y < box[1] - box[0]; y++) {
    for (let x = 0; x < inside; x++) {
      if (!mask[y * inside + x]) continue;
      const at = box[2] + x - left;
      rows.fill(1, y * across + Math.max(at - distance, 0), y * across + Math.min(at + distance + 1, across));
    }
  }
  const out = new Uint8Array((bottom - top) * across);
  for (let y = top; y < bottom; y++) {
    const [first, last] = [Math.max(y - distance, box[0]), Math.min(y + distance, box[1] - 1)];
    for (let row = first; row <= last; row++) {
      for (let x = 0; x < across; x++) out[(y - top) * across + x] |= rows[(row - box[0]) * across + x];
    }
  }
  return { box: [top, bottom, left, right], mask: out };
}

function hasSquare(wanted, [height, width], side) {
  let above = new Int32Array(width + 1);
  for (let y = 0; y < height; y++) {
    const here = new Int32Array(width + 1); // the side of the largest square that ends at each pixel
    for (let x = 0; x < width; x++) {
      if (!wanted(y * width + x)) continue;
      here[x + 1] = 1 + Math.min(here[x], above[x], above[x + 1]);
      if (here[x + 1] >= side) return true;
    }
    above = here;
  }
  return false;
}
