// The page of `bulkmail sink --web`. What is in a message is a stranger's: it becomes text by textContent, and its html
// is shown by a frame without any rights. The page's policy (guard.py) forbids markup made from strings at all.

const LIMIT = 50;
const SOURCE_SHOWN = 256 * 1024;
const SEEN_KEPT = 2000;
const TABS = ["html", "text", "headers", "source", "links"];

const $ = (id) => document.getElementById(id);
const rows = $("rows"), query = $("query"), article = $("message"), panel = $("panel"), welcome = $("welcome"), sure = $("sure");
const state = { start: 0, list: null, shown: new Set(), selected: null, message: null, tab: "html", chosen: "html", server: null };
const seen = new Set(JSON.parse(sessionStorage.getItem("seen") || "[]"));
let listing = null, opening = null, filling = null, wanted = false, typing = 0;

// --- small things

function make(tag, options = {}, ...children) {
  const { text, ...attributes } = options;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children.filter(Boolean));
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

async function ask(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || `${response.status} ${response.statusText}`);
  return response;
}

const path = (id, rest = "") => `/api/messages/${encodeURIComponent(id)}${rest}`;

function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["KB", "MB", "GB"];
  let value = bytes / 1000, unit = 0;
  while (value >= 1000 && unit < 2) { value /= 1000; unit += 1; }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function when(text) {
  const date = new Date(text), now = new Date();
  if (Number.isNaN(date.getTime())) return "";
  if (date.toDateString() === now.toDateString()) return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const year = date.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString([], { day: "numeric", month: "short", year });
}

