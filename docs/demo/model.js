// A released model: fetched, compared with what the site was built with, and its contract read.

import { UserError } from "./errors.js";

const CONTRACT_KEY = "isbi_infer.contract";
const SCHEMA = 4;
const METADATA = 14; // of ModelProto (onnx.proto)

/**
 * Fetch a model file; `entry` is one of models.json.
 *
 * A file that was cut has another length, and a changed one another SHA-256 (which browsers compute for https:// and
 * localhost only).
 */
export async function fetchModel(entry, base) {
  const content = await fetched(new URL(entry.file, base), "The model");
  if (content.length !== entry.bytes) {
    throw new UserError(
      `The model file is damaged: ${content.length} of ${entry.bytes} bytes arrived; reload the page, and tell whoever ` +
        "runs this site if it stays so.",
    );
  }
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== entry.sha256) {
      throw new UserError("The model file is damaged: its SHA-256 is not that of the release; reload the page.");
    }
  }
  return { content, contract: readContract(content) };
}

/** Fetch a file of this site as bytes; `what` begins the sentence where that fails. */
export async function fetched(url, what) {
  let answer;
  try {
    answer = await fetch(url);
    if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
  } catch {
    throw new UserError(
      `${what} could not be loaded: the first visit needs the network; connect and reload the page, later visits need none.`,
    );
  }
  throw new UserError(`${what} could not be loaded: the server answers ${answer.status}; reload the page.`);
}

/** Read the contract that a model file carries. */
export function readContract(content) {
  let document;
  try {
    document = JSON.parse(metadata(content)[CONTRACT_KEY]);
  } catch {
    throw new UserError("The model file is damaged: it carries no contract that can be read; reload the page.");
  }
  const known =
    document.schema === SCHEMA && document.input_dtype === "float32" && document.output_dtype === "float32";
  const alone = (document.input_channels ?? 1) === 1; // sees no neighbouring sections
  if (!known || !alone || document.exact !== true) {
    throw new UserError("This model asks for more than the page can do; use it with the isbi-infer command.");
  }
  return document;
}

function metadata(content) {
  const text = new TextDecoder("utf-8", { fatal: true });
  const found = {};
  for (const [number, value] of fields(content)) {
    if (number !== METADATA) continue;
    const entry = Object.fromEntries([...fields(value)].map(([key, part]) => [key, text.decode(part)]));
    found[entry[1]] = entry[2];
  }
  return found;
}

/** Walk one level of a protobuf message: number and value of each field. */
function* fields(message) {
  let at = 0;
  const varint = () => {
    let [value, factor] = [0, 1];
    for (;;) {
      if (at >= message.length) throw new RangeError("cut");
      const byte = message[at++];
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 128;
    }
  };
  while (at < message.length) {
    const key = varint();
    const [number, wire] = [Math.floor(key / 8), key % 8];
    if (wire === 0) {
      yield [number, varint()];
      continue;
    }
    const length = { 1: 8, 5: 4 }[wire] ?? (wire === 2 ? varint() : NaN);
    if (!(at + length <= message.length)) throw new RangeError("cut");
    yield [number, message.subarray(at, at + length)];
    at += length;
  }
}
