// Puts the page together: its head, the slider and what follows it, and the tables.

const HOW = {
  finished: "Finished", stopped: "Stopped", signal: "Stopped by a signal", raised: "Raised", "cut off": "Cut off", empty: "Empty",
};

/** How a run ended, as a sentence. */
function endOf(run) {
  const { how, why, by, at } = run.facts;
  const where = how === "empty" ? "" : ` at epoch ${counted(at[0])}, step ${counted(at[1])}`;
  return [HOW[how], ...(by ? [" by ", named("span", "name", by)] : []), `${where}: `, named("span", "", why, 300), "."];
}

function factsOf(run) {
  const facts = run.facts;
  return [
    ["Epochs", counted(facts.epochs)],
    ["Steps", counted(facts.steps)],
    ["Time", duration(decoded(facts.seconds))],
    ["Began", facts.began ? `${new Date(facts.began * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC` : "not recorded"],
    ["Resumes", run.resumed.length ? counted(run.resumed.length) : "none"],
    ["Events", counted(facts.events)],
    ["Effects", counted(facts.effects)],
    ["Torn bytes", facts.torn ? `${counted(facts.torn)}, not read` : "none"],
    ["Versions", facts.versions.map((pair) => pair.join(" ")).join(", ") || "not recorded"],
  ];
}

function showHead(runs) {
  const head = byId("head");
  if (runs.length === 1) {
    const [run] = runs;
    head.append(named("h1", "", run.name, 100), el("p", "lead", ...endOf(run)),
      el("dl", "facts", ...factsOf(run).map(([name, value]) => el("div", "", el("dt", "", name), el("dd", "", value)))),
      ...(run.callbacks.length ? [el("p", "note", verdictOf(run))] : []), ...leftOut(run));
    return;
  }
  const table = el("table");
  const names = factsOf(runs[0]).map(([name]) => name);
  fillTable(table, ["Run", "Ended", ...names], runs.map((run) => [
    named("span", "", run.name), el("span", "wide", ...endOf(run)), ...factsOf(run).map(([, value]) => value),
  ]));
  const scroll = el("div", "scroll", table);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Runs");
  head.append(el("h1", "", plural(runs.length, "run")), scroll, ...runs.flatMap(leftOut));
}

/** What a run left out: batches, updates, checkpoints. */
function leftOut(run) {
  const { left_out: sentences, more_left_out: more } = run.facts;
  if (!sentences.length) return [];
  return [el("p", "note", `Left out in ${short(run.name)}: ${sentences.join("; ")}${more ? `; and ${counted(more)} more` : ""}.`)];
}

function thinnedNote(run) {
  return run.numbers ? `Of ${counted(run.facts.events)} events ${counted(run.length)} are on this page: those that curves are drawn by, those of no batch, then those at which something changed or was asked for, and of the rest the n-th ones.${run.effects_left_out ? ` ${plural(run.effects_left_out, "effect")} asked for at the others ${run.effects_left_out === 1 ? "is" : "are"} left out.` : ""}` : "";
}

function curvesNote(runs, plots) {
  const long = [...new Map(runs.flatMap((run) => run.curves).filter((curve) => curve.of > curve.at.length).map((curve) => [curve.name, curve.of]))];
  const notes = runs.map(thinnedNote);
  if (long.length) notes.push(`Of many values, the least and the greatest of each of 1,000 stretches are drawn, and the first and the last: ${long.slice(0, 8).map(([name, of]) => `${short(name, 30)} (${counted(of)})`).join(", ")}${long.length > 8 ? ` and ${counted(long.length - 8)} more` : ""}.`);
  const undrawn = Math.max(0, ...runs.map((run) => run.more_curves));
  if (undrawn) notes.push(`${plural(undrawn, "more metric")} ${undrawn === 1 ? "is" : "are"} not drawn; the events have them.`);
  const crowded = plots.marks.flatMap((marks) => [...marks]).filter(([, all]) => all.length > MOST_MARKS);
  if (crowded.length) notes.push(`Of many marks of a kind ${MOST_MARKS} are drawn: ${crowded.map(([kind, all]) => `${kind} (${counted(all.length)})`).join(", ")}.`);
  if (!runs.some((run) => run.curves.length)) notes.push("No metrics were recorded.");
  return notes.filter(Boolean).join(" ");
}

