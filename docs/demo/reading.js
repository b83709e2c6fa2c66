// Sections out of TIFF, PNG and JPEG files, as { pixels, shape: [Y, X] }; read from the reader's own disk, never sent.

import "./vendor/geotiff.js"; // a classic script: it leaves GeoTIFF in the global scope
import { UserError } from "./errors.js";
import { pixelSizeOf } from "./pixel-size.js";

const { GeoTIFF } = globalThis;
const EXPECTED = "expected a greyscale TIFF, PNG or JPEG";
const PHOTOMETRICS = { 2: "RGB", 3: "palette colours", 4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab" };
const KINDS = { 1: "integers", 2: "integers", 3: "floats" };
const MOST_SECTIONS = 4096;

/**
 * Open a file: { sections, shape, pixelSize, notes, read(index) }.
 *
 * pixelSize: { y, x } in nanometres, or null; notes: sentences about what the file says.
 */
export async function openImage(file) {
  const head = new Uint8Array(await file.slice(0, 33).arrayBuffer());
  if (!head.length) throw new UserError(`${file.name} is empty; ${EXPECTED}.`);
  const text = String.fromCharCode(...head.subarray(0, 4));
  if (/^(II[*+]\0|MM\0[*+])/.test(text)) return openTiff(file);
  if (text === "\x89PNG" || text.startsWith("\xff\xd8\xff")) return openPicture(file, head);
  throw new UserError(`${file.name} is no image that this page reads; ${EXPECTED}.`);
}

async function openTiff(file) {
  let [tiff, first, sections] = [null, null, 0];
  try {
    tiff = await GeoTIFF.fromBlob(file);
    first = await tiff.getImage(0);
    sections = Math.min(await tiff.getImageCount(), MOST_SECTIONS);
  } catch {
    throw new UserError(`${file.name} is a TIFF that is cut or damaged; copy or export it again.`);
  }
  const shape = await checkedLayout(file, first);
  const tags = {};
  for (const name of ["ImageDescription", "XResolution", "YResolution", "ResolutionUnit"]) {
    tags[name] = await first.fileDirectory.loadValue(name);
  }
  const notes = [];
  const declared = Number(/^ImageJ=[^]*^images=(\d+)/m.exec(tags.ImageDescription ?? "")?.[1] ?? 1);
  if (declared > sections) notes.push(`The file declares ${declared} sections, of which this page reads ${sections}.`);
  const read = async (index) => {
    const page = await tiff.getImage(index);
    const here = await checkedLayout(file, page);
    if (here.some((size, axis) => size !== shape[axis])) {
      throw new UserError(`Page ${index + 1} is ${here[1]} x ${here[0]} pixels, the first one ${shape[1]} x ${shape[0]}.`);
    }
    let pixels;
    try {
      [pixels] = await page.readRasters({ samples: [0] });
    } catch (error) {
      const unknown = /compression method/i.test(error.message);
      const why = unknown ? "is compressed in a way that this page does not read; save it uncompressed" : "is damaged; copy or export it again";
      throw new UserError(`Page ${index + 1} of ${file.name} ${why}.`);
    }
    return finite(inverted(pixels, page), here, file.name);
  };
  return { sections, shape, pixelSize: pixelSizeOf(tags), notes, read };
}

/** Return the shape of a page that is greyscale and whole in the file. */
async function checkedLayout(file, page) {
  const value = (name) => page.fileDirectory.loadValue(name);
  const photometric = (await value("PhotometricInterpretation")) ?? 1;
  const samples = page.getSamplesPerPixel();
  if (photometric > 1 || samples !== 1) {
    const found = PHOTOMETRICS[photometric] ?? `${samples} samples a pixel`;
    throw new UserError(`${file.name} holds ${found}; expected greyscale: convert it to 8 or 16 bits of grey.`);
  }
  const [bits, format] = [page.getBitsPerSample(), page.getSampleFormat()];
  if (!KINDS[format] || ![8, 16, 32, 64].includes(bits) || (format !== 3 && bits === 64)) {
    throw new UserError(`${file.name} holds ${bits}-bit ${KINDS[format] ?? "samples"}; expected 8 or 16 bits of grey.`);
  }
  if (photometric === 0 && format === 3) {
    throw new UserError(`${file.name} holds floats whose 0 is white; invert them and save the file again.`);
  }
  const kind = page.isTiled ? "Tile" : "Strip";
  const [offsets, lengths] = [await value(`${kind}Offsets`), await value(`${kind}ByteCounts`)];
  const missing = offsets === undefined || lengths === undefined;
  if (missing || offsets.some((offset, i) => Number(offset) + Number(lengths[i]) > file.size)) {
    throw new UserError(`${file.name} is cut or damaged: its pixels reach beyond its end; copy or export it again.`);
  }
  return [page.getHeight(), page.getWidth()];
}

function inverted(pixels, page) {
  if (page.fileDirectory.getValue("PhotometricInterpretation") !== 0) return pixels;
  return pixels.map((pixel) => ~pixel);
}

function finite(pixels, shape, name) {
  const bad = pixels instanceof Float32Array || pixels instanceof Float64Array ? pixels.findIndex((p) => !Number.isFinite(p)) : -1;
  if (bad >= 0) throw new UserError(`${name} holds pixels that are no finite numbers; replace them, for instance by the mean.`);
  return { pixels, shape };
}

async function openPicture(file, head) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new UserError(`${file.name} is a picture that is cut, damaged or too large for this browser; save it again.`);
  }
  const { width, height } = bitmap;
  bitmap.close();
  // Bits of a channel, at byte 24 of a PNG: its header comes first.
  const deep = head[0] === 0x89 && head[24] === 16;
  const notes = deep ? ["The browser reads PNG in 8 bits, this file has 16: save it as TIFF to use them all."] : [];
  const read = async () => {
    const image = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    image.close();
    const { data } = context.getImageData(0, 0, width, height);
    const pixels = new Uint8Array(width * height);
    for (let i = 0; i < pixels.length; i++) {
      const [red, green, blue] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
      if (red !== green || green !== blue) {
        throw new UserError(`${file.name} is a colour picture; expected greyscale: convert it to grey.`);
      }
      pixels[i] = red;
    }
    return { pixels, shape: [height, width] };
  };
  return { sections: 1, shape: [height, width], pixelSize: null, notes, read };
}
