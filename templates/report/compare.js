"use strict";
/* The page of two or more runs; loaded before page.js, whose functions it uses. */
const COMPARED = {
  filters: ["reason"],
  sorts: {order: "as written", margin: "margin, change", length: "tokens of chosen, change"},
  overview() {
    $("verdict").replaceChildren(...data.verdict.map((line) => make("p", {}, line)), ...data.notes.map((line) => make("p", {className: "quiet"}, line)));
    $("verdict").classList.toggle("warning", data.is_warning);
    for (const [place, tables] of [["tables", data.tables], ["last-tables", data.last_tables]]) for (const one of tables) {
      const parts = [one.note ? make("p", {className: "quiet"}, one.note) : "", one.rows.length ? table(one.heads, one.rows) : ""];
      $(place).append(make("section", {}, ...(one.folded ? [make("details", {ontoggle: fit}, make("summary", {}, one.title), ...parts)] : [make("h2", {}, one.title), ...parts])));
    }
    for (const one of data.curves) $("curves").append(curves(one));
    $("curves").parentElement.hidden = !data.curves.length;
    for (const sides of data.histograms) $("histograms").append(make("div", {}, make("h3", {}, sides[0].title), ...sides.map((one, side) => histogram({...one, title: data.runs[side]}))));
    $("numbers").parentElement.hidden = !data.histograms.length;
    for (const [title, source] of data.pictures) $("pictures").append(make("figure", {}, make("figcaption", {}, title), make("img", {src: source, alt: title})));
    $("rows").parentElement.hidden = document.querySelector("nav a[href='#rows']").hidden = !data.rows;
  },
  options: () => [["", "all"], ["differs", "outcome differs"], ["all", "kept in all"], ["none", "kept in none"], ...data.compared.map((name, side) => [`only ${side}`, `kept in ${name} alone`])],
  passes(i) {
    const kept = data.columns.reason.map((side) => side[i] === 0), count = kept.filter(Boolean).length;
    const only = /^only (\d+)$/.exec(state.reason);
    if (only) return count === 1 && kept[+only[1]];
    return {"": true, differs: new Set(data.columns.reason.map((side) => side[i])).size > 1, all: count === kept.length, none: count === 0}[state.reason];
  },
  key(name) {
    const column = data.columns[{margin: "margin", length: "tokens_good"}[name]];
    if (!column) return undefined;
    const change = (i) => Math.abs(column.at(-1)[i] - column[0][i]);
    return (i) => column.at(-1)[i] === null || column[0][i] === null ? Infinity : -change(i);
  },
  line: (i) => [data.columns.reason.map((side) => data.reasons[side[i]]).join(" | ")],
  texts: (sides) => sides.flatMap((row) => [...Object.values(row.answers), ...row.prompt.map((one) => one.content)]),
  show(i, sides) {
    const folded = (name, ...inside) => make("details", {}, make("summary", {}, name), ...inside);
    const turns = sides[0].prompt.map((turn) => make("div", {}, make("p", {className: "quiet"}, turn.role), textBox(turn.content)));
    const one = (side, view) => {
      const row = sides[side], text = row.answers[view], title = make("h4", {}, ...visible(data.compared[side]));
      if (text === undefined) return make("div", {}, title, make("p", {className: "quiet"}, "not asked for"));
      const facts = `${row.tokens[view]} tokens, ${row.finish[view] === "stop" ? "ended" : `cut off (${row.finish[view]})`}`;
      const first = sides[0].answers[view];
      return make("div", {}, title, make("p", {className: "quiet"}, facts), state.diff && side && first !== undefined ? marked(first, text, true) : textBox(text));
    };
    const answers = VIEWS.flatMap((view) => [make("h3", {}, SIDE[view]), make("div", {className: "answers"}, ...sides.map((_, side) => one(side, view)))]);
    const facts = [["outcome", ...sides.map((row) => row.verdict)], ["principles", ...sides.map((row) => row.principles.join(", "))],
      ...[["gap of chosen", "gap_good"], ["gap of rejected", "gap_bad"], ["margin", "margin"]].map(([name, key]) => [name, ...data.columns[key].map((side) => fixed(side[i]))]), ...verdicts(sides)];
    const texts = sides.map((row, side) => make("div", {}, make("h4", {}, ...visible(data.compared[side])), ...["good", "bad"].map((view) => textBox(`${view}: ${row.texts[view].join(" ")}`))));
    $("detail").replaceChildren(make("p", {}, `row ${data.columns.id[i]} `, marker()), make("h3", {}, "prompt"), ...turns, ...answers,
      make("h3", {}, "numbers"), table(["", ...data.compared], facts), folded("principle texts", make("div", {className: "answers"}, ...texts)));
  },
};

/** What judges said, a line for each question. */
function verdicts(sides) {
  const said = sides.map((row) => new Map(row.verdicts.map(([judge, question, preference, scores]) => [`${judge}: ${question}`, scores ? scores.map((one) => fixed(one)).join(" / ") : fixed(preference, 2)])));
  return [...new Set(said.flatMap((one) => [...one.keys()]))].map((name) => [name, ...said.map((one) => one.get(name) ?? null)]);
}

/** Lines over the rounds, with a dot for each value; dashes show equal ones. */
function curves(one) {
  const points = one.curves.flatMap(([, points]) => points), [xs, ys] = [0, 1].map((n) => points.map((point) => point[n]));
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const across = (value) => right > left ? 0.04 + 0.92 * (value - left) / (right - left) : 0.5, up = (value) => high > low ? 0.08 + 0.84 * (value - low) / (high - low) : 0.5;
  const x = (value) => 100 * across(value), y = (value) => 100 - 100 * up(value);
  const [svg, shape] = drawing(`${one.title}: from ${brief(low)} to ${brief(high)}`, 100), values = high > low ? ticks(low, high) : [low];
  svg.setAttribute("class", "tall");
  for (const value of values) shape("line", {class: value ? "grid" : "grid zero", x1: 0, x2: 100, y1: y(value), y2: y(value)});
  one.curves.forEach(([, points], n) => {
    shape("polyline", {class: `curve c${n}`, points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ")});
    for (const [a, b] of points) shape("line", {class: `dot c${n}`, x1: x(a), x2: x(a), y1: y(b), y2: y(b)});
  });
  const key = one.curves.map(([label, points], n) => make("li", {className: `c${n}`}, `${label}: ${points.map((point) => brief(point[1])).join(", ")}`));
  return make("figure", {}, make("figcaption", {}, `${one.title}, by round`), make("div", {className: "plot"}, axis("beside", values, up), svg, axis("below", ticks(left, right, 1), across)), make("ul", {className: "key"}, ...key));
}