function showWhatIf(runs) {
  const rows = runs.flatMap((run) => run.whatif.map((row) => ({ ...row, run: run.name })));
  byId("whatif").hidden = !rows.length;
  if (!rows.length) return;
  const several = runs.length > 1;
  const notes = [];
  const told = rows.map((row) => {
    const begin = [...(several ? [named("span", "", row.run)] : []), named("span", "", row.name)];
    if (row.error) return [...begin, el("span", "wide", row.error)];
    if (row.holds) notes.push(el("li", "", named("span", "name", row.name), `: ${row.holds}.`));
    return [
      ...begin,
      row.at ? `epoch ${counted(row.at[0])}, step ${counted(row.at[1])}` : "never",
      row.at ? row.epochs_saved : "",
      row.at ? duration(decoded(row.seconds_saved)) : "",
      row.best.filter(([, value]) => value !== null).map(([name, value, lost]) => `${short(name, 30)} ${rounded(decoded(value))}${lost ? ` (${rounded(decoded(lost), 3)} lost)` : ""}`).join("; "),
      row.saved,
      row.kept,
      el("span", "wide", row.reason ?? ""),
    ];
  });
  fillTable(byId("whatif").querySelector("table"), [...(several ? ["Run"] : []), "With", "Stops at", "Epochs saved", "Time saved", "Best", "Saves", "Keeps", "Reason"], told);
  byId("whatif").querySelector("ul").replaceChildren(...notes);
}

function showCallbacks(run) {
  byId("callbacks").hidden = !run.callbacks.length;
  byId("verdict").replaceChildren(verdictOf(run));
  fillTable(byId("callbacks").querySelector("table"), ["Callback", "Made from", "Asked for", "Changes", "States"], run.callbacks.map((each) => [
    named("span", "name", each.key),
    each.text ? named("code", "wide", each.text, 200) : "",
    each.recorded ?? "not known",
    each.isTold ? each.at.length : "",
    el("span", "wide", wordOn(run, each)),
  ]));
}

function wordOn(run, callback) {
  const states = callback.states;
  if (!states) return `not made again: ${callback.why}`;
  if (!callback.isTold) return `not replayable: ${states.failed.why}`;
  if (states.failed) return `not replayable from event ${counted(run.number(states.failed.at) + 1)} on: ${states.failed.why}`;
  if (!states.compared) return "recomputed; the recording does not say who asked for its effects";
  if (!states.differs) return states.asked ? "recomputed; all effects agree" : "recomputed; it asked for nothing";
  return `recomputed; differs from event ${counted(run.number(states.differs.at) + 1)} on: recorded ${states.differs.recorded}, folding gives ${states.differs.folded}`;
}

function verdictOf(run) {
  const told = run.callbacks.filter((each) => each.isTold);
  const wrong = told.filter((each) => each.states.differs);
  const lost = run.callbacks.filter((each) => !each.isTold || each.states.failed);
  if (!told.length) return "No states are known.";
  const asked = told.reduce((sum, each) => sum + each.states.asked, 0);
  const verdict = wrong.length
    ? `States recomputed; ${plural(wrong.length, "callback asks", "callbacks ask")} for other effects than the recording has.`
    : told.every((each) => each.states.compared)
      ? `States recomputed; all ${counted(asked)} effects agree with the recording.`
      : "States recomputed; the recording does not say who asked for its effects, so they were not compared.";
  return `${verdict}${lost.length ? ` ${plural(lost.length, "callback is", "callbacks are")} not known throughout.` : ""}`;
}

/** The slider and what follows it. */
class Travel {
  constructor(runs) {
    this.runs = runs;
    this.run = 0;
    this.at = 0;
    this.followed = null; // the callback whose changes are gone to; null for any
  }

  get current() {
    return this.runs[this.run];
  }

  begin(plots) {
    this.plots = plots;
    byId("travel").hidden = byId("moment").hidden = !this.runs.some((run) => run.length);
    byId("run-choice").hidden = this.runs.length === 1;
    byId("run").append(...this.runs.map((run, i) => option(i, run.name)));
    byId("run").addEventListener("change", (event) => this.choose(Number(event.target.value)));
    byId("followed").addEventListener("change", (event) => { this.followed = event.target.value === "" ? null : Number(event.target.value); });
    byId("slider").addEventListener("input", (event) => this.go(this.run, Number(event.target.value)));
    byId("step").addEventListener("change", (event) => this.goToStep(Number(event.target.value)));
    byId("previous-event").addEventListener("click", () => this.go(this.run, this.at - 1));
    byId("next-event").addEventListener("click", () => this.go(this.run, this.at + 1));
    byId("previous-change").addEventListener("click", () => this.goToChange(-1));
    byId("next-change").addEventListener("click", () => this.goToChange(1));
    document.addEventListener("keydown", (event) => this.key(event));
    this.choose(0);
  }

  choose(run) {
    this.run = run;
    this.followed = null;
    byId("run").value = String(run);
    byId("slider").max = String(Math.max(this.current.length - 1, 0));
    byId("followed").replaceChildren(option("", "any callback"), ...this.current.callbacks.flatMap((each, i) => (each.isTold && each.at.length ? [option(i, each.key)] : [])));
    showCallbacks(this.current);
    this.at = this.current.length - 1;
    this.go(run, this.current.lastOf("Stop") ?? this.changeFrom(-1) ?? this.at); // the last thing that mattered
  }

  go(run, at) {
    if (run !== this.run) this.choose(run);
    this.at = Math.min(Math.max(at, 0), Math.max(this.current.length - 1, 0));
    byId("slider").value = String(this.at);
    this.plots.moveTo(this.run, this.at);
    this.waiting ??= requestAnimationFrame(() => this.show());
  }

