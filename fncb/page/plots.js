// The curves: one plot for each group of metrics, with marks where something was asked for, and a line at the moment.

const MOST_MARKS = 300; // of one kind in a run
const MOST_AT_FIRST = 8; // metrics of a plot that are shown before somebody asks for more
const DASHES = ["solid", "dash", "dot", "dashdot"];
const RATES = ["◆", "diamond", 2];
const MARKS = { // what stands for an effect: on the page, in plotly, and its colour
  Save: ["▲", "triangle-up", 3],
  Stop: ["■", "square", 4],
  SetLR: RATES,
  ScaleLR: RATES,
  Set: RATES,
  Remember: ["▶", "triangle-right", 5],
  Rollback: ["◀", "triangle-left", 5],
  Freeze: ["▼", "triangle-down", 6],
  Unfreeze: ["△", "triangle-up-open", 6],
  resumed: ["●", "circle", 1],
};
const markOf = (kind) => (Object.hasOwn(MARKS, kind) ? MARKS[kind] : ["✚", "cross", 7]);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const curveColour = (i) => colour(`c${1 + (i % 8)}`);

/** What was asked for, by kind: the event of each mark, and its effect. */
function marksOf(run, quiet) {
  const found = new Map();
  const add = (kind, mark) => (found.get(kind) ?? found.set(kind, []).get(kind)).push(mark);
  for (const at of run.resumed) add("resumed", { at });
  for (let i = 0; i < run.effects.length; i++) {
    const kind = run.effects.kindOf(i);
    if (!quiet.has(kind)) add(kind, { at: run.effects.at[i], effect: i });
  }
  return found;
}

function spread(list, most) {
  return list.length <= most ? list : Array.from({ length: most }, (_, k) => list[Math.floor((k * list.length) / most)]);
}

/** What became of a save, in words. */
function outcomeOf(run, effect) {
  if (run.effects.kindOf(effect) !== "Save") return null;
  const answer = run.effects.answer[effect];
  if (answer === undefined) return "no answer: it was not written, or the recording ends before it was";
  if (answer === null) return "written; the page leaves out the event that says so";
  const saved = new Map(run.events.fields(answer));
  const bytes = saved.get("bytes") ? `, ${size(saved.get("bytes"))}` : "";
  const took = saved.get("took") ? ` in ${duration(saved.get("took"))}` : "";
  return `written to ${saved.get("path") ?? "?"}${bytes}${took}`;
}

/** An effect in lines of text: what, by whom, with what, and what became of it. */
function linesOf(run, effect) {
  const key = run.effects.keys[run.effects.key[effect]];
  const fields = run.effects.fields(effect).map(([name, value]) => `${name}: ${typeof value === "string" ? value : inline(value)}`);
  return [`${run.effects.kindOf(effect)} by ${key ?? "a callback that the recording does not name"}`, ...fields, outcomeOf(run, effect)].filter(Boolean);
}

/** All plots. `go` is called with a run and an event when somebody clicks on a curve. */
class Plots {
  constructor(runs, quiet, go) {
    this.runs = runs;
    this.go = go;
    this.axis = "step";
    this.scale = "linear";
    this.range = undefined;
    this.moment = [0, 0];
    this.hiddenRuns = new Set();
    this.hiddenMarks = new Set();
    this.marks = runs.map((run) => marksOf(run, quiet));
    this.kinds = [...new Set(this.marks.flatMap((marks) => [...marks.keys()]))];
    const names = new Set(runs.flatMap((run) => run.curves.map((curve) => curve.plot)));
    if (!names.size && this.kinds.length) names.add("");
    this.plots = [...names].map((name) => new Plot(this, name));
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const plot = this.plots.find((each) => each.figure === target);
        plot.isNear = isIntersecting;
        if (isIntersecting) plot.drawIfStale();
      }
    }, { rootMargin: "400px" });
    for (const plot of this.plots) this.observer.observe(plot.figure);
  }

  /** Draws what can be seen; the rest when it comes near. */
  draw() {
    for (const plot of this.plots) {
      plot.isStale = true;
      if (plot.isNear ?? plot.figure.getBoundingClientRect().top < innerHeight + 400) plot.drawIfStale();
    }
  }

  moveTo(run, event) {
    this.moment = [run, event];
    for (const plot of this.plots) plot.placeLine();
  }

  /** All of the axis, from the first event to the last; undefined if that is no range. */
  whole() {
    const ends = this.runs.filter((run, r) => run.length && !this.hiddenRuns.has(r)).flatMap((run) => [run.x(this.axis, 0), run.x(this.axis, run.length - 1)]);
    const [least, most] = [Math.min(...ends), Math.max(...ends)];
    const room = 0.02 * (most - least);
    return room > 0 && Number.isFinite(room) ? [least - room, most + room] : undefined;
  }

  /** The same part of the axis in all plots; undefined for all of it. */
  zoom(range, from) {
    this.range = range;
    for (const plot of this.plots) {
      if (plot === from) continue;
      plot.isStale = true;
      if (plot.isNear) plot.drawIfStale();
    }
  }
}