/** "Ann <ann@example.com>" -> "Ann". */
function person(field, address) {
  const name = field.replace(/<[^>]*>/g, "").replace(/^["'\s]+|["'\s]+$/g, "");
  return name || field || address || "nobody";
}

function hue(text) {
  let sum = 0;
  for (const c of text) sum = (sum * 31 + c.codePointAt(0)) % 360;
  return sum;
}

const count = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

// --- the list

async function loadList() {
  listing?.abort();
  const mine = listing = new AbortController();
  wanted = false;
  const asked = new URLSearchParams({ query: query.value.trim(), start: state.start, limit: LIMIT });
  try {
    const list = await (await ask(`/api/messages?${asked}`, { signal: mine.signal })).json();
    if (!list.messages.length && list.start && list.total) {
      state.start = Math.floor((list.total - 1) / LIMIT) * LIMIT;
      return loadList();
    }
    showList(list);
  } catch (error) {
    if (error.name !== "AbortError") $("count").textContent = error.message;
  } finally {
    if (listing === mine) listing = null;
    if (wanted && !listing) loadList();
  }
}

/** Once more after what is under way: when many messages come, every answer counts and none is given up. */
function refresh() {
  if (listing) wanted = true;
  else loadList();
}

function showList(list) {
  const first = state.list === null;
  state.list = list;
  const focused = rows.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  const top = rows.scrollTop;
  rows.replaceChildren(...list.messages.map((message) => row(message, first)));
  rows.scrollTop = top;
  state.shown = new Set(list.messages.map((message) => message.id));
  if (focused) anchor(focused)?.focus({ preventScroll: true });
  showCount(list);
  $("clear").hidden = !list.deletes || (!list.total && !query.value);
  $("delete").hidden = !list.deletes;
  showWelcome(list);
}

function row(message, first) {
  const who = person(message.header_from, message.from);
  const face = make("span", { class: "face", "aria-hidden": "true", text: [...who][0].toUpperCase() });
  face.style.setProperty("--hue", hue(message.header_from || message.from));
  const more = message.recipients > 1 ? ` and ${message.recipients - 1} more` : "";
  const weight = make("span", { class: "weight" }, message.attachments ? icon("clip") : null, make("span", { text: size(message.size) }));
  if (message.attachments) weight.firstChild.after(make("span", { class: "heard", text: "with attachments," }));
  const link = make("a", { href: `#/${message.id}`, "data-id": message.id }, face,
    make("span", { class: "who line", text: who }),
    make("time", { class: "when", datetime: message.received, text: when(message.received) }),
    make("span", { class: `what line${message.subject ? "" : " unnamed"}`, text: message.subject || "no subject" }),
    make("span", { class: "to line", text: `to ${message.to[0] || "nobody"}${more}` }), weight);
  if (message.id === state.selected) link.setAttribute("aria-current", "true");
  const item = make("li", {}, link);
  item.classList.toggle("fresh", !seen.has(message.id));
  item.classList.toggle("arrived", !first && !state.shown.has(message.id));
  return item;
}

const anchor = (id) => [...rows.querySelectorAll("a")].find((link) => link.dataset.id === id);

function showCount(list) {
  const last = list.start + list.messages.length, part = list.total > LIMIT;
  let text = query.value.trim() ? `${count(list.total, "message", "messages")} found` : count(list.total, "message", "messages");
  if (!list.complete) text += query.value.trim() ? " so far: not all were searched" : ", older ones are in the folder";
  if (part) text = `${(list.start + 1).toLocaleString()}–${last.toLocaleString()} of ${text}`;
  if ($("count").textContent !== text) $("count").textContent = text;
  $("newer").disabled = list.start === 0;
  $("older").disabled = last >= list.total;
  $("newer").parentElement.hidden = !part;
}

function showWelcome(list) {
  const searching = Boolean(query.value.trim());
  $("none").hidden = list.total > 0;
  $("none").textContent = searching ? "No message has all these words." : "Nothing has come yet.";
  const [title, text] = welcome.querySelectorAll("h1, p");
  if (list.total || searching) {
    title.textContent = "No message is open";
    text.textContent = "Choose one from the list.";
  } else if (state.server) {
    title.textContent = "Waiting for mail";
    text.replaceChildren("Send some to ", make("code", { text: state.server.url }), " and it shows here at once.");
  }
}

function turn(step) {
  state.start = Math.max(0, state.start + step);
  rows.scrollTop = 0;
  loadList();
}

// --- one message

async function openMessage(id) {
  opening?.abort();
  opening = new AbortController();
  try {
    const message = await (await ask(path(id), { signal: opening.signal })).json();
    showMessage(message);
  } catch (error) {
    if (error.name === "AbortError") return;
    closeMessage();
    $("count").textContent = error.message;
  }
}

function select(id) {
  state.selected = id;
  for (const link of rows.querySelectorAll("a")) {
    const on = link.dataset.id === id;
    link.toggleAttribute("aria-current", on);
    if (on) {
      link.setAttribute("aria-current", "true");
      link.parentElement.classList.remove("fresh");
      link.scrollIntoView({ block: "nearest" });
    }
  }
  if (!id) return;
  seen.add(id);
  sessionStorage.setItem("seen", JSON.stringify([...seen].slice(-SEEN_KEPT)));
}

function facts(list, pairs) {
  list.replaceChildren(...pairs.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
}

function showMessage(message) {
  state.message = message;
  $("subject").textContent = message.subject || "no subject";
  $("subject").classList.toggle("unnamed", !message.subject);
  $("save").href = path(message.id, "/source?download");
  const header = (name) => message.headers.filter(([key]) => key.toLowerCase() === name).map(([, value]) => value).join(", ");
  facts($("people"), [["From", message.header_from || message.from], ["To", message.header_to || message.to.join(", ")], ["Cc", header("cc")],
    ["Reply-To", header("reply-to")], ["Received", `${new Date(message.received).toLocaleString()}, ${size(message.size)}`]]);
  const more = message.recipients > message.to.length ? ` and ${message.recipients - message.to.length} more` : "";
  facts($("envelope").querySelector("dl"), [["Id", message.id], ["From", message.from || "<> (a bounce)"], ["To", message.to.join(", ") + more],
    ["Client", `${message.remote_address} port ${message.remote_port}${message.proxy_address ? ` by the proxy ${message.proxy_address}` : ""}`],
    ["HELO", message.helo], ["TLS", message.tls || "none"], ["Login", message.auth]]);
  showProblems(message.problems);
  showFiles(message);
  const has = { html: message.has_html, text: message.has_text, headers: true, source: true, links: message.links.length > 0 };
  for (const name of TABS) $(`tab-${name}`).disabled = !has[name];
  $("tab-links").textContent = message.links.length ? `Links ${message.links.length}` : "Links";
  article.hidden = false;
  welcome.hidden = true;
  document.body.dataset.view = "message";
  showTab(has[state.chosen] ? state.chosen : TABS.find((name) => has[name]));
}

function showProblems(problems) {
  $("problems").hidden = !problems.length;
  $("problems").replaceChildren(...problems.map((text) => make("li", { text })));
}

function showFiles(message) {
  $("files").hidden = !message.attachments.length;
  $("files").replaceChildren(...message.attachments.map((file) => make("li", {},
    make("a", { class: "button", href: path(message.id, `/attachments/${file.index}`), download: file.name, title: file.type },
      icon("clip"), make("span", { text: file.name }), make("small", { text: size(file.size) })))));
}

function choose(tab) {
  state.chosen = tab;
  showTab(tab);
}

function closeMessage() {
  opening?.abort();
  select(null);
  state.message = null;
  panel.replaceChildren();
  article.hidden = true;
  welcome.hidden = false;
  document.body.dataset.view = "list";
}

function showTab(tab) {
  state.tab = tab;
  for (const name of TABS) {
    $(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
    $(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
  }
  panel.setAttribute("aria-labelledby", `tab-${tab}`);
  panel.dataset.tab = tab;
  $("narrow").hidden = tab !== "html";
  filling?.abort();
  filling = new AbortController();
  fill[tab](state.message, filling.signal).catch((error) => {
    if (error.name !== "AbortError") panel.replaceChildren(make("p", { class: "note", text: error.message }));
  });
}

const fill = {
  async html(message) {
    // sandbox is set before src: the frame never has rights. An empty value takes all of them.
    const frame = make("iframe", { sandbox: "", referrerpolicy: "no-referrer", title: "The message's HTML", src: path(message.id, "/html") });
    panel.replaceChildren(frame, make("p", { class: "note", text: "Scripts do not run and nothing is fetched from outside. Links are under Links." }));
  },
  async text(message, signal) {
    const text = await (await ask(path(message.id, "/text"), { signal })).text();
    panel.replaceChildren(make("pre", { class: "letter", text }));
  },
  async headers(message) {
    const lines = message.headers.map(([name, value]) => make("tr", {}, make("th", { scope: "row", text: name }), make("td", { text: value })));
    panel.replaceChildren(make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, ...lines))));
  },
  async source(message, signal) {
    const text = await (await ask(path(message.id, `/source?limit=${SOURCE_SHOWN}`), { signal })).text();
    const cut = message.size > SOURCE_SHOWN;
    panel.replaceChildren(make("pre", { class: "code", text }),
      cut && make("p", { class: "note", text: `The first ${size(SOURCE_SHOWN)} of ${size(message.size)}; “Source” above saves it all.` }) || "");
  },
  async links(message) {
    const safe = message.links.filter(({ url }) => /^(https?:\/\/|mailto:)/i.test(url));
    panel.replaceChildren(make("div", { class: "scroll" }, make("ul", { class: "links" }, ...safe.map(({ url, text }) => make("li", {},
      make("div", { text: text || "no text" }), make("a", { href: url, target: "_blank", rel: "noopener noreferrer", text: url }))))));
  },
};

// --- deleting

async function remove(id) {
  const ids = state.list.messages.map((message) => message.id), at = ids.indexOf(id);
  await ask(path(id), { method: "DELETE" }).catch((error) => { $("count").textContent = error.message; });
  const next = ids[at + 1] || ids[at - 1];
  location.hash = next && window.innerWidth > 820 ? `#/${next}` : "#/";
  refresh();
}

async function removeAll() {
  sure.close();
  await ask("/api/messages", { method: "DELETE" }).catch((error) => { $("count").textContent = error.message; });
  state.start = 0;
  location.hash = "#/";
  refresh();
}

// --- what the person does

function route() {
  const id = location.hash.slice(2); // ids are letters, digits, ".", "_" and "-": nothing to decode
  if (!id) return closeMessage();
  select(id);
  openMessage(id);
}

function move(step) {
  const links = [...rows.querySelectorAll("a")];
  if (!links.length) return;
  const at = links.findIndex((link) => link.dataset.id === state.selected);
  const next = links[at < 0 ? 0 : Math.min(Math.max(at + step, 0), links.length - 1)];
  select(next.dataset.id); // at once: the next key may come before the browser tells of the new address
  location.hash = next.getAttribute("href");
}

function escape() {
  if (document.activeElement === query) {
    if (query.value) { query.value = ""; search(); } else query.blur();
  } else if (state.selected) {
    const was = state.selected;
    location.hash = "#/";
    anchor(was)?.focus();
  } else if (query.value) { query.value = ""; search(); }
}

const KEYS = { j: () => move(1), k: () => move(-1), "/": () => query.focus(), Escape: escape };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || sure.open) return;
  const typed = event.target === query && event.key !== "Escape";
  if (typed || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

function search() {
  clearTimeout(typing);
  state.start = 0;
  loadList();
}

document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const able = TABS.filter((name) => !$(`tab-${name}`).disabled);
  const next = able[(able.indexOf(state.tab) + step + able.length) % able.length];
  choose(next);
  $(`tab-${next}`).focus();
});
rows.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const links = [...rows.querySelectorAll("a")], next = links[links.indexOf(document.activeElement) + step];
  if (!step || !next) return;
  event.preventDefault();
  next.focus();
});
for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => choose(name));
query.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 200); });
query.form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("newer").addEventListener("click", () => turn(-LIMIT));
$("older").addEventListener("click", () => turn(LIMIT));
$("back").addEventListener("click", () => { location.hash = "#/"; });
$("delete").addEventListener("click", () => remove(state.selected));
$("clear").addEventListener("click", () => sure.showModal());
sure.addEventListener("click", (event) => { if (event.target.value === "yes") removeAll(); else if (event.target.value === "no") sure.close(); });
$("narrow").addEventListener("click", () => {
  const on = panel.classList.toggle("narrow");
  $("narrow").setAttribute("aria-pressed", String(on));
});
window.addEventListener("hashchange", route);

// --- what comes

let stream = null;

function say(status, text) {
  $("live").dataset.state = status;
  if ($("live").lastChild.textContent !== text) $("live").lastChild.textContent = text;
}

function watch() {
  stream = new EventSource("/api/events");
  stream.addEventListener("message", refresh);
  stream.addEventListener("open", () => say("on", "live"));
  stream.addEventListener("error", () => {
    say("wait", "not connected");
    if (stream?.readyState === EventSource.CLOSED) setTimeout(() => { if (stream) watch(); }, 3000);
  });
}

// A browser has six connections to a host for all its tabs: one that nobody looks at gives its own back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stream?.close(); stream = null; } else if (!stream) watch();
});

ask("/api/server").then((response) => response.json()).then((server) => {
  state.server = server;
  if (state.list) showWelcome(state.list);
}).catch(() => {});
loadList();
watch();
if (location.hash.length > 2) route();
