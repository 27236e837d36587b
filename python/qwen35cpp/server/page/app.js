// The chat page: conversations, the composer, and answers as they come.

import { ask, model } from "./chat.js";
import { renderInto } from "./markdown.js";
import { openStore, settings } from "./store.js";

const $ = (id) => document.getElementById(id);
const log = $("log"), input = $("input");
const touch = matchMedia("(pointer: coarse)");

let store, chats = [], chat = null, pictures = [], running = null, context = 0;

// ---- small things -------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const action = (label, run) => make("button", { type: "button", class: "action", onclick: run }, label);

function toast(text) {
  $("toast").textContent = text;
  $("toast").classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => $("toast").classList.remove("shown"), 5000);
}

const count = (n) => n.toLocaleString("en");

// ---- theme --------------------------------------------------------------------------------------

function applyTheme() {
  const chosen = settings.get("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  settings.set("theme", dark ? "light" : "dark");
  applyTheme();
});
applyTheme();

// ---- conversations ------------------------------------------------------------------------------

function newChat() {
  return { id: crypto.randomUUID?.() ?? String(Date.now() + Math.random()), title: "", updated: 0, messages: [], used: 0 };
}

function show(next) {
  running?.controller.abort();
  chat = next;
  document.body.classList.remove("menu");
  drawChats();
  drawLog();
  if (!touch.matches) input.focus();
}

async function keep() {
  chat.updated = Date.now();
  if (!chats.includes(chat)) chats.unshift(chat);
  chats.sort((a, b) => b.updated - a.updated);
  drawChats();
  try { await store.put(chat); } catch { toast("This conversation is too large to be kept."); }
}

async function forget(gone) {
  chats = chats.filter((each) => each !== gone);
  if (gone === chat) show(newChat()); else drawChats(); // first: its answer must not be kept now
  await store.remove(gone.id);
  toast("Conversation deleted.");
}

function drawChats() {
  $("chats").replaceChildren(...chats.map((each) => make("div", { class: each === chat ? "entry current" : "entry" },
    make("button", { type: "button", class: "open", onclick: () => show(each), "aria-current": each === chat ? "page" : null }, each.title || "New chat"),
    make("button", { type: "button", class: "delete", "aria-label": `Delete ${each.title}`, onclick: () => forget(each) }, "×"))));
  $("title").textContent = chat?.title || "New chat";
  drawMeter();
}

function drawMeter() {
  $("meter").hidden = !context || !chat?.used;
  if ($("meter").hidden) return;
  $("used").value = chat.used / context;
  $("used-text").textContent = `${count(chat.used)} of ${count(context)}`;
  $("meter").title = "Tokens of context used";
}

// ---- messages -----------------------------------------------------------------------------------

const IDEAS = ["Tell me a story about a dog.", "Explain rainbows to a child.", "Write a function that reverses a list."];

function drawLog() {
  if (chat.messages.length) {
    log.replaceChildren(...chat.messages.map(drawMessage));
  } else {
    log.replaceChildren(make("div", { class: "empty" },
      make("img", { src: "page/icon.svg", alt: "", width: 56, height: 56 }),
      make("h2", {}, "What shall we talk about?"),
      make("p", {}, "The model runs on this computer. Nothing leaves it."),
      make("div", { class: "ideas" }, ...IDEAS.map((idea) =>
        make("button", { type: "button", onclick: () => { input.value = idea; send(); } }, idea)))));
  }
  toEnd(true);
}

function drawMessage(message) {
  const node = message.role === "user" ? drawQuestion(message) : drawAnswer(message);
  node.message = message;
  return node;
}

function drawQuestion(message) {
  const shown = (message.images ?? []).map((url, i) => make("img", { src: url, alt: `Picture ${i + 1}` }));
  const node = make("article", { class: "question" },
    make("div", { class: "bubble" }, ...(shown.length ? [make("div", { class: "seen" }, ...shown)] : []),
      make("div", { class: "said" }, message.text)),
    make("div", { class: "actions" },
      action("Copy", () => copy(message.text)), action("Edit", () => edit(node, message))));
  return node;
}

