// One moment of a run: the event, what was asked for, what changed, and what each callback remembered.

const MOST_ROWS = 150; // of one table, before somebody asks for the rest

/** Rows of name and value; those in `marked` stand out. */
function rowsTable(rows, marked = new Set()) {
  const made = rows.slice(0, MOST_ROWS).map(([name, value]) => el("tr", marked.has(name) ? "changed" : "", rowHead(name), el("td", "", value)));
  const table = el("table", "rows", el("tbody", "", ...made));
  if (rows.length <= MOST_ROWS) return table;
  const more = el("button", "link", `and ${counted(rows.length - MOST_ROWS)} more`);
  more.type = "button";
  more.addEventListener("click", () => {
    const all = rows.slice(MOST_ROWS).map(([name, value]) => el("tr", "", rowHead(name), el("td", "", value)));
    table.tBodies[0].append(...all);
    more.remove();
  });
  return el("div", "", table, more);
}

function fromTo(before, after) {
  return [
    before === undefined ? el("span", "was", "nothing") : el("del", "was", before),
    el("span", "arrow", " → "),
    after === undefined ? el("span", "is", "gone") : el("ins", "is", after),
  ];
}

const textOf = (value) => (typeof value === "string" ? value : inline(value));

function showEvent(run, i) {
  const kind = run.events.kindOf(i);
  const metrics = run.events.metrics(i);
  const fields = run.events.fields(i);
  byId("event").replaceChildren(
    el("h3", "kind", kind),
    el("p", "note", `Event ${counted(run.number(i) + 1)} of ${counted(run.facts.events)}: ${run.moment(i)}.`),
    ...(run.resumed.includes(i) ? [el("p", "note", "Here the run went on after it was cut. The states are one chain: they go on, too.")] : []),
    ...(fields.length ? [rowsTable(fields.map(([name, value]) => [name, textOf(value)]))] : []),
    ...(metrics.length ? [el("h4", "", "Metrics"), rowsTable(metrics.map(([name, value]) => [name, spelled(value)]))] : []),
  );
}

function showAsked(run, i) {
  const effects = run.effectsAt(i);
  const items = effects.slice(0, 50).map((effect) => {
    const key = run.effects.keys[run.effects.key[effect]];
    const fields = run.effects.fields(effect).map(([name, value]) => [name, textOf(value)]);
    const metrics = run.effects.metrics(effect).map(([name, value]) => [name, spelled(value)]);
    const outcome = outcomeOf(run, effect);
    return el("li", "",
      el("b", "", run.effects.kindOf(effect)), key === null ? el("span", "by", " (the recording does not say by whom)") : el("span", "by", " by ", named("span", "name", key)),
      ...(fields.length + metrics.length ? [rowsTable([...fields, ...metrics])] : []),
      ...(outcome ? [el("p", "note", outcome)] : []));
  });
  const left = effects.length - items.length;
  byId("asked").replaceChildren(
    el("h4", "", "Asked for"),
    effects.length ? el("ul", "effects", ...items) : el("p", "note", "Nothing."),
    ...(left ? [el("p", "note", `And ${plural(left, "effect")} more.`)] : []),
  );
}

function showStates(run, i) {
  const told = run.callbacks.filter((each) => each.reaches(i));
  const changed = [];
  const cards = [];
  const silent = [];
  for (const callback of told) {
    const state = callback.after(i);
    const rows = rowsOf(state);
    const changes = callback.changesAt(i) ? changedRows(callback.afterChanges(upTo(callback.at, i) - 1), state) : [];
    if (changes.length) changed.push([callback.key, changes]);
    if (state instanceof Map && !state.size && !callback.at.length) silent.push(callback.key);
    else {
      const card = el("section", "state", named("h5", "name", callback.key), rowsTable(rows, new Set(changes.map(([path]) => path))));
      card.dataset.key = callback.key;
      cards.push(card);
    }
  }
  const lost = run.callbacks.filter((each) => !each.reaches(i)).map((each) => {
    const failed = each.states?.failed;
    const text = failed ? `not replayable${failed.at > 0 || each.isTold ? " from here on" : ""}: ${failed.why}` : `not made again: ${each.why}.`;
    return el("li", "", named("span", "name", each.key), ` ${text}`);
  });
  const after = i ? "" : " (before it, nothing had happened)";
  byId("changed").replaceChildren(
    el("h4", "", "What changed"),
    changed.length
      ? el("div", "", ...changed.map(([key, changes]) => el("section", "change", named("h5", "name", key), changesTable(changes))))
      : el("p", "note", told.length ? `No state changed at this event${after}.` : "No states are known."),
  );
  byId("states").replaceChildren(
    ...(run.callbacks.length ? [el("h4", "", "States after it")] : []),
    ...cards,
    ...(silent.length ? [el("p", "note", "Without memory: ", ...silent.flatMap((key, k) => [k ? ", " : "", named("span", "name", key)]), ".")] : []),
    ...(lost.length ? [el("ul", "notes", ...lost)] : []),
  );
}

function changesTable(changes) {
  const shown = changes.slice(0, 40).map(([path, was, is]) => el("tr", "changed", rowHead(path), el("td", "", ...fromTo(was, is))));
  const left = changes.length - shown.length;
  return el("div", "", el("table", "rows", el("tbody", "", ...shown)), left ? el("p", "note", `And ${counted(left)} more.`) : null);
}