class Plot {
  constructor(plots, name) {
    this.plots = plots;
    this.name = name;
    this.curves = plots.runs.map((run) => run.curves.filter((curve) => curve.plot === name));
    this.metrics = [...new Set(this.curves.flat().map((curve) => curve.name))];
    this.groups = [...new Set(this.metrics.map((metric) => metric.replace(/_epoch$/, "")))]; // share a colour
    this.hidden = new Set(this.metrics.slice(MOST_AT_FIRST));
    this.isStale = true;
    this.line = el("div", "moment-line");
    this.line.hidden = true;
    this.figure = el("div", "figure");
    this.figure.setAttribute("role", "img");
    this.figure.setAttribute("aria-label", `${name || "Effects"}: ${this.metrics.join(", ")}`.slice(0, 300));
    this.note = el("p", "note");
    this.element = el("article", "plot", el("header", "", named("h3", "", name || "Effects"), this.toggles()), el("div", "canvas", this.figure, this.line), this.note);
  }

  look(metric) {
    const group = this.groups.indexOf(metric.replace(/_epoch$/, ""));
    return this.plots.runs.length > 1
      ? { colour: null, dash: DASHES[group % DASHES.length] }
      : { colour: 1 + (group % 8), dash: "solid" };
  }

  toggles() {
    const chips = this.metrics.map((metric) => {
      const { colour, dash } = this.look(metric);
      const isBatch = this.curves.flat().find((curve) => curve.name === metric).batch;
      const swatch = el("span", `swatch ${dash}${isBatch ? " thin" : ""}`);
      swatch.style.color = colour ? `var(--c${colour})` : "currentColor";
      return toggle(!this.hidden.has(metric), (on) => {
        this.hidden[on ? "delete" : "add"](metric);
        this.draw();
      }, swatch, named("span", "", metric, 40), isBatch ? el("small", "", "each batch") : null);
    });
    return el("div", "chips", ...chips);
  }

  drawIfStale() {
    if (this.isStale) this.draw();
  }

  draw() {
    const isFirst = !this.figure.data;
    this.isStale = false;
    this.traces = [...this.curveTraces(), ...this.markTraces()];
    Plotly.react(this.figure, this.traces, this.layout(), { displayModeBar: false, responsive: true, doubleClick: "reset" });
    this.tellNote();
    if (!isFirst) return;
    this.figure.on("plotly_click", ({ points: [point] }) => {
      const { run, events } = this.traces[point.curveNumber].meta;
      this.plots.go(run, events[point.pointIndex ?? point.pointNumber]);
    });
    this.figure.on("plotly_afterplot", () => this.placeLine());
    this.figure.on("plotly_relayout", (change) => {
      const range = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      if (range[0] !== undefined) this.plots.zoom(range, this);
      else if (change["xaxis.autorange"]) this.plots.zoom(undefined, this);
      this.placeLine();
    });
    this.placeLine();
  }

  shownCurves(r) {
    return this.plots.hiddenRuns.has(r) ? [] : this.curves[r].filter((curve) => !this.hidden.has(curve.name));
  }

  curveTraces() {
    const several = this.plots.runs.length > 1;
    return this.plots.runs.flatMap((run, r) => this.shownCurves(r).map((curve) => {
      const { colour: index, dash } = this.look(curve.name);
      const title = forPlotly(several ? `${short(run.name, 30)}: ${curve.name}` : curve.name);
      return {
        type: "scatter",
        mode: curve.batch && curve.at.length > 1 ? "lines" : "lines+markers",
        x: Array.from(curve.at, (at) => run.x(this.plots.axis, at)),
        y: curve.value,
        text: Array.from(curve.at, (at, i) => `<b>${title}</b>  ${rounded(curve.value[i])}<br>${run.moment(at)}`),
        hoverinfo: "text",
        line: { color: several ? curveColour(r) : colour(`c${index}`), width: curve.batch ? 1.2 : 2, dash },
        opacity: curve.batch ? 0.6 : 1,
        marker: { size: 5 },
        meta: { run: r, events: curve.at },
      };
    }));
  }

  /** What was asked for, in a row for each kind above the curves. Marks at one place become one, which tells all. */
  markTraces() {
    return this.plots.runs.flatMap((run, r) => this.rows().flatMap((kind, row) => {
      const all = this.plots.hiddenRuns.has(r) ? [] : this.plots.marks[r].get(kind) ?? [];
      const places = new Map();
      for (const mark of spread(all, MOST_MARKS)) {
        const x = run.x(this.plots.axis, mark.at);
        places.set(x, [...(places.get(x) ?? []), mark]);
      }
      const [, symbol, index] = markOf(kind);
      return places.size ? [{
        type: "scatter",
        mode: "markers",
        yaxis: "y2",
        x: [...places.keys()],
        y: Array(places.size).fill(row),
        text: [...places.values()].map((marks) => this.say(run, marks)),
        hoverinfo: "text",
        cliponaxis: false,
        marker: { symbol, size: 10, color: this.plots.runs.length > 1 ? curveColour(r) : colour(`m${index}`) },
        meta: { run: r, events: [...places.values()].map(([{ at }]) => at) },
      }] : [];
    }));
  }