function drawAnswer(message) {
  const node = make("article", { class: "answer" });
  const thought = make("details", { class: "thought" }, make("summary"), make("div", { class: "text" }));
  const text = make("div", { class: "text" });
  const status = make("div", { class: "status" });
  const actions = make("div", { class: "actions" });
  node.append(thought, text, status, actions);
  node.update = () => {
    const live = running?.message === message;
    thought.hidden = !message.reasoning;
    if (message.reasoning) {
      thought.firstChild.textContent = live && !message.text ? "Thinking…" : "Thought";
      thought.lastChild.textContent = message.reasoning;
    }
    node.classList.toggle("live", live);
    renderInto(text, message.text);
    status.replaceChildren(...statusOf(message, live));
    actions.replaceChildren(...(live ? [] : [
      ...(message.text ? [action("Copy", () => copy(message.text))] : []),
      action("Retry", () => retry(message)), figuresOf(message)]));
  };
  node.update();
  return node;
}

function statusOf(message, live) {
  if (message.error) return [make("p", { class: "error", role: "alert" }, message.error)];
  if (live && !message.text && !message.reasoning) {
    const share = message.progress;
    const label = share == null ? "Waiting" : share < 1 ? `Reading ${Math.round(100 * share)} %` : "Starting";
    return [make("p", { class: "waiting" }, make("span", { class: "dots" }, make("i"), make("i"), make("i")), label)];
  }
  if (!live && message.reason === "length") return [make("p", { class: "note" }, "The answer reached its longest length.")];
  if (!live && message.stopped) return [make("p", { class: "note" }, "Stopped.")];
  return [];
}

function figuresOf(message) {
  const { timings, usage } = message;
  if (!timings || !usage) return "";
  const first = (timings.prompt_ms / 1000).toFixed(timings.prompt_ms < 10000 ? 1 : 0);
  const cached = usage.prompt_tokens_details.cached_tokens;
  const title = `${count(usage.prompt_tokens)} tokens read in ${first} s (${count(cached)} known before), ${count(usage.completion_tokens)} written`;
  return make("span", { class: "figures", title }, `${timings.predicted_per_second.toFixed(1)} tokens/s · ${count(usage.completion_tokens)} tokens`);
}

async function copy(text) {
  await navigator.clipboard.writeText(text);
  toast("Copied.");
}

function edit(node, message) {
  if (running) return;
  const area = make("textarea", { "aria-label": "Edit message", rows: "1" });
  area.value = message.text;
  const done = () => drawLog();
  const save = () => {
    if (!area.value.trim()) return;
    chat.messages.length = chat.messages.indexOf(message);
    answer({ ...message, text: area.value.trim() });
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") done();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch.matches) { event.preventDefault(); save(); }
  });
  area.addEventListener("input", () => grow(area));
  node.replaceChildren(make("div", { class: "editing" }, area,
    make("div", { class: "row" }, make("button", { type: "button", class: "quiet", onclick: done }, "Cancel"),
      make("button", { type: "button", onclick: save }, "Send"))));
  grow(area);
  area.focus();
}

function retry(message) {
  if (running) return;
  const index = chat.messages.indexOf(message);
  const question = chat.messages[index - 1];
  chat.messages.length = index - 1;
  answer(question);
}

// ---- asking -------------------------------------------------------------------------------------

function send() {
  const text = input.value.trim();
  if (running || (!text && !pictures.length)) return;
  const images = pictures;
  input.value = "";
  pictures = [];
  drawPictures();
  grow(input);
  answer({ role: "user", text, images });
}

async function answer(question) {
  const asked = chat;
  const message = { role: "assistant", text: "", reasoning: "" };
  if (!asked.title) asked.title = (question.text || "Picture").replace(/\s+/g, " ").slice(0, 60);
  asked.messages.push(question);
  const before = [...asked.messages];
  asked.messages.push(message);
  running = { message, controller: new AbortController() };
  const { controller } = running;
  document.body.classList.add("running");
  $("send").setAttribute("aria-label", "Stop");
  drawLog();
  await keep();

  let due = 0;
  const draw = () => {
    due ||= requestAnimationFrame(() => {
      due = 0;
      const node = [...log.children].find((each) => each.message === message);
      const stay = atEnd();
      node?.update();
      if (stay) toEnd();
    });
  };
  try {
    await ask(before, { think: $("think").getAttribute("aria-pressed") === "true", signal: controller.signal }, {
      progress: (share) => { message.progress = share; draw(); },
      reasoning: (text) => { message.reasoning += text; draw(); },
      text: (text) => { message.text += text; draw(); },
      end: ({ usage, timings, reason }) => {
        Object.assign(message, { usage, timings, reason });
        asked.used = usage.total_tokens;
      },
    });
  } catch (error) {
    if (controller.signal.aborted) message.stopped = true;
    else message.error = error.status ? error.message : "The server cannot be reached.";
    if (error.status === 401) openSettings();
  } finally {
    if (running?.message === message) {
      running = null;
      document.body.classList.remove("running");
      $("send").setAttribute("aria-label", "Send");
    }
    delete message.progress;
    draw();
    if (asked === chat) await keep(); else if (chats.includes(asked)) await store.put(asked);
  }
}

