"use strict";
const HEIGHT = 48, MOST_BLOCKS = 16, MOST_NAMED = 20, MOST_SHOWN = 20000, LEAST_ALIKE = 0.25;
const VIEWS = ["good", "bad", "plain"], SIDE = {good: "chosen", bad: "rejected", plain: "original"};
const NUMBER = /^[-+]?\d[\d.]*(e[-+]?\d+)?( ?%)?( [[(/].*)?$/, HIDDEN = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const TINTS = {"good bad": "good - bad", "good plain": "good - plain", "plain bad": "plain - bad", "": "off"}, MOST_NATS = 2;
const $ = (id) => document.getElementById(id);
const state = {text: "", reason: "", principle: "", check: "", sort: "order", open: -1, at: -1, row: null, diff: false, tint: "good bad", found: null};
const waiting = new Map(), loaded = new Map();
let data, shown = [], wanted = -1, searching = 0, polling;

/** What the compressed text holds. */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Called by the file of a block; its end, which holds its checksum, must be the one that the page knows. */
function block(number, text) {
  const one = waiting.get(number);
  if (!one || (data.ends && !text.endsWith(data.ends[number]))) return;
  one.came = true;
  unpack(text).then(one.done, one.failed);
}

/** The rows of a block; the last few stay in memory. */
function rowsOf(number, keep = true) {
  if (loaded.has(number)) return Promise.resolve(loaded.get(number));
  if (!waiting.has(number)) {
    const one = {};
    one.promise = new Promise((done, failed) => { one.done = done; one.failed = failed; });
    one.promise.finally(() => waiting.delete(number)).catch(() => {});
    waiting.set(number, one);
    const inside = document.getElementsByClassName("block")[number];
    if (inside) block(number, inside.textContent);
    else {
      const script = document.createElement("script"), src = `data/${String(number).padStart(5, "0")}.js`;
      const ended = (why) => { script.remove(); if (!one.came) one.failed(new Error(why)); };
      Object.assign(script, {src, onload: () => ended(`${src} is torn, or of another report`), onerror: () => refusal(src).then(ended)});
      document.head.append(script);
    }
  }
  return waiting.get(number).promise.then((rows) => {
    if (keep) {
      loaded.set(number, rows);
      if (loaded.size > MOST_BLOCKS) loaded.delete(loaded.keys().next().value);
    }
    return rows;
  });
}

/** Why a file is not there: what the server says, where there is one. */
async function refusal(src) {
  if (!document.body.dataset.live) return `${src} is missing`;
  try { return await (await fetch(src)).text(); } catch { return "the server has ended"; }
}

/** An element with classes, properties and children; texts become text nodes, never HTML. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A text with control, direction and other invisible characters as marks, as `show` has them; joiners stay. */
function visible(text) {
  const whole = text.replaceAll("\r\n", "\n"), parts = [];
  let at = 0;
  for (const match of whole.matchAll(HIDDEN)) {
    parts.push(whole.slice(at, match.index), make("mark", {}, `<U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`));
    at = match.index + match[0].length;
  }
  return [...parts, whole.slice(at)];
}

function textBox(text, all = false) {
  const box = make("div", {className: "text"}, ...visible(all ? text : text.slice(0, MOST_SHOWN)));
  if (text.length > MOST_SHOWN && !all) {
    const more = make("button", {type: "button", onclick: () => box.replaceWith(textBox(text, true))}, `show all ${text.length} characters`);
    box.append("... ", more);
  }
  return box;
}

/** A table; a column of numbers alone stands to the right. `fit` stacks its cells where it is too wide. */
function table(heads, rows) {
  const known = heads.map((_, i) => rows.map((row) => row[i]).filter((value) => value !== null && value !== "" && value !== "-"));
  const numbers = known.map((values) => values.length > 0 && values.every((value) => NUMBER.test(String(value))));
  const cell = (tag, value, i) => {
    const element = make(tag, numbers[i] ? {className: "number"} : {}, ...(value === null ? ["-"] : value instanceof Node ? [value] : visible(String(value))));
    if (tag === "th") element.scope = "col";
    element.dataset.head = heads[i];
    return element;
  };
  const head = make("tr", {}, ...heads.map((name, i) => cell(name === "" ? "td" : "th", name, i)));
  const body = rows.map((row) => make("tr", {}, ...row.map((value, i) => cell("td", value, i))));
  return make("div", {className: "scroll"}, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

/** Stack the cells of tables that are too wide for their place; what still is can be scrolled by keyboard. */
function fit() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.classList.remove("stacked");
    box.classList.toggle("stacked", box.scrollWidth > box.clientWidth);
    box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
  }
}

/** A number with so many decimals; more where these would be zeros alone. */
function fixed(value, digits = 3) {
  if (value === null || value === undefined) return "-";
  const text = value.toFixed(digits);
  return value && !+text ? String(+value.toPrecision(2)) : text;
}
/** A share in whole percent, a half to the even one, as the commands print it. */
const percent = (share) => share === null ? "-" : `${100 * share % 1 === .5 ? 2 * Math.round(50 * share) : Math.round(100 * share)} %`;

function link(text, change) {
  return make("button", {type: "button", className: "link", onclick: () => select({text: "", reason: "", principle: "", check: "", ...change}, true)}, ...visible(text));
}

function overview() {
  $("account").textContent = data.account + (data.unfinished > 0 ? `; ${data.unfinished} are not done yet` : "");
  $("made").firstChild.replaceChildren("How it was made: ", ...visible(data.made.line));
  $("made").append(table(["", ""], data.made.rows));
  $("made").addEventListener("toggle", fit);
  $("verdict").textContent = data.verdict;
  if (data.not_asked) $("account").textContent += `; ${data.not_asked} rows were decided early and lack answers or scores: shares, gaps and "all" below are of rows that are complete by design`;
  if (!data.rows) {
    $("verdict").textContent = `There are no rows${data.unfinished > 0 ? " yet" : ""}${data.done[2] ? "; failed.jsonl says why prompts failed" : ""}.`;
    for (const one of document.querySelectorAll("nav, main section")) one.hidden = true;
    return;
  }
  $("ledger-table").append(funnel());
  const told = data.checks.filter((check) => check.rows.length), none = data.checks.filter((check) => check.of && !check.rows.length).map((check) => check.title);
  for (const check of told) {
    const item = make("li", {className: check.warning ? "warning" : ""}, link(`${check.title}: ${check.rows.length} of ${check.of}`, {check: check.name + check.title}));
    item.append(` (${percent(check.rows.length / check.of)} [${check.interval.map(percent).join(", ")}])${check.warning ? ` - ${check.warning}` : ""}`);
    $("check-list").append(item);
  }
  if (none.length) $("check-list").append(make("li", {}, `Found in none of ${data.kept}: ${none.join("; ")}.`));
  if (!data.kept) $("check-list").append(make("li", {}, "No row is kept: there are no pairs to check."));
  if (data.judges.length) {
    const rate = (one) => one && one[3] ? `${percent(one[0])} [${percent(one[1])}, ${percent(one[2])}] of ${one[3]}` : "-";
    $("ledger-table").append(make("h3", {}, "Judges"), make("p", {className: "quiet"}, "Share in which the first named is better (ties half) with its 95 % interval, or the mean score."),
      table(["judge", "question", "all rows", "kept rows"], data.judges.map((one) => [one.judge, one.question, one.rates.length ? rate(one.rates[0]) : `mean ${fixed(one.mean)} of ${one.rows}`, rate(one.rates[1])])));
  }
  const compared = (side) => data.shares[side].map((share, i) => `${percent(share)} (${fixed(data.differences[side][i])})`);
  $("comparisons").append(table(["response", "own > plain", "plain > opposite", "own > opposite"], [["y+ (chosen)", ...compared(0)], ["y- (rejected)", ...compared(1)]]));
  $("principles").append(table(["principle", "rows", "kept", "share [95 %]", "gap good", "gap bad", "effect"], data.principles.map((one) =>
    [link(one.name, {principle: one.name}), one.rows, one.kept, `${percent(one.kept / one.rows)} [${percent(one.interval[0])}, ${percent(one.interval[1])}]`, fixed(one.gaps[0]), fixed(one.gaps[1]), one.verdict.replace("_", " ")])));
  for (const one of data.histograms) $("histograms").append(histogram(one));
}

/** Where every row went: the filter's stages as `filter` prints them, each with its rows. */
function funnel() {
  const [unit, done, failed] = data.done, some = data.funnel.some((one) => one.not_asked);
  const means = (one, names, digits) => one.left ? names.map((name) => fixed(one[`mean_${name}`], digits)).join(" / ") : "-";
  const stages = data.funnel.filter((one) => data.stages.includes(one.reason)).map((one) => [one.dropped ? link(one.reason, {reason: one.reason}) : one.reason, one.reason === "rows" ? "" : one.dropped, ...(some ? [one.not_asked || ""] : []), one.left,
    means(one, ["logp_plain_chosen", "logp_plain_rejected"]), means(one, ["tokens_chosen", "tokens_rejected", "tokens_original"], 0), means(one, ["gap_good", "gap_bad"])]);
  const plain = (name, dropped, left) => [name, dropped, ...(some ? [""] : []), left, "", "", ""];
  return table(["stage", "dropped", ...(some ? ["not asked for"] : []), "left", "log-prob", "tokens", "gap"], [plain(unit, "", done), plain("failed", failed, data.rows), ...stages, plain(link("kept", {reason: "kept"}), "", data.kept)]);
}

/** A drawing of so many units by 100, and what adds a shape to it. */
function drawing(label, width) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const set = (element, attributes) => { for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value); };
  set(svg, {viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none", role: "img", "aria-label": label});
  return [svg, (name, attributes) => { const element = document.createElementNS(svg.namespaceURI, name); set(element, {"vector-effect": "non-scaling-stroke", ...attributes}); svg.append(element); }];
}

/** Round numbers from one to another, at least so far from each other. */
function ticks(low, high, least = 0) {
  const rough = Math.max((high - low) / 5, least, Number.MIN_VALUE), power = 10 ** Math.floor(Math.log10(rough)), step = power * [1, 2, 5, 10].find((n) => n * power >= rough * 0.999), found = [];
  for (let n = Math.ceil(low / step - 1e-6); n <= high / step + 1e-6; n++) found.push(n * step);
  return found;
}

/** The labels of an axis: values, each at its share of the length. */
function axis(side, values, share) {
  return make("div", {className: side}, ...values.map((value) => {
    const label = make("span", {}, brief(value));
    label.style[side === "below" ? "left" : "bottom"] = `${100 * share(value)}%`;
    return label;
  }));
}

const brief = (value) => value && Math.abs(value) < 1e-3 ? (+value.toPrecision(2)).toExponential() : String(+value.toPrecision(3));

function histogram(one) {
  const bins = one.all.length, most = Math.max(...one.all, 1), first = one.edges[0], last = one.edges[bins];
  const [svg, shape] = drawing(`${one.title}: from ${brief(first)} to ${brief(last)}`, bins), share = (value) => (value - first) / (last - first);
  for (const name of ["all", "kept"]) one[name].forEach((count, i) => { if (count) shape("rect", {class: name, x: i + 0.05, width: 0.9, y: 100 - 100 * count / most, height: 100 * count / most}); });
  let limit = "";
  if (one.limit !== null) {
    const at = share(one.limit), x = bins * Math.max(0, Math.min(1, at));
    shape("line", {x1: x, x2: x, y1: 0, y2: 100});
    limit = `, threshold ${+one.limit.toPrecision(4)}${at < 0 ? " (left of the axis)" : at > 1 ? " (right of the axis)" : ""}`;
  }
  const values = one.only === null ? ticks(first, last, one.key.startsWith("tokens") ? 1 : 0) : [one.only];
  return make("figure", {}, make("figcaption", {}, `${one.title}${limit}; ${one.only === null ? `highest bar ${most}` : `all ${most} are ${one.only}`}`), svg, axis("below", values, share));
}

/* What the page of one run does in its own way; that of several runs has COMPARED. */
const ONE = {
  filters: ["reason", "principle"],
  sorts: {order: "as written", margin: "margin", gap: "gap", closeness: "closeness", length: "tokens of chosen"},
  overview,
  options: () => [["", "all"], ...["kept", ...Object.keys(data.dropped)].map((name) => [name, name])],
  passes(i) {
    const c = data.columns;
    return (!state.reason || data.reasons[c.reason[i]] === state.reason) && (!state.principle || c.features[i].includes(data.features.indexOf(state.principle)));
  },
  key(name) {
    const c = data.columns, largest = (column) => (i) => column[i] === null ? Infinity : -column[i];
    return {margin: largest(c.margin), gap: largest(c.smaller_gap), closeness: largest(c.closeness), length: largest(c.tokens_good)}[name];
  },
  line(i) {
    const c = data.columns, reason = data.reasons[c.reason[i]];
    return [make("b", {className: reason === "kept" ? "kept" : "dropped"}, reason), ` ${[c.tokens_good[i], c.tokens_bad[i], c.tokens_plain[i]].map((n) => n ?? "-").join(" / ")} tokens, margin ${fixed(c.margin[i])}`];
  },
  texts: (row) => [...Object.values(row.answers), ...row.prompt.map((one) => one.content)],
  show,
};
const kind = document.body.dataset.compared ? COMPARED : ONE;

/** Change the selection, and show it. */
function select(change, jump = false) {
  const before = state.text;
  Object.assign(state, change);
  if (state.text !== before) { state.found = null; searching += 1; }
  for (const name of ["text", ...kind.filters, "sort"]) $(name).value = state[name];
  const c = data.columns, text = state.text.toLowerCase();
  const check = state.check && data.checks.find((one) => one.name + one.title === state.check);
  const those = check ? check.rows : [...Array(data.rows).keys()];
  shown = those.filter((i) => kind.passes(i)
    && (!text || (state.found ? state.found.has(i) : c.head[i].toLowerCase().includes(text) || c.id[i].startsWith(text))));
  const by = kind.key(state.sort);
  if (by) shown.sort((a, b) => by(a) - by(b) || a - b);
  $("count").textContent = `${shown.length} of ${data.rows} rows${check ? `: ${check.title}` : ""}`;
  $("space").style.height = `${shown.length * HEIGHT}px`;
  $("list").scrollTop = 0;
  paint();
  if (jump) { $("rows").scrollIntoView(); $("list").focus({preventScroll: true}); if (shown.length) open(shown[0]); }
}

/** Draw the items of the list that are in sight. */
function paint() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 4), last = Math.min(shown.length, first + Math.ceil(list.clientHeight / HEIGHT) + 9);
  const items = [];
  for (let place = first; place < last; place++) {
    const i = shown[place];
    const item = make("div", {className: "item", id: `item-${i}`, onclick: () => open(i)}, make("span", {}, ...visible(data.columns.head[i] || "(no text)")), make("span", {}, ...kind.line(i)));
    item.style.top = `${place * HEIGHT}px`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(i === state.open));
    item.setAttribute("aria-setsize", String(shown.length));
    item.setAttribute("aria-posinset", String(place + 1));
    items.push(item);
  }
  $("space").replaceChildren(...items);
  $("space").setAttribute("role", "presentation");
  if (shown.indexOf(state.open) >= first && shown.indexOf(state.open) < last) list.setAttribute("aria-activedescendant", `item-${state.open}`);
  else list.removeAttribute("aria-activedescendant");
}

