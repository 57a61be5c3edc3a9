"use strict";
const HEIGHT = 48, MOST_BLOCKS = 16, MOST_NAMED = 20, MOST_SHOWN = 20000, LEAST_ALIKE = 0.25;
const VIEWS = ["good", "bad", "plain"], SIDE = {good: "chosen", bad: "rejected", plain: "original"};
const NUMBER = /^(-|[-+]?\d[\d.]*( ?%)?( [[(/].*)?)$/;
const TINTS = {"good bad": "good - bad", "good plain": "good - plain", "plain bad": "plain - bad", "": "off"}, MOST_NATS = 2;
const $ = (id) => document.getElementById(id);
const state = {text: "", reason: "", principle: "", check: "", sort: "order", open: -1, diff: false, tint: "good bad", found: null};
const waiting = new Map(), loaded = new Map();
let data, shown = [], wanted = -1, searching = 0;

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

/** A text with control and direction characters made visible. */
function visible(text) {
  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, parts = [];
  let at = 0;
  for (const match of text.matchAll(hidden)) {
    parts.push(text.slice(at, match.index), make("mark", {}, `U+${match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
    at = match.index + 1;
  }
  return [...parts, text.slice(at)];
}

function textBox(text, all = false) {
  const box = make("div", {className: "text"}, ...visible(all ? text : text.slice(0, MOST_SHOWN)));
  if (text.length > MOST_SHOWN && !all) {
    const more = make("button", {type: "button", onclick: () => box.replaceWith(textBox(text, true))}, `show all ${text.length} characters`);
    box.append("... ", more);
  }
  return box;
}

function table(heads, rows) {
  const cell = (tag, value) => {
    const element = make(tag, typeof value === "number" || NUMBER.test(String(value)) ? {className: "number"} : {});
    element.append(value === null ? "-" : value instanceof Node ? value : String(value));
    if (tag === "th") element.scope = "col";
    return element;
  };
  const head = make("tr", {}, ...heads.map((name, i) => { const th = cell(name === "" ? "td" : "th", name); if (rows.length && NUMBER.test(String(rows[0][i]))) th.className = "number"; return th; }));
  const body = rows.map((row) => make("tr", {}, ...row.map((value) => cell("td", value))));
  return make("div", {className: "scroll", tabIndex: 0}, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

const fixed = (value, digits = 3) => value === null || value === undefined ? "-" : value.toFixed(digits);
const percent = (share) => share === null ? "-" : `${(100 * share).toFixed(0)} %`;

function link(text, change) {
  return make("button", {type: "button", className: "link", onclick: () => select({text: "", reason: "", principle: "", check: "", ...change}, true)}, text);
}

function overview() {
  $("account").textContent = data.account + (data.unfinished > 0 ? `; ${data.unfinished} are not done yet` : "");
  $("verdict").textContent = data.verdict;
  if (data.not_asked) $("account").textContent += `; ${data.not_asked} rows were decided early and lack answers or scores: shares, gaps and "all" below are of rows that are complete by design`;
  const counts = [["kept", data.kept], ...Object.entries(data.dropped).filter((one) => one[1])];
  $("ledger-table").append(table(["outcome", "rows"], [...counts.map(([name, count]) => [link(name, {reason: name}), count]), ["all", data.rows]]));
  for (const check of data.checks) {
    const counted = `${check.title}: ${check.rows.length} of ${check.of}`;
    const item = make("li", {className: check.warning ? "warning" : ""}, check.rows.length ? link(counted, {check: check.name + check.title}) : counted);
    if (check.rows.length) item.append(` (${percent(check.rows.length / check.of)} [${check.interval.map(percent).join(", ")}])`);
    if (check.warning) item.append(` - ${check.warning}`);
    $("check-list").append(item);
  }
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

function histogram(one) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), bins = one.all.length, most = Math.max(...one.all, 1);
  const shape = (name, attributes) => { const el = document.createElementNS(svg.namespaceURI, name); for (const [key, value] of Object.entries(attributes)) el.setAttribute(key, value); svg.append(el); };
  svg.setAttribute("viewBox", `0 0 ${bins} 100`); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${one.title}: from ${one.edges[0]} to ${one.edges[bins]}`);
  for (const name of ["all", "kept"]) one[name].forEach((count, i) => { if (count) shape("rect", {class: name, x: i + 0.05, width: 0.9, y: 100 - 100 * count / most, height: 100 * count / most}); });
  const first = one.edges[0], last = one.edges[bins];
  if (one.limit !== null && one.limit >= first && one.limit <= last) { const x = bins * (one.limit - first) / (last - first); shape("line", {x1: x, x2: x, y1: 0, y2: 100, "vector-effect": "non-scaling-stroke"}); }
  const limit = one.limit === null || one.limit === undefined ? "" : `, threshold ${+one.limit.toPrecision(4)}`;
  const short = (value) => String(+value.toPrecision(3));
  return make("figure", {}, make("figcaption", {}, one.title + limit), svg, make("div", {className: "ends"}, make("span", {}, short(first)), make("span", {}, `most ${most}`), make("span", {}, short(last))));
}

/* What the page of one run does in its own way; that of several runs has COMPARED. */
const ONE = {
  filters: ["reason", "principle"],
  sorts: {order: "as written", margin: "margin", gap: "smaller gap", distance: "distance", length: "tokens of chosen"},
  overview,
  options: () => [["", "all"], ...["kept", ...Object.keys(data.dropped)].map((name) => [name, name])],
  passes(i) {
    const c = data.columns;
    return (!state.reason || data.reasons[c.reason[i]] === state.reason) && (!state.principle || c.features[i].includes(data.features.indexOf(state.principle)));
  },
  key(name) {
    const c = data.columns, largest = (column) => (i) => column[i] === null ? Infinity : -column[i];
    return {margin: largest(c.margin), gap: largest(c.smaller_gap), distance: (i) => c.distance[i] ?? Infinity, length: largest(c.tokens_good)}[name];
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
    if (wanted === i) kind.show(i, rows[i % data.block]);
  } catch (error) {
    if (wanted === i) $("detail").replaceChildren(make("p", {className: "bad"}, `This row cannot be shown: ${error.message}`));
  }
}

function answer(row, view) {
  const side = SIDE[view], text = row.answers[view];
  const title = make("h3", {}, `${side} (${view === "plain" ? "no principles" : view})`);
  if (text === undefined) return make("div", {}, title, make("p", {className: "quiet"}, "not asked for: the row was decided without it"));
  const facts = `${row.tokens[view]} tokens, ${row.finish[view] === "stop" ? "ended" : `cut off (${row.finish[view]})`}`;
  const pieces = row.pieces && row.pieces[view], [first, second] = state.tint.split(" ");
  if (!state.diff && pieces && pieces.nats[first] && pieces.nats[second]) return make("div", {}, title, make("p", {className: "quiet"}, facts), tinted(pieces, first, second));
  const box = state.diff && view !== "plain" ? marked(row.answers.bad, row.answers.good, view === "good") : textBox(text);
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
function legend(i, row) {
  if (!row.pieces) return null;
  const change = (event) => {
    const top = $("detail").scrollTop;
    Object.assign(state, {tint: event.target.value, diff: false});
    show(i, row);
    $("detail").scrollTop = top;
    $("detail").querySelector("select").focus();
  };
  const choice = make("select", {onchange: change}, ...Object.entries(TINTS).map(([value, text]) => make("option", {value}, text)));
  choice.value = state.tint;
  const [first, second] = state.tint.split(" "), scale = [-2, -1, -0.5, 0.5, 1, 2].map((nats) => swatch(nats, ` ${nats > 0 ? "+" : ""}${nats} `));
  return make("p", {className: "text"}, make("label", {}, "tokens by log-prob under ", choice), ...(state.tint ? [" ", ...scale, ` nats: likelier under ${second}, or under ${first}`] : []));
}

/** The numbers of a row beside what the filter asks of them, as the filter compared them. */
function tests(row) {
  const signs = {"<=": "at most", ">=": "at least", "<": "under", ">": "over"};
  const rows = row.tests.map(([reason, fails, what, side, value, relation, limit]) => [reason, what, side, fixed(value), limit === null ? "-" : `${signs[relation] ?? relation} ${+limit.toPrecision(4)}`, fails === null ? (value === null ? "not asked for" : "by other rows") : fails ? "fails" : "passes"]);
  return table(["test", "number", "of", "this row", "the filter asks", "test"], rows);
}

function show(i, row) {
  const reason = data.reasons[data.columns.reason[i]];
  const kept = make("b", {className: reason === "kept" ? "good" : "bad"}, reason === "kept" ? "kept" : `dropped: ${reason}`);
  const folded = (name, ...inside) => make("details", {}, make("summary", {}, name), ...inside);
  const turns = row.prompt.map((turn) => make("div", {}, make("p", {className: "quiet"}, turn.role), textBox(turn.content)));
  const texts = row.principles.map((name, n) => make("li", {}, make("b", {}, name), make("div", {className: "good"}, ...visible(`good: ${row.texts.good[n]}`)), make("div", {className: "bad"}, ...visible(`bad: ${row.texts.bad[n]}`))));
  const seen = ["plain", "good", "bad"], cells = seen.map((one) => [one, ...VIEWS.map((drawn) => fixed(row.means[`${one}.${drawn}`] ?? null))]);
  const systems = ["good", "bad"].map((view) => make("div", {}, make("p", {className: "quiet"}, view), textBox([row.system[view], row.user[view]].filter(Boolean).join("\n\n") || "(none)")));
  const mark = make("button", {type: "button", onclick: () => { state.diff = !state.diff; show(i, row); }}, state.diff ? "hide differences" : "mark differences");
  mark.setAttribute("aria-pressed", String(state.diff));
  $("detail").replaceChildren(make("p", {}, kept, ` row ${data.columns.id[i]} `, mark), make("h3", {}, "prompt"), ...turns, make("ul", {}, ...texts), ...[legend(i, row)].filter(Boolean),
    make("div", {className: "answers"}, ...VIEWS.map((view) => answer(row, view))), make("h3", {}, "against the filter"), tests(row),
    ...(row.verdicts.length ? [make("h3", {}, "judges"), table(["judge", "question", "first is better", "scores", "said"], row.verdicts.map(([judge, question, preference, scores, said]) => [judge, question, preference, scores ? scores.map((one) => fixed(one)).join(" / ") : null, said]))] : []),
    make("h3", {}, "mean log-probs (nats/token)"), table(["view", "chosen", "rejected", "original"], cells),
    folded("system messages of the good and the bad view", ...systems), folded("source", textBox(`${row.source ?? ""}\n${row.metadata}`)));
  $("detail").scrollTop = 0;
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

function command() {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const words = ["sso-data", "show", quoted(data.name)];
  if (state.text || state.check) {  // which options cannot say
    if (shown.length > MOST_NAMED) return "";
    return [...words, ...shown.map((i) => data.columns.id[i])].join(" ");
  }
  if (state.reason) words.push("--reason", state.reason);
  if (state.principle) words.push("--principle", quoted(state.principle));
  if (["margin", "gap", "length"].includes(state.sort)) words.push("--sort", state.sort);
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
    if (!text) { $("count").textContent = `a search or a check of more than ${MOST_NAMED} rows is no command`; return; }
    try { await navigator.clipboard.writeText(text); $("count").textContent = `copied: ${text}`; } catch { $("count").textContent = text; }
  });
  $("list").addEventListener("scroll", paint);
  window.addEventListener("resize", paint);
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (typing) return;
    const inList = event.target === $("list");
    const action = {j: () => step(1), k: () => step(-1), ArrowDown: inList && (() => step(1)), ArrowUp: inList && (() => step(-1)), "/": () => { $("rows").scrollIntoView(); $("text").focus(); }, d: () => { state.diff = !state.diff; if (state.open >= 0) open(state.open); }}[event.key];
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
  } catch (error) { $("live").hidden = false; $("live").textContent = error instanceof TypeError ? "the server has ended" : error.message; }
}

unpack($("index").textContent).then((found) => {
  data = found;
  kind.overview();
  listen();
  select({});
  follow();
  if (document.body.dataset.live) setInterval(poll, 5000);
  document.body.dataset.ready = "yes";
});