  show() {
    this.waiting = undefined;
    const { current: run, at } = this;
    if (!run.length) {
      byId("where").replaceChildren("This recording holds no events.");
      for (const id of ["event", "changed", "asked", "states"]) byId(id).replaceChildren();
      return;
    }
    const text = `${counted(run.number(at) + 1)} / ${counted(run.facts.events)} · ${run.events.kindOf(at)} · ${run.moment(at)}`;
    byId("where").replaceChildren(text);
    byId("slider").setAttribute("aria-valuetext", text);
    if (document.activeElement !== byId("step")) byId("step").value = String(run.events.step[at]);
    byId("previous-event").disabled = at === 0;
    byId("next-event").disabled = at === run.length - 1;
    byId("previous-change").disabled = this.changeFrom(-1) === null;
    byId("next-change").disabled = this.changeFrom(1) === null;
    showEvent(run, at);
    showStates(run, at);
    showAsked(run, at);
    document.body.dataset.event = String(at);
  }

  /** The next event in a direction at which a state changed; null if there is none. */
  changeFrom(direction) {
    const callbacks = this.followed === null ? this.current.callbacks.filter((each) => each.isTold) : [this.current.callbacks[this.followed]];
    const found = callbacks.map(({ at }) => (direction > 0 ? at[upTo(at, this.at)] : at[upTo(at, this.at - 1) - 1])).filter((at) => at !== undefined);
    return found.length ? (direction > 0 ? Math.min(...found) : Math.max(...found)) : null;
  }

  goToChange(direction) {
    const at = this.changeFrom(direction);
    if (at !== null) this.go(this.run, at);
  }

  /** To the first event at a step, or at the first one after it. */
  goToStep(step) {
    const at = this.current.events.step.findIndex((each) => each >= step);
    this.go(this.run, at < 0 ? this.current.length - 1 : at);
  }

  key(event) {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target !== byId("slider") && (target.closest(".scroll") || (["INPUT", "SELECT"].includes(target.tagName) && target.type !== "checkbox"))) return;
    const move = {
      ArrowLeft: () => (event.shiftKey ? this.goToChange(-1) : this.go(this.run, this.at - 1)),
      ArrowRight: () => (event.shiftKey ? this.goToChange(1) : this.go(this.run, this.at + 1)),
    }[event.key];
    if (!move) return;
    event.preventDefault();
    move();
  }
}

function option(value, text) {
  const element = el("option", "", short(text, 50));
  element.value = String(value);
  return element;
}

function showControls(runs, plots) {
  byId("curves").hidden = !plots.plots.length && !runs.some((run) => run.length);
  byId("plots").replaceChildren(...plots.plots.map((plot) => plot.element));
  byId("curves-note").textContent = curvesNote(runs, plots);
  byId("axis").addEventListener("change", (event) => {
    plots.axis = event.target.value;
    plots.range = undefined;
    plots.draw();
  });
  byId("scale").addEventListener("change", (event) => {
    plots.scale = event.target.value;
    plots.draw();
  });
  byId("marks").hidden = !plots.kinds.length;
  byId("marks").append(...plots.kinds.map((kind) => {
    const [sign, , index] = markOf(kind);
    const glyph = el("span", "glyph", sign);
    if (runs.length === 1) glyph.style.color = `var(--m${index})`; // else the colour is that of the run
    return toggle(true, (on) => {
      plots.hiddenMarks[on ? "delete" : "add"](kind);
      plots.draw();
    }, glyph, named("span", "", kind));
  }));
  if (runs.length === 1) return;
  byId("plots").before(el("fieldset", "runs", el("legend", "", "Runs"), ...runs.map((run, r) => {
    const swatch = el("span", "swatch solid");
    swatch.style.color = `var(--c${1 + (r % 8)})`;
    return toggle(true, (on) => {
      plots.hiddenRuns[on ? "delete" : "add"](r);
      plots.draw();
    }, swatch, named("span", "", run.name, 40));
  })));
}

async function open() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is older than 2023 and can't unpack the page's data");
  const [story, library] = await Promise.all([readStory(), unpacked("plotly")]);
  const runs = story.runs.map((run) => new RecordedRun(run));
  showHead(runs);
  showWhatIf(runs);

  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(library);
  document.head.append(script);

  const travel = new Travel(runs);
  const plots = new Plots(runs, new Set(story.quiet), (run, event) => travel.go(run, event));
  showControls(runs, plots);
  travel.begin(plots);
  for (const link of document.querySelectorAll(".places a")) link.hidden = document.querySelector(link.hash).hidden;
  travel.show();
  plots.draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.draw());
  document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds since the navigation began
}

open().catch((error) => {
  byId("problem").hidden = false;
  byId("problem").textContent = `The page could not be drawn: ${error.message}`;
  throw error;
});
