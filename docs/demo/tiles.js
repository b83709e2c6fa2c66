// The plan of a section: the same arithmetic as isbi_infer/plan/tiles.py, so that tiles equal the whole section.
//
//     padded   |border|            image             |border + fill|
//     tile 0   [ reads ................... ]
//              [ owns (padded) ... ]~ halo ~
//     tile 1                 ~ halo ~[ owns (padded) ............. ]
//                            [ reads ............................. ]
//
// Spans are pairs [start, stop]; windows are pairs of spans, rows first.

import { UserError } from "./errors.js";

const roundUp = (value, multiple) => Math.ceil(value / multiple) * multiple;

export function paddedShape(shape, border, stride) {
  return shape.map((size) => roundUp(size + 2 * border, stride));
}

export function smallestTile({ stride, halo }) {
  return 2 * halo + stride;
}

/**
 * Plan one section: the tiles that compute the fewest pixels within the limits.
 *
 * shape: [Y, X] of the image; contract: { stride, halo, border } of the model;
 * limits: { tile, mostPixels }: the longest side of a tile and its largest area, each may be missing.
 */
export function planSection(shape, contract, { tile, mostPixels } = {}) {
  const { stride, halo, border } = contract;
  const smallest = smallestTile(contract);
  if (tile !== undefined && (!Number.isInteger(tile) || tile % stride || tile < smallest)) {
    const nearest = Math.max(Math.round(tile / stride) * stride || 0, smallest);
    throw new UserError(
      `A tile of ${tile} pixels cannot be used: expected a multiple of ${stride} from ${smallest} on; try ${nearest}.`,
    );
  }
  const padded = paddedShape(shape, border, stride);
  const longest = tile ?? Math.max(...padded);
  const tileShape = bestGrid(padded, stride, halo, longest, mostPixels ?? padded[0] * padded[1]);
  const [rows, columns] = [0, 1].map((axis) =>
    spans(shape[axis], border, padded[axis], halo, tileShape[axis]),
  );
  const pad = padded.map((size, axis) => [border, size - shape[axis] - border]);
  const tiles = rows.flatMap((row) =>
    columns.map((column) => ({
      reads: [row, column].map((span, axis) => [span.read, span.read + tileShape[axis]]),
      crop: [row, column].map((span) => span.owns.map((place) => place + border - span.read)),
      owns: [row.owns, column.owns],
    })),
  );
  return { shape, padded, pad, tileShape, tiles };
}

function tileSide(padded, halo, stride, count) {
  return roundUp(Math.ceil((padded + 2 * halo * (count - 1)) / count), stride);
}

function fewestTiles(padded, halo, stride, longest) {
  if (padded <= longest) return 1;
  return Math.ceil((padded - 2 * halo) / (Math.floor(longest / stride) * stride - 2 * halo));
}

function spans(size, border, padded, halo, tile) {
  if (padded <= tile) return [{ read: 0, owns: [0, size] }];
  const count = Math.ceil((padded - 2 * halo) / (tile - 2 * halo));
  const within = (place) => Math.min(Math.max(place - border, 0), size);
  const found = [];
  let start = 0;
  for (let i = 0; i < count; i++) {
    const read = Math.min(i * (tile - 2 * halo), padded - tile);
    const end = i === count - 1 ? padded : read + tile - halo;
    found.push({ read, owns: [within(start), within(end)] });
    start = end;
  }
  return found.filter(({ owns }) => owns[0] < owns[1]);
}

function bestGrid(padded, stride, halo, longest, mostPixels) {
  const smallest = smallestTile({ stride, halo });
  let best = null;
  for (let rows = fewestTiles(padded[0], halo, stride, longest); ; rows++) {
    const tileY = tileSide(padded[0], halo, stride, rows);
    const limitX = Math.min(longest, Math.floor(mostPixels / tileY));
    if (padded[1] <= limitX || limitX >= smallest) {
      const columns = fewestTiles(padded[1], halo, stride, limitX);
      const tileX = tileSide(padded[1], halo, stride, columns);
      const rank = [rows * columns * tileY * tileX, rows * columns, Math.abs(tileY - tileX), tileY, tileX];
      if (best === null || before(rank, best)) best = rank;
      if (columns === 1) break; // more rows would only repeat more halo
    }
    if ((rows > 1 && tileY <= smallest) || padded[0] <= smallest) break;
  }
  if (best === null) throw new UserError("There is too little memory for the smallest tile.");
  return best.slice(3);
}

function before(one, other) {
  const at = one.findIndex((value, i) => value !== other[i]);
  return at >= 0 && one[at] < other[at];
}

/** The places of a section that a span of the padded section shows: beyond its edges its mirror image, over and over. */
export function mirrored([start, stop], padBefore, size) {
  const places = new Int32Array(stop - start);
  const period = 2 * (size - 1);
  for (let i = 0; i < places.length; i++) {
    const at = start - padBefore + i;
    const folded = period ? ((at % period) + period) % period : 0;
    places[i] = Math.min(folded, period - folded);
  }
  return places;
}
