// Elements of the page. Whatever comes from a recording becomes text here, and never markup.

const byId = (id) => document.getElementById(id);

/** An element with a class, and children: elements or text. */
function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text of at most `longest` characters; all of it is in the tooltip of `name`. */
function short(text, longest = 60) {
  if (text.length <= longest) return text;
  const half = Math.floor((longest - 1) / 2);
  return `${text.slice(0, half)}…${text.slice(-half)}`;
}

/** A name as an element: short, with the whole in its tooltip. */
function named(tag, className, text, longest = 60) {
  const element = el(tag, className, short(text, longest));
  if (text.length > longest) element.title = text;
  return element;
}

/** A path or name as the head of a row, which may be broken after the signs that join its parts. */
function rowHead(text) {
  const head = named("th", "", text, 80);
  head.scope = "row";
  const parts = head.textContent.split(/(?<=[/_.])/);
  head.replaceChildren(...parts.flatMap((part, i) => (i ? [el("wbr"), part] : [part])));
  return head;
}

/** Text as plotly shows it as it is, on one line: it reads tags and entities. */
function forPlotly(text, longest = 60) {
  return short(text, longest)
    .replace(/\s+/g, " ")
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;");
}

const counted = new Intl.NumberFormat("en-US").format;
const plural = (n, one, many = `${one}s`) => `${counted(n)} ${n === 1 ? one : many}`;

/** Seconds as a person reads them. */
function duration(seconds) {
  if (!Number.isFinite(seconds)) return String(seconds);
  if (seconds < 60) return `${Number(seconds.toPrecision(4))} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${counted(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

/** A number with at most so many digits that matter. */
function rounded(value, digits = 6) {
  if (!Number.isFinite(value)) return spelled(value);
  return Number.isInteger(value) && Math.abs(value) < 1e15 ? counted(value) : String(Number(value.toPrecision(digits)));
}

/** A number as Python writes it, but for a float that is whole. */
function spelled(value) {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const [digits, exponent] = value.toExponential().split("e");
  if (value === 0 || (exponent >= -4 && exponent < 16)) return String(value);
  return `${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const unit = bytes < 1 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1);
  return `${rounded(bytes / 1000 ** unit, 3)} ${units[unit]}`;
}

/** Fills a table that scrolls in itself; cells are text, or elements. */
function fillTable(table, head, rows) {
  const cell = (tag, content) => {
    const made = el(tag, typeof content === "number" ? "number" : "");
    made.append(typeof content === "number" ? rounded(content) : content ?? "");
    return made;
  };
  const top = el("tr", "", ...head.map((title) => cell("th", title)));
  for (const each of top.children) each.scope = "col";
  table.replaceChildren(el("thead", "", top), el("tbody", "", ...rows.map((row) => el("tr", "", ...row.map((content, i) => {
    const made = cell(i ? "td" : "th", content);
    if (!i) made.scope = "row";
    return made;
  })))));
}
