// Markdown as elements. Text only ever becomes text nodes, so nothing that a model writes can run:
// no HTML is parsed, links lead to http, https and mailto alone, and pictures stay links.

const INLINE = new RegExp(
  [
    "(?<code>`+)(?<inCode>.+?)\\k<code>(?!`)",
    "\\*\\*(?<strong>\\S(?:.*?\\S)?)\\*\\*(?!\\*)",
    "__(?<strong2>\\S(?:.*?\\S)?)__(?!\\w)",
    "~~(?<del>\\S(?:.*?\\S)?)~~",
    "\\*(?<em>[^\\s*](?:[^*]*[^\\s*])?)\\*",
    "(?<![\\w_])_(?<em2>[^\\s_](?:[^_]*[^\\s_])?)_(?!\\w)",
    "!?\\[(?<label>[^\\]]*)\\]\\((?<url>[^()\\s]+(?:\\([^()\\s]*\\)[^()\\s]*)*)(?:\\s+\"[^\"]*\")?\\)",
    "(?<bare>https?://[^\\s<>()\\[\\]]*[^\\s<>()\\[\\].,;:!?'\"*_`])",
    "\\\\(?<escaped>[\\\\`*_{}\\[\\]()#+\\-.!~|>])",
  ].join("|"),
  "s",
);

const el = (tag, ...children) => {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
};

function link(url, label) {
  if (!/^(https?:|mailto:)/i.test(url)) return [document.createTextNode(label)];
  const node = el("a", label);
  node.href = url;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return [node];
}

function inline(text) {
  const nodes = [];
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    const g = found.groups;
    if (found.index) nodes.push(rest.slice(0, found.index));
    rest = rest.slice(found.index + found[0].length);
    const strong = g.strong ?? g.strong2;
    const em = g.em ?? g.em2;
    if (g.inCode !== undefined) nodes.push(el("code", g.inCode.trim() || g.inCode));
    else if (strong !== undefined) nodes.push(el("strong", ...inline(strong)));
    else if (g.del !== undefined) nodes.push(el("del", ...inline(g.del)));
    else if (em !== undefined) nodes.push(el("em", ...inline(em)));
    else if (g.url !== undefined) nodes.push(...link(g.url, g.label || g.url));
    else if (g.bare !== undefined) nodes.push(...link(g.bare, g.bare));
    else nodes.push(g.escaped);
  }
  return rest ? [...nodes, rest] : nodes;
}

function lines(text) {
  return text.split("\n").flatMap((line, i) => [...(i ? [el("br")] : []), ...inline(line.trim())]);
}

function code(source, language) {
  const copy = el("button", "Copy");
  copy.type = "button";
  copy.className = "copy";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(source);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  const figure = el("figure", el("figcaption", el("span", language || "text"), copy),
    el("pre", el("code", source)));
  figure.className = "code";
  return figure;
}

const cells = (row) => row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((c) => c.trim());

function table(rows) {
  const align = cells(rows[1]).map((c) => (/^:-+:$/.test(c) ? "center" : /-:$/.test(c) ? "right" : ""));
  const line = (row, tag) => el("tr", ...cells(row).map((cell, i) => {
    const node = el(tag, ...inline(cell));
    if (align[i]) node.style.textAlign = align[i];
    return node;
  }));
  const body = el("tbody", ...rows.slice(2).map((row) => line(row, "td")));
  const wrapped = el("div", el("table", el("thead", line(rows[0], "th")), body));
  wrapped.className = "table";
  return wrapped;
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

function list(rows) {
  const [, indent, mark] = ITEM.exec(rows[0]);
  const ordered = /\d/.test(mark);
  const node = el(ordered ? "ol" : "ul");
  if (ordered && parseInt(mark, 10) !== 1) node.start = parseInt(mark, 10);
  let item = null;
  const flush = () => { if (item) node.append(el("li", ...blocksOf(item, true))); };
  for (const row of rows) {
    const found = ITEM.exec(row);
    if (found && found[1].length <= indent.length + 1) {
      flush();
      item = [found[3]];
    } else item.push(row.slice(Math.min(indent.length + 2, row.length - row.trimStart().length)));
  }
  flush();
  return node;
}

const FENCE = /^\s{0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

// The blocks of a text: [source, function that makes the element].
function* blocks(rows) {
  let i = 0;
  const upTo = (end, make) => {
    const part = rows.slice(i, end);
    i = end;
    return [part.join("\n"), () => make(part)];
  };
  const find = (from, ends) => {
    let end = from;
    while (end < rows.length && !ends(rows[end], end)) end += 1;
    return end;
  };
  while (i < rows.length) {
    const row = rows[i];
    const fence = FENCE.exec(row);
    if (!row.trim()) i += 1;
    else if (fence) {
      const closing = (r) => r.trim().startsWith(fence[1]) && !r.trim().replaceAll(fence[1][0], "");
      const end = find(i + 1, closing);
      yield upTo(Math.min(end + 1, rows.length), (part) =>
        code(part.slice(1, end < rows.length ? -1 : undefined).join("\n"), fence[2]));
    } else if (HEADING.test(row)) {
      yield upTo(i + 1, () => {
        const [, marks, text] = HEADING.exec(row);
        return el(`h${Math.min(marks.length + 1, 6)}`, ...inline(text));
      });
    } else if (RULE.test(row)) yield upTo(i + 1, () => el("hr"));
    else if (/^\s{0,3}>/.test(row)) {
      yield upTo(find(i, (r) => !/^\s{0,3}>/.test(r)), (part) =>
        el("blockquote", ...blocksOf(part.map((r) => r.replace(/^\s{0,3}>\s?/, "")), false)));
    } else if (ITEM.test(row)) {
      const end = find(i, (r, k) =>
        !ITEM.test(r) && !/^\s+\S/.test(r) && (r.trim() || !/^(\s+\S|\s*([-*+]|\d+[.)])\s)/.test(rows[k + 1] ?? "")));
      yield upTo(end, list);
    } else if (row.includes("|") && DIVIDER.test(rows[i + 1] ?? "") && rows[i + 1].includes("-")) {
      yield upTo(find(i, (r) => !r.includes("|")), table);
    } else {
      const end = find(i + 1, (r) =>
        !r.trim() || FENCE.test(r) || HEADING.test(r) || RULE.test(r) || ITEM.test(r) || /^\s{0,3}>/.test(r));
      yield upTo(end, (part) => el("p", ...lines(part.join("\n"))));
    }
  }
}

function blocksOf(rows, tight) {
  const nodes = [...blocks(rows)].map(([, make]) => make());
  // A list item of one line needs no paragraph.
  return nodes.map((node) => (tight && node.tagName === "P" && nodes[0] === node
    ? el("span", ...node.childNodes) : node));
}

// Shows a text in an element. Blocks that did not change keep their elements, so that a stream
// costs little and a selection survives.
export function renderInto(target, text) {
  let child = target.firstElementChild;
  for (const [source, make] of blocks(text.split("\n"))) {
    if (child?.markdown !== source) {
      const node = make();
      node.markdown = source;
      if (child) child.replaceWith(node); else target.append(node);
      child = node;
    }
    child = child.nextElementSibling;
  }
  while (child) {
    const next = child.nextElementSibling;
    child.remove();
    child = next;
  }
}