/** Open the row at a position; of several in a row, the last one is shown. */
async function open(i) {
  wanted = state.open = i;
  const place = shown.indexOf(i), list = $("list");
  if (place >= 0) {
    if (place * HEIGHT < list.scrollTop) list.scrollTop = place * HEIGHT;
    if ((place + 1) * HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * HEIGHT - list.clientHeight;
  }
  paint();
  history.replaceState(null, "", `#row=${data.columns.id[i]}`);
  try {
    const rows = await rowsOf(Math.floor(i / data.block));
    if (wanted !== i) return;
    Object.assign(state, {at: i, row: rows[i % data.block]});
    draw(0);
  } catch (error) {
    if (wanted !== i) return;
    state.row = null;
    $("detail").replaceChildren(make("p", {className: "bad"}, `This row cannot be shown: ${error.message}`));
  }
  if (window.matchMedia("(max-width: 760px)").matches) $("detail").scrollIntoView();
  else $("browser").scrollIntoView({block: "nearest"});
}

/** Draw the open row, as far down as it stands, or from so far down. */
function draw(top = $("detail").scrollTop) {
  kind.show(state.at, state.row);
  fit();
  $("detail").scrollTop = top;
}

/** Mark how chosen and rejected differ, or no longer. */
function flip() {
  state.diff = !state.diff;
  if (state.row) draw();
}

function marker() {
  const mark = make("button", {type: "button", onclick: () => { flip(); $("detail").querySelector("button").focus({preventScroll: true}); }}, state.diff ? "hide differences" : "mark differences");
  mark.setAttribute("aria-pressed", String(state.diff));
  return mark;
}

function answer(row, view) {
  const side = SIDE[view], text = row.answers[view];
  const title = make("h3", {}, `${side} (${view === "plain" ? "no principles" : view})`);
  if (text === undefined) return make("div", {}, title, make("p", {className: "quiet"}, "not asked for: the row was decided without it"));
  const facts = `${row.tokens[view]} tokens, ${row.finish[view] === "stop" ? "ended" : `cut off (${row.finish[view]})`}`;
  const pieces = row.pieces && row.pieces[view], [first, second] = state.tint.split(" ");
  if (!state.diff && pieces && pieces.nats[first] && pieces.nats[second]) return make("div", {}, title, make("p", {className: "quiet"}, facts), tinted(pieces, first, second));
  const box = state.diff && view !== "plain" && row.answers.good !== undefined ? marked(row.answers.bad, row.answers.good, view === "good") : textBox(text);
  return make("div", {}, title, make("p", {className: "quiet"}, facts), box);
}

/** One of two answers (the second: `isNew`) with what the other lacks; very different ones are not marked. */
function marked(before, after, isNew) {
  const parts = Diff.diffWordsWithSpace(before.slice(0, MOST_SHOWN), after.slice(0, MOST_SHOWN), {timeout: 500});
  const same = parts ? parts.filter((part) => !part.added && !part.removed).reduce((sum, part) => sum + part.value.length, 0) : 0;
  if (same < LEAST_ALIKE * Math.max(after.length, before.length, 1)) {
    const box = textBox(isNew ? after : before);
    return make("div", {}, make("p", {className: "quiet"}, "too different to mark words"), box);
  }
  const box = make("div", {className: "text"});
  for (const part of parts) {
    if (!part.added && !part.removed) box.append(...visible(part.value));
    else if (Boolean(part.added) === isNew) box.append(make(isNew ? "ins" : "del", {}, ...visible(part.value)));
  }
  return box;
}

/** A stretch of colour for a difference in nats: the more, the stronger. */
function swatch(nats, ...inside) {
  const span = make("span", {className: nats > 0 ? "more" : "less"}, ...inside);
  span.style.setProperty("--strength", `${Math.round(100 * Math.min(1, Math.abs(nats) / MOST_NATS))}%`);
  return span;
}

/** The tokens of an answer, coloured by the log-prob under one view minus that under another. */
function tinted(pieces, first, second) {
  const spans = pieces.texts.map((text, n) => {
    const a = pieces.nats[first][n], b = pieces.nats[second][n];
    const span = swatch(a - b, ...(text ? visible(text) : [n === pieces.texts.length - 1 ? "<end>" : "<control>"]));
    span.title = `${first} ${fixed(a, 2)}, ${second} ${fixed(b, 2)}: ${a - b < 0 ? "" : "+"}${fixed(a - b, 2)} nats`;
    return span;
  });
  return make("div", {className: "text"}, ...spans);
}

/** The choice of the two views, and what the colours mean. */
function legend(row) {
  if (!row.pieces) return null;
  const change = (event) => {
    Object.assign(state, {tint: event.target.value, diff: false});
    draw();
    $("detail").querySelector("select").focus({preventScroll: true});
  };
  const choice = make("select", {onchange: change}, ...Object.entries(TINTS).map(([value, text]) => make("option", {value}, text)));
  choice.value = state.tint;
  const [first, second] = state.tint.split(" "), scale = [-2, -1, -0.5, 0.5, 1, 2].map((nats) => swatch(nats, ` ${nats > 0 ? "+" : ""}${nats} `));
  return make("p", {className: "text"}, make("label", {}, "tokens by log-prob under ", choice), ...(state.tint ? [" ", ...scale, ` nats: likelier under ${second}, or under ${first}`] : []));
}

/** The numbers of a row beside what the filter asks of them, as the filter compared them. */
function tests(row) {
  const signs = {"<=": "at most", ">=": "at least", "<": "under", ">": "over"};
  const rows = row.tests.map(([reason, misses, what, side, value, relation, limit]) => [`${what === reason ? "" : `${reason}: `}${what}${side && ` of ${side}`}`, what === "tokens" && value !== null ? value : fixed(value),
    limit === null ? "-" : `${signs[relation] ?? relation} ${+limit.toPrecision(4)}`, misses === null ? (value === null ? "not known" : "by other rows") : misses ? "fails" : "passes"]);
  return table(["number", "this row", "the filter asks", "result"], rows);
}

function show(i, row) {
  const [, verdict, why] = /^([^:]*)(.*)$/.exec(row.verdict);
  const folded = (name, ...inside) => make("details", {}, make("summary", {}, name), ...inside);
  const turns = row.prompt.map((turn) => make("div", {}, make("p", {className: "quiet"}, turn.role), textBox(turn.content)));
  const texts = row.principles.map((name, n) => make("li", {}, make("b", {}, name), make("div", {className: "good"}, ...visible(`good: ${row.texts.good[n]}`)), make("div", {className: "bad"}, ...visible(`bad: ${row.texts.bad[n]}`))));
  const seen = ["plain", "good", "bad"], cells = seen.map((one) => [one, ...VIEWS.map((drawn) => fixed(row.means[`${one}.${drawn}`] ?? null))]);
  const systems = ["good", "bad"].map((view) => make("div", {}, make("p", {className: "quiet"}, view), textBox([row.system[view], row.user[view]].filter(Boolean).join("\n\n") || "(none)")));
  $("detail").replaceChildren(make("p", {}, make("b", {className: verdict === "kept" ? "good" : "bad"}, verdict), why), make("p", {}, `row ${data.columns.id[i]} `, marker()), make("h3", {}, "prompt"), ...turns, make("ul", {}, ...texts), ...[legend(row)].filter(Boolean),
    make("div", {className: "answers"}, ...VIEWS.map((view) => answer(row, view))), make("h3", {}, "against the filter"), tests(row),
    ...(row.verdicts.length ? [make("h3", {}, "judges"), table(["judge", "question", "first is better", "scores", "said"], row.verdicts.map(([judge, question, preference, scores, said]) => [judge, question, preference, scores ? scores.map((one) => fixed(one)).join(" / ") : null, said]))] : []),
    make("h3", {}, "mean log-probs (nats/token)"), table(["view", "chosen", "rejected", "original"], cells),
    folded("system messages of the good and the bad view", ...systems), folded("source", textBox(`${row.source ?? ""}\n${row.metadata}`)));
}

/** Search the texts of every row, block by block. */
async function searchAll() {
  const turn = ++searching, text = state.text.toLowerCase(), found = new Set();
  if (!text) return;
  for (let number = 0; number * data.block < data.rows; number++) {
    const rows = await rowsOf(number, false);
    if (turn !== searching) return;
    rows.forEach((row, n) => { if (kind.texts(row).some((one) => one.toLowerCase().includes(text))) found.add(number * data.block + n); });
    if (number % 32 === 0) $("count").textContent = `searching: ${Math.min((number + 1) * data.block, data.rows)} of ${data.rows} rows`;
  }
  state.found = found;
  select({});
}

/** The command that shows these rows; "" where none does. */
function command() {
  if (!shown.length) return "";
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const words = ["sso-data", "show", quoted(data.name)];
  if (state.text || state.check) {  // which options cannot say
    if (shown.length > MOST_NAMED) return "";
    return [...words, ...shown.map((i) => data.columns.id[i])].join(" ");
  }
  if (state.reason) words.push("--reason", state.reason);
  if (state.principle) words.push("--principle", quoted(state.principle));
  if (state.sort !== "order") words.push("--sort", state.sort);
  if (shown.length > 3) words.push("-n", String(shown.length));
  return words.join(" ");
}

function step(by) {
  const place = shown.indexOf(state.open);
  const next = place < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, place + by));
  if (shown.length) open(shown[next]);
}

