"use strict";

const TEXTS = {
  en: {
    title: "Label a text", text: "Text", key: "API key",
    submit: "Label", hint: "or Ctrl + Enter", labels: "Labels",
    labelsNote: "The line is the threshold; labels at or above it are chosen. "
        + "Select one to see which words contribute to it.",
    labelsNoteByText: "The labels chosen have the highest expected F1 for this "
        + "text. Select one to see which words contribute to it.",
    words: label => "Why “" + label + "”",
    for: "for the label", against: "against it",
    wordsNote: "— how the label’s odds change without the word.",
    curl: "The same request with curl", copy: "Copy", copied: "Copied",
    working: "Working …", explaining: "Weighing the words …",
    done: (count, milliseconds) => count + (count === 1 ? " label" : " labels")
        + " chosen (" + milliseconds + " ms)",
    row: (label, percent, threshold, isChosen) => label + ", " + percent
        + (threshold ? ", threshold " + threshold : "")
        + (isChosen ? ", chosen" : ""),
    more: count => "Show all " + count, needsKey: "This server needs an API key.",
    unreachable: "The server is not responding.",
    most: (good, bad) => (good ? "Strongest for: " + good + ". " : "")
        + (bad ? "Strongest against: " + bad + "." : ""),
    about: (labels, count) => "This model has "
        + (count === 1 ? "one label: " : count + " labels: ") + labels
        + ".",
    comma: ", ", rest: " …", other: "中文", otherLanguage: "zh",
  },
  zh: {
    title: "文本打标签", text: "文本", key: "API 密钥",
    submit: "打标签", hint: "或按 Ctrl + Enter", labels: "标签",
    labelsNote: "竖线是阈值，达到阈值的标签会被选中。选择一个标签，查看哪些词支持它。",
    labelsNoteByText: "选中的标签使这段文本的期望 F1 最大。选择一个标签，查看哪些词支持它。",
    words: label => "为什么是“" + label + "”",
    for: "支持", against: "反对",
    wordsNote: "— 去掉该词后，此标签的几率（odds）如何变化。",
    curl: "等价的 curl 命令", copy: "复制", copied: "已复制",
    working: "处理中……", explaining: "正在计算词的权重……",
    done: (count, milliseconds) =>
        "选中 " + count + " 个标签（" + milliseconds + " 毫秒）",
    row: (label, percent, threshold, isChosen) => label + "，" + percent
        + (threshold ? "，阈值 " + threshold : "")
        + (isChosen ? "，已选中" : ""),
    more: count => "显示全部 " + count + " 个",
    needsKey: "此服务器需要 API 密钥。", unreachable: "服务器没有响应。",
    most: (good, bad) => (good ? "支持最强：" + good + "。" : "")
        + (bad ? "反对最强：" + bad + "。" : ""),
    about: (labels, count) => "共 " + count + " 个标签：" + labels + "。",
    comma: "、", rest: "……", other: "English", otherLanguage: "en",
  },
};

// Labels that are shown before "show all" is pressed.
const FIRST_LABELS = 12;
// Labels that are named above the text.
const NAMED_LABELS = 30;

const element = id => document.getElementById(id);
const state = {
  language: (navigator.language || "en").toLowerCase().startsWith("zh")
      ? "zh" : "en",
  model: null, text: "", answer: null, milliseconds: 0, label: null, words: null,
  showAll: false, request: null, status: null,
};
const say = () => TEXTS[state.language];

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Calls the server: what it answered, or an Error with its sentence.
async function call(path, body) {
  const headers = {"Content-Type": "application/json"};
  if (element("key").value) headers["X-API-Key"] = element("key").value;
  let response, answer;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET", headers,
      body: body && JSON.stringify(body),
      signal: state.request.signal, cache: "no-store",
    });
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(say().unreachable);
  }
  if (response.status === 401) {
    element("key-row").hidden = false;
    element("key").focus();
    throw new Error(say().needsKey);
  }
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Runs one piece of work; what is still running is cut off.
async function run(work) {
  if (state.request) state.request.abort();
  const request = state.request = new AbortController();
  try {
    await work();
  } catch (error) {
    if (request !== state.request) return;
    showStatus(() => error.message, true);
  }
}

// Asks what is served, once; the example stands where nothing was typed.
async function loadModel() {
  if (state.model) return;
  state.model = await call("v1/labels");
  if (!element("text").value) element("text").value = state.model.example;
  showModel();
}

function showModel() {
  const model = state.model;
  element("about").hidden = !model;
  if (!model) return;
  element("title").textContent = model.model;
  document.title = model.model;
  const rest = model.labels.length > NAMED_LABELS ? say().rest : "";
  element("about").textContent = say().about(
      model.labels.slice(0, NAMED_LABELS).join(say().comma) + rest,
      model.labels.length);
}

async function labelText() {
  await loadModel();
  const text = element("text").value;
  showStatus(() => say().working);
  const started = performance.now();
  const answer = await call("v1/label", {text});
  state.text = text;
  state.answer = answer;
  state.milliseconds = Math.round(performance.now() - started);
  state.showAll = false;
  await explain(ranked()[0][0]);
}

