// The result as a TIFF of float32 in one strip, with its pixel size where that is known.

const [SHORT, LONG, RATIONAL] = [3, 4, 5];
const PIXELS_PER = 4_000_000_000; // the numerator of pixels per centimetre: 400 a nanometre

/** Return a Blob; pixelSize: { y, x } in nanometres, or null. */
export function tiffOf(probability, [height, width], pixelSize) {
  const resolution = pixelSize ? [pixelSize.x, pixelSize.y] : [];
  const entries = [
    [256, LONG, width],
    [257, LONG, height],
    [258, SHORT, 32],
    [259, SHORT, 1], // not compressed
    [262, SHORT, 1], // 0 is black
    [273, LONG, null], // where the pixels begin
    [277, SHORT, 1],
    [278, LONG, height],
    [279, LONG, 4 * probability.length],
    ...resolution.map((_, i) => [282 + i, RATIONAL, null]),
    ...(pixelSize ? [[296, SHORT, 3]] : []),
    [339, SHORT, 3], // floats
  ];
  const rationals = 8 + 2 + 12 * entries.length + 4;
  const start = rationals + 8 * resolution.length;
  const view = new DataView(new ArrayBuffer(start));
  view.setUint32(0, 0x49492a00); // little-endian TIFF
  view.setUint32(4, 8, true);
  view.setUint16(8, entries.length, true);
  entries.forEach(([tag, type, value], i) => {
    const at = 10 + 12 * i;
    view.setUint16(at, tag, true);
    view.setUint16(at + 2, type, true);
    view.setUint32(at + 4, 1, true);
    if (type === RATIONAL) view.setUint32(at + 8, rationals + 8 * (tag - 282), true);
    else view.setUint32(at + 8, tag === 273 ? start : value, true);
  });
  resolution.forEach((size, i) => {
    view.setUint32(rationals + 8 * i, PIXELS_PER, true);
    view.setUint32(rationals + 8 * i + 4, Math.round(400 * size), true);
  });
  return new Blob([view.buffer, probability], { type: "image/tiff" }); // typed arrays are little-endian in every browser
}
