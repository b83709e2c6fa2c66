// How large a TIFF says that its pixels are: OME-XML, then ImageJ's lines, then the resolution tags; as
// isbi_infer/volumes/tiff/scale.py reads them.

const NM = {
  pm: 1e-3, angstrom: 0.1, nm: 1, um: 1e3, mm: 1e6, cm: 1e7, inch: 25_400_000, m: 1e9,
};
const SPELLINGS = [
  [/^(å|a|ang|[åa]ngstr(ö|o|oe)ms?)$/, "angstrom"],
  [/^(pm|picomet(er|re)s?)$/, "pm"],
  [/^(nm|nanomet(er|re)s?)$/, "nm"],
  [/^(um|μm|μ|mum|microns?|micromet(er|re)s?)$/, "um"],
  [/^(mm|millimet(er|re)s?)$/, "mm"],
  [/^(cm|centimet(er|re)s?)$/, "cm"],
  [/^(in|inch|inches|")$/, "inch"],
  [/^(m|met(er|re)s?)$/, "m"],
];
const TAG_UNITS = { 2: "inch", 3: "cm" };
const COARSEST_PLAIN_NM = 20_000; // coarser ones are for printing
export const PLAUSIBLE_NM = [0.5, 100];

const plausible = ({ y, x }) => Math.min(y, x) >= PLAUSIBLE_NM[0] && Math.max(y, x) <= PLAUSIBLE_NM[1];

/** Return { y, x } in nanometres, or null. */
export function pixelSizeOf({ ImageDescription: description, XResolution, YResolution, ResolutionUnit = 2 }) {
  const resolution = [YResolution, XResolution].map(ratio);
  const text = description ?? "";
  const ome = /<(?:\w+:)?Pixels\b([^>]*)>/.exec(text);
  return (
    (ome && fromOme(ome[1])) ||
    (text.startsWith("ImageJ=") && fromImageJ(text, resolution, ResolutionUnit)) ||
    notForPrinting(per(resolution, TAG_UNITS[ResolutionUnit]))
  );
}

function fromOme(attributes) {
  const sizes = ["Y", "X"].map((axis) => {
    const attribute = (name) => new RegExp(`\\b${name}="([^"]*)"`).exec(attributes)?.[1];
    const scale = NM[spelled(attribute(`PhysicalSize${axis}Unit`) ?? "um")];
    return Number(attribute(`PhysicalSize${axis}`)) * scale;
  });
  return sized(sizes);
}

function fromImageJ(text, resolution, tagUnit) {
  const unit = spelled(/^unit=(.*)$/m.exec(text)?.[1] ?? "");
  const [found, other] = [per(resolution, unit), per(resolution, TAG_UNITS[tagUnit])];
  if (!found) return null;
  if (Math.max(found.y, found.x) > COARSEST_PLAIN_NM && NM[unit] >= NM.mm) return null;
  const asImageJ = tagUnit === 3 && unit === "um"; // which ImageJ itself takes for pixels per centimetre
  return other && plausible(other) && (asImageJ || !plausible(found)) ? other : found;
}

function notForPrinting(size) {
  return size && Math.max(size.y, size.x) <= COARSEST_PLAIN_NM ? size : null;
}

function per(resolution, unit) {
  return unit ? sized(resolution.map((pixels) => NM[unit] / pixels)) : null;
}

function sized([y, x]) {
  return [y, x].every((size) => Number.isFinite(size) && size > 0) ? { y, x } : null;
}

function ratio(value) {
  if (value === undefined || typeof value === "number") return value;
  return value.length > 1 ? value[0] / value[1] : value[0];
}

/** Return the name of a unit in any usual spelling; undefined for "pixel" and what is not known. */
function spelled(unit) {
  const text = unit
    .replace(/\\u([0-9a-fA-F]{4})/g, (_, code) => String.fromCharCode(parseInt(code, 16)))
    .replace(/Â(?=µ)/g, "")
    .normalize("NFKC")
    .trim()
    .toLowerCase();
  return SPELLINGS.find(([pattern]) => pattern.test(text))?.[1];
}