const stop = () => running?.controller.abort();

const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
const toEnd = (now) => log.scrollTo({ top: log.scrollHeight, behavior: now ? "instant" : "auto" });

// ---- the composer -------------------------------------------------------------------------------

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight, innerHeight * 0.4)}px`;
}

input.addEventListener("input", () => grow(input));
input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey && !touch.matches) {
    event.preventDefault();
    send();
  }
  if (event.key === "ArrowUp" && !input.value) {
    [...log.querySelectorAll(".question")].at(-1)?.querySelector(".action:last-child")?.click();
  }
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop(); else send();
});
$("think").addEventListener("click", () => setThink($("think").getAttribute("aria-pressed") !== "true"));

function setThink(on) {
  $("think").setAttribute("aria-pressed", String(on));
  settings.set("think", String(on));
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape") { stop(); document.body.classList.remove("menu"); }
  const typing = /^(TEXTAREA|INPUT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !typing) { event.preventDefault(); input.focus(); }
  if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    show(newChat());
  }
});

// ---- pictures -----------------------------------------------------------------------------------

const KEPT = new Set(["image/png", "image/jpeg", "image/webp"]);
const LONGEST_SIDE = 2048, MOST_BYTES = 4 << 20;

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// A picture as the server takes it: large and unusual ones are drawn anew.
async function prepared(file) {
  if (KEPT.has(file.type) && file.size <= MOST_BYTES) return dataUrl(file);
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = make("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

async function addFiles(files) {
  for (const file of files) {
    try { pictures.push(await prepared(file)); } catch { toast(`${file.name} is not a picture that can be read.`); }
  }
  drawPictures();
}

function drawPictures() {
  $("pictures").replaceChildren(...pictures.map((url, i) => make("span", {},
    make("img", { src: url, alt: `Picture ${i + 1}` }),
    make("button", { type: "button", "aria-label": `Remove picture ${i + 1}`, onclick: () => { pictures.splice(i, 1); drawPictures(); } }, "×"))));
}

const dropped = (data) => [...(data?.files ?? [])];
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => { await addFiles($("file").files); $("file").value = ""; });
input.addEventListener("paste", (event) => {
  const files = dropped(event.clipboardData);
  if (files.length) { event.preventDefault(); addFiles(files); }
});
addEventListener("dragover", (event) => {
  if ([...(event.dataTransfer?.types ?? [])].includes("Files")) {
    event.preventDefault();
    document.body.classList.add("dragging");
  }
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  addFiles(dropped(event.dataTransfer));
});

// ---- settings -----------------------------------------------------------------------------------

const FIELDS = ["system", "temperature", "max-tokens", "key"];

function openSettings() {
  for (const name of FIELDS) $(name).value = settings.get(name);
  document.body.classList.remove("menu");
  $("settings").showModal();
}

$("settings-open").addEventListener("click", openSettings);
$("settings").addEventListener("close", () => {
  if ($("settings").returnValue !== "save") return;
  for (const name of FIELDS) settings.set(name, $(name).value.trim());
  meet();
});

// ---- start --------------------------------------------------------------------------------------

async function meet() {
  try {
    const found = await model();
    $("model").textContent = found.id;
    context = found.meta.n_ctx;
    if (!settings.get("think")) $("think").setAttribute("aria-pressed", String(found.meta.thinks));
    drawMeter();
  } catch (error) {
    if (error.status === 401) openSettings();
    else toast("The server cannot be reached.");
  }
}

$("new").addEventListener("click", () => show(newChat()));
$("menu").addEventListener("click", () => document.body.classList.toggle("menu"));
$("shade").addEventListener("click", () => document.body.classList.remove("menu"));

store = await openStore();
chats = (await store.all()).sort((a, b) => b.updated - a.updated);
if (settings.get("think")) $("think").setAttribute("aria-pressed", settings.get("think"));
show(newChat());
await meet();
document.body.classList.add("ready");