async function explain(label) {
  state.label = label;
  state.words = null;
  showAnswer();
  showStatus(() => say().explaining);
  const answer = await call("v1/explain", {text: state.text, label});
  state.words = answer.words;
  showWords();
  showStatus(() => say().done(
      state.answer.results[0].labels.length, state.milliseconds));
}

// [label, probability] from the most probable on.
function ranked() {
  return Object.entries(state.answer.results[0].probabilities)
      .sort((a, b) => b[1] - a[1]);
}

function showStatus(text, isError) {
  state.status = text;
  element("status").textContent = text ? text() : "";
  element("status").classList.toggle("error", Boolean(isError));
}

function showAnswer() {
  const answer = state.answer;
  element("answer").hidden = !answer;
  if (!answer) return;
  const all = ranked();
  const note = element("labels-note");
  // No thresholds where each text's labels are chosen together.
  note.dataset.text = Object.keys(answer.thresholds).length
      ? "labelsNote" : "labelsNoteByText";
  note.textContent = say()[note.dataset.text];
  const chosen = new Set(answer.results[0].labels);
  const focused = document.activeElement && document.activeElement.dataset.label;
  element("labels").replaceChildren(
      ...all.slice(0, state.showAll ? all.length : FIRST_LABELS).map(
          ([label, probability]) => labelRow(
              label, probability, answer.thresholds[label],
              chosen.has(label))));
  for (const row of element("labels").querySelectorAll("button")) {
    if (row.dataset.label === focused) row.focus();
  }
  element("more").hidden = state.showAll || all.length <= FIRST_LABELS;
  element("more").textContent = say().more(all.length);
  element("curl").textContent = curlLine();
  showWords();
}

function labelRow(label, probability, threshold, isChosen) {
  const row = make("button", isChosen ? "label hit" : "label");
  row.type = "button";
  row.dataset.label = label;
  row.setAttribute("aria-pressed", String(label === state.label));
  const track = make("span", "track");
  const fill = make("div", "fill");
  const mark = make("span", "mark");
  fill.style.width = 100 * probability + "%";
  track.append(fill);
  if (threshold !== undefined) {
    mark.style.left = 100 * threshold + "%";
    track.append(mark);
  }
  const percent = share => (100 * share).toFixed(1) + "%";
  row.setAttribute("aria-label", say().row(
      label, percent(probability),
      threshold === undefined ? null : percent(threshold), isChosen));
  row.append(make("span", "name", label), track,
             make("span", "number", percent(probability)));
  row.addEventListener("click", () => run(() => explain(label)));
  const item = make("li");
  item.append(row);
  return item;
}

function showWords() {
  element("words-title").textContent = say().words(state.label);
  // Places are counted in characters, which JavaScript has in halves.
  const characters = Array.from(state.text);
  const part = (start, end) => characters.slice(start, end).join("");
  const words = state.words || [];
  const most = Math.max(...words.map(word => Math.abs(word.weight)), 1e-9);
  const pieces = [];
  let end = 0;
  for (const word of words) {
    pieces.push(document.createTextNode(part(end, word.start)));
    const piece = make("span", word.weight < 0 ? "against" : "for",
                       part(word.start, word.end));
    const strength = 0.75 * Math.abs(word.weight) / most;
    if (strength < 0.04) piece.className = "";
    piece.style.backgroundColor = "rgba(var(--"
        + (word.weight < 0 ? "against" : "for") + "), "
        + strength.toFixed(3) + ")";
    piece.title = (word.weight > 0 ? "+" : "") + word.weight.toFixed(2);
    pieces.push(piece);
    end = word.end;
  }
  pieces.push(document.createTextNode(part(end, characters.length)));
  element("words").replaceChildren(...pieces);
  const best = sign => words.filter(word => sign * word.weight > 0.04 * most)
      .sort((a, b) => sign * (b.weight - a.weight)).slice(0, 3)
      .map(word => part(word.start, word.end)).join(say().comma);
  element("summary").textContent = words.length
      ? say().most(best(1), best(-1)) : "";
}

function curlLine() {
  const quoted = "'" + JSON.stringify({text: state.text})
      .replaceAll("'", "'\\''") + "'";
  const key = element("key").value
      ? " \\\n  -H \"X-API-Key: $API_KEY\"" : "";
  return "curl " + new URL("v1/label", location.href).href + key
      + " \\\n  -d " + quoted;
}

function showLanguage() {
  document.documentElement.lang = state.language;
  for (const target of document.querySelectorAll("[data-text]")) {
    target.textContent = say()[target.dataset.text];
  }
  document.title = say().title;
  showModel();
  element("language").textContent = say().other;
  element("language").lang = say().otherLanguage;
  showAnswer();
  if (state.status) element("status").textContent = state.status();
}

element("form").addEventListener("submit", event => {
  event.preventDefault();
  run(labelText);
});
element("text").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run(labelText);
  }
});
element("language").addEventListener("click", () => {
  state.language = say().otherLanguage;
  showLanguage();
});
element("more").addEventListener("click", () => {
  state.showAll = true;
  showAnswer();
});
element("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(element("curl").textContent);
    element("copy").textContent = say().copied;
  } catch (error) {
    getSelection().selectAllChildren(element("curl"));
  }
});
showLanguage();
run(loadModel);