function listen() {
  const options = (id, names) => $(id).append(...names.map(([value, text]) => make("option", {value}, text)));
  options("reason", kind.options());
  if (data.features) options("principle", [["", "all"], ...[...data.features].sort().map((name) => [name, name])]);
  options("sort", Object.entries(kind.sorts));
  $("text").addEventListener("input", () => select({text: $("text").value}));
  $("bar").addEventListener("submit", (event) => { event.preventDefault(); searchAll(); });
  for (const name of [...kind.filters, "sort"]) $(name).addEventListener("change", () => select({[name]: $(name).value}));
  $("clear").addEventListener("click", () => select({text: "", reason: "", principle: "", check: "", sort: "order"}));
  if ($("copy")) $("copy").addEventListener("click", async () => {
    const text = command();
    if (!text) { $("count").textContent = shown.length ? `a search or a check of more than ${MOST_NAMED} rows is no command` : "no row is shown: there is nothing to copy"; return; }
    try { await navigator.clipboard.writeText(text); $("count").textContent = `copied: ${text}`; } catch { $("count").textContent = text; }
  });
  $("list").addEventListener("scroll", paint);
  window.addEventListener("resize", () => { paint(); fit(); });
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (typing) return;
    const inList = event.target === $("list");
    const action = {j: () => step(1), k: () => step(-1), ArrowDown: inList && (() => step(1)), ArrowUp: inList && (() => step(-1)), "/": () => { $("rows").scrollIntoView(); $("text").focus(); }, d: flip}[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  window.addEventListener("hashchange", follow);
}

/** Open the row that the address names. */
function follow() {
  const match = /^#row=(.+)$/.exec(decodeURIComponent(location.hash));
  const i = match ? data.columns.id.indexOf(match[1]) : -1;
  if (i >= 0 && i !== state.open) { select({text: "", reason: "", principle: "", check: ""}); $("rows").scrollIntoView(); open(i); }
}

/** Ask a server that follows a growing run how many rows there are by now. */
async function poll() {
  try {
    const answer = await fetch(document.body.dataset.live);
    if (!answer.ok) throw new Error(await answer.text());
    const there = await answer.json();
    if (there.rows > data.rows) { $("live").hidden = false; $("live").replaceChildren(`${there.rows - data.rows} new rows: `, make("button", {type: "button", onclick: () => location.reload()}, "load them")); }
  } catch (error) {
    const has_ended = error instanceof TypeError;
    if (has_ended) clearInterval(polling);  // the browser would tell of every further request that fails
    Object.assign($("live"), {hidden: false, textContent: has_ended ? "the server has ended" : error.message});
  }
}

unpack($("index").textContent).then((found) => {
  data = found;
  kind.overview();
  fit();
  listen();
  select({});
  follow();
  if (document.body.dataset.live) polling = setInterval(poll, 5000);
  document.body.dataset.ready = "yes";
});
