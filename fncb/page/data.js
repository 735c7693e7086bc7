// The data of the page: unpacked, and read by event.

const TYPES = { B: Uint8Array, H: Uint16Array, i: Int32Array, I: Uint32Array, f: Float32Array, d: Float64Array };

/** The bytes of one of the page's blobs. */
async function unpacked(id) {
  const element = byId(id);
  const text = element.textContent;
  element.remove();
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** The story, with arrays of numbers where `{"@": [type, offset, n]}` stands for them. */
async function readStory() {
  const [data, numbers] = await Promise.all([unpacked("data"), unpacked("numbers")]);
  return filled(JSON.parse(new TextDecoder().decode(data)), numbers);
}

/** Puts arrays of numbers where they belong. Lists of values and patches, of which there are many, have none. */
function filled(value, numbers) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return typeof value[0] === "object" ? value.map((each) => filled(each, numbers)) : fillPair(value, numbers);
  if (Array.isArray(value["@"])) return array(numbers, ...value["@"]);
  for (const name of Object.keys(value)) if (name !== "patches" && name !== "init") value[name] = filled(value[name], numbers);
  return value;
}

/** A pair of a name and a column; other lists are left as they are. */
function fillPair(list, numbers) {
  if (list.length === 2 && typeof list[1] === "object") list[1] = filled(list[1], numbers);
  return list;
}

/** Numbers whose first bytes lie together, then all second bytes, and so on. */
function array(buffer, code, offset, n) {
  const numbers = new TYPES[code](n);
  const width = numbers.BYTES_PER_ELEMENT;
  const from = new Uint8Array(buffer, offset, n * width);
  const to = new Uint8Array(numbers.buffer);
  for (let byte = 0, at = 0; byte < width; byte++) for (let i = byte; i < to.length; i += width) to[i] = from[at++];
  return numbers;
}

/** How many of sorted numbers are at most `value`. */
function upTo(numbers, value) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Text for what is not plain data, or too much of it. */
class Opaque {
  constructor(text) {
    this.text = text;
  }
}

/** A value in the notation of `page/plain.py`: numbers, text, arrays, maps, opaques. */
function decoded(value) {
  if (Array.isArray(value)) return value.map(decoded);
  if (value === null || typeof value !== "object") return value;
  if ("n" in value) return { nan: NaN, inf: Infinity, "-inf": -Infinity }[value.n];
  if ("t" in value) return new Opaque(value.t);
  const map = new Map();
  for (let i = 0; i < value.d.length; i += 2) map.set(value.d[i], decoded(value.d[i + 1]));
  return map;
}

/** A value on one line. */
function inline(value, items = 12) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "number") return spelled(value);
  if (typeof value === "string") return JSON.stringify(value);
  if (value instanceof Opaque) return value.text;
  const texts = value instanceof Map
    ? [...value].map(([key, each]) => `${key}: ${inline(each)}`)
    : value.map((each) => inline(each));
  const shown = texts.length > items
    ? [...texts.slice(0, items / 2), `… ${counted(texts.length)} in all …`, ...texts.slice(-items / 2)]
    : texts;
  return value instanceof Map ? `{${shown.join(", ")}}` : `[${shown.join(", ")}]`;
}

/** Records as `page/tables.py` wrote them. */
class Table {
  constructor(table) {
    this.kinds = table.kinds;
    this.kind = table.kind;
    this.parts = table.parts;
    this.row = new Uint32Array(table.kind.length); // its place among those of its class
    const counts = new Uint32Array(table.kinds.length);
    for (let i = 0; i < this.row.length; i++) this.row[i] = counts[table.kind[i]]++;
  }

  get length() {
    return this.kind.length;
  }

  kindOf(i) {
    return this.kinds[this.kind[i]];
  }

  /** Name and value of the fields of a record. */
  fields(i) {
    return this.read(this.parts[this.kind[i]].fields, this.row[i]);
  }

  metrics(i) {
    return this.read(this.parts[this.kind[i]].metrics, this.row[i]);
  }

  read(columns, row) {
    const found = [];
    for (const [name, column] of columns) {
      if ("all" in column) {
        found.push([name, decoded(column.all)]);
        continue;
      }
      let at = row;
      if (column.rows) {
        at = upTo(column.rows, row) - 1;
        if (at < 0 || column.rows[at] !== row) continue;
      }
      found.push([name, decoded(column.values[at])]);
    }
    return found;
  }
}

/** A run of the story, with what is asked of it again and again worked out once. */
class RecordedRun {
  constructor(run) {
    Object.assign(this, run);
    this.events = Object.assign(new Table(run.events), { epoch: run.events.epoch, step: run.events.step, seconds: run.events.seconds });
    this.effects = Object.assign(new Table(run.effects), {
      at: run.effects.at, keys: run.effects.keys, key: run.effects.key, answer: run.effects.answer,
    });
    this.effects_left_out = run.effects.left_out;
    this.spanOf = new Map(Array.from(run.spans.epochs, (epoch, i) => [epoch, [run.spans.begins[i], run.spans.ends[i]]]));
    this.callbacks = run.callbacks.map((each) => new RecordedCallback(each));
  }

  get length() {
    return this.events.length;
  }

  /** Where an event is on an axis. An epoch is a place between two: 1.5 is the middle of the second. */
  x(axis, i) {
    if (axis !== "epoch") return this.events[axis][i];
    const epoch = this.events.epoch[i];
    const [begins, ends] = this.spanOf.get(epoch);
    const share = ends > begins ? (this.events.step[i] - begins) / (ends - begins) : 0;
    return epoch + Math.min(Math.max(share, 0), 1);
  }

  /** The number of an event in the recording, of which the page may not have all. */
  number(i) {
    return this.numbers ? this.numbers[i] : i;
  }

  /** The effects that were asked for at an event, by their number. */
  effectsAt(i) {
    const end = upTo(this.effects.at, i);
    const begin = upTo(this.effects.at, i - 1);
    return Array.from({ length: end - begin }, (_, k) => begin + k);
  }

  /** The last event at which an effect of a class was asked for; null if there is none. */
  lastOf(kind) {
    for (let i = this.effects.length - 1; i >= 0; i--) if (this.effects.kindOf(i) === kind) return this.effects.at[i];
    return null;
  }

  /** When an event was, in words. */
  moment(i) {
    const { epoch, step, seconds } = this.events;
    return `epoch ${counted(epoch[i])}, step ${counted(step[i])}, ${duration(seconds[i])}`;
  }
}
