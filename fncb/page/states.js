// What a callback remembered at an event: its first state, and patches on it.

/** A value with a patch of `page/plain.py` applied. Values are never changed, so they share what is the same. */
function patched(value, patch) {
  if (!Array.isArray(patch)) return decoded(patch);
  const [how, changes, more] = patch;
  if (how === 0) return decoded(changes);
  if (how === 2) return [...value.slice(changes), ...more.map(decoded)];
  if (how === 3) {
    const list = [...value];
    for (let i = 0; i < changes.length; i += 2) list[changes[i]] = patched(list[changes[i]], changes[i + 1]);
    return list;
  }
  const map = new Map(value);
  for (let i = 0; i < changes.length; i += 2) map.set(changes[i], patched(map.get(changes[i]), changes[i + 1]));
  for (const key of more) map.delete(key);
  return map;
}

/** A callback, and its state at any event. */
class RecordedCallback {
  constructor(callback) {
    Object.assign(this, callback);
    if (!this.states) return;
    this.at = this.states.at;
    this.known = new Map([[0, decoded(this.states.init)]]); // the state after so many changes, every 64th
    this.last = [0, this.known.get(0)];
  }

  get isTold() {
    return Boolean(this.states?.known);
  }

  /** Whether it was folded up to an event. */
  reaches(i) {
    return this.isTold && !(this.states.failed && i >= this.states.failed.at);
  }

  changesAt(i) {
    const n = upTo(this.at, i);
    return n > 0 && this.at[n - 1] === i;
  }

  /** The state after an event; after the one before with `i - 1`. */
  after(i) {
    return this.afterChanges(upTo(this.at, i));
  }

  afterChanges(n) {
    let [from, state] = this.last[0] <= n ? this.last : [-1, null];
    const kept = Math.floor(n / 64) * 64;
    for (let k = kept; k > from; k -= 64) {
      if (this.known.has(k)) [from, state] = [k, this.known.get(k)];
    }
    while (from < n) {
      state = patched(state, this.states.patches[from++]);
      if (from % 64 === 0) this.known.set(from, state);
    }
    this.last = [n, state];
    return state;
  }
}

const isScalar = (value) => value === null || typeof value !== "object" || value instanceof Opaque;

/** A state as rows of a path and a text: records and mappings field by field, short lists item by item. */
function rowsOf(state) {
  const rows = [];
  const walk = (path, value) => {
    const items = value instanceof Map ? [...value] : Array.isArray(value) ? value.map((each, i) => [i, each]) : null;
    if (!items || !items.length || (Array.isArray(value) && (value.every(isScalar) || value.length > 8))) {
      rows.push([path.length ? path.join(".") : "value", inline(value)]);
    } else {
      for (const [key, each] of items) walk([...path, String(key)], each);
    }
  };
  walk([], state);
  return rows;
}

const isEmpty = (text) => text === "[]" || text === "{}";

/** Rows of a state with what they were before, where that is something else; undefined where there was nothing. */
function changedRows(before, after) {
  if (before === after) return [];
  const [was, is] = [new Map(rowsOf(before)), new Map(rowsOf(after))];
  const changed = [];
  for (const [path, text] of is) if (was.get(path) !== text) changed.push([path, was.get(path), text]);
  for (const [path, text] of was) if (!is.has(path)) changed.push([path, text, undefined]);
  // that a list is not empty any more is told by its items
  return changed.filter(([path, old, now]) => !isEmpty(old ?? now) || !changed.some(([other]) => other.startsWith(`${path}.`)));
}