  /** The kinds of marks that are shown. */
  rows() {
    return this.plots.kinds.filter((kind) => !this.plots.hiddenMarks.has(kind));
  }

  say(run, marks) {
    const name = this.plots.runs.length > 1 ? [short(run.name, 30)] : [];
    const texts = marks.slice(0, 4).map(({ at, effect }) => {
      const [title, ...lines] = effect === undefined ? ["the run went on here after it was cut"] : linesOf(run, effect);
      return [`<b>${forPlotly(title, 110)}</b>`, ...[...lines, run.moment(at), ...name].map((line) => forPlotly(line, 110))].join("<br>");
    });
    return [...texts, ...(marks.length > 4 ? [`and ${counted(marks.length - 4)} more`] : [])].join("<br>");
  }

  layout() {
    const { axis, scale } = this.plots;
    const range = this.plots.range ?? this.plots.whole();
    const lines = { gridcolor: colour("grid"), zerolinecolor: colour("grid"), linecolor: colour("rule"), tickcolor: colour("rule") };
    const narrow = this.figure.clientWidth < 480;
    const rows = this.rows().length;
    const [above, curves, below] = [14 * rows, this.name ? (narrow ? 175 : 210) : 0, 40];
    return {
      height: 10 + above + curves + below,
      margin: { l: narrow ? 44 : 56, r: 14, t: 10, b: below },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("faint") },
      showlegend: false,
      hovermode: "closest",
      hoverdistance: 25,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
      hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("rule"), font: { color: colour("ink"), size: 12 }, align: "left" },
      xaxis: { ...lines, title: { text: axis, standoff: 6 }, nticks: narrow ? 6 : 10, anchor: this.name ? "y" : "y2", ...(range ? { range } : { autorange: true }) },
      yaxis: {
        ...lines, ...this.flatRange(), domain: [0, curves / (above + curves)], type: scale === "log" && this.name ? "log" : "linear",
        nticks: 6, automargin: true, exponentformat: "power", minexponent: 4, separatethousands: true, visible: Boolean(this.name), fixedrange: !this.name,
      },
      yaxis2: { domain: [curves / (above + curves), 1], range: [rows - 0.5, -0.5], visible: false, fixedrange: true },
      uirevision: `${axis} ${scale} ${range}`,
    };
  }

  /** A range for curves that never move, which would else be drawn as if they were about 0. */
  flatRange() {
    const values = this.plots.runs.flatMap((_, r) => this.shownCurves(r).flatMap((curve) => Array.from(curve.value).filter(Number.isFinite)));
    const [first] = values;
    if (this.plots.scale === "log" || !values.length || values.some((value) => value !== first)) return {};
    return { range: first ? [Math.min(0, 2 * first), Math.max(0, 2 * first)] : [-0.1, 1] };
  }

  tellNote() {
    const notes = [];
    const seek = (run, at, text) => {
      const button = el("button", "link", text);
      button.type = "button";
      button.addEventListener("click", () => this.plots.go(run, at));
      return button;
    };
    this.plots.runs.forEach((run, r) => {
      for (const curve of this.shownCurves(r)) {
        const below = this.plots.scale === "log" ? curve.value.filter((value) => value <= 0).length : 0;
        if (curve.odd) notes.push(el("span", "", named("span", "name", curve.name, 40), ` is not finite ${curve.odd === 1 ? "once" : `${counted(curve.odd)} times`}, `, seek(r, curve.odd_at, `first at step ${counted(run.events.step[curve.odd_at])}`), ". "));
        if (below) notes.push(el("span", "", named("span", "name", curve.name, 40), `: ${plural(below, "point")} of 0 or less ${below === 1 ? "is" : "are"} left out on this scale. `));
      }
    });
    this.note.replaceChildren(...notes.slice(0, 12));
  }

  /** Puts the line where the moment is, by what plotly made of the axis. */
  placeLine() {
    const layout = this.figure._fullLayout;
    if (!layout?.xaxis?.range) return;
    const [r, event] = this.plots.moment;
    const run = this.plots.runs[r];
    const [from, to] = layout.xaxis.range;
    const share = run.length ? (run.x(this.plots.axis, event) - from) / (to - from) : NaN;
    this.line.hidden = !(share >= 0 && share <= 1);
    this.line.style.left = `${layout._size.l + share * layout._size.w}px`;
    this.line.style.top = `${layout._size.t}px`;
    this.line.style.height = `${layout._size.h}px`;
  }
}

/** A labelled checkbox that looks like a chip. */
function toggle(isOn, changed, ...children) {
  const box = el("input");
  box.type = "checkbox";
  box.checked = isOn;
  box.addEventListener("change", () => changed(box.checked));
  return el("label", "chip", box, ...children);
}
