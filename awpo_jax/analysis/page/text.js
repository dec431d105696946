'use strict';
// Text of a model becomes text nodes and nothing else.

const PIECE = 20000;
const LARGER = 100000;
const STRANGE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u;
const TAGS = 'think|tool_call|response|obs|user';
const MAX_WORDS = 1500;
const MAX_DEPTH = 100;

function element(tag, parent, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
}

// Direction and control characters are shown instead of obeyed.
function append(parent, text) {
  let plain = '';
  for (const letter of text) {
    if (letter === '\n' || letter === '\t' || !STRANGE.test(letter)) {
      plain += letter;
      continue;
    }
    if (plain) parent.append(plain);
    plain = '';
    const code = letter.codePointAt(0).toString(16).toUpperCase();
    element('span', parent, 'U+' + code.padStart(4, '0'), 'mark');
  }
  if (plain) parent.append(plain);
}

// A long text is there at first in part, then in pieces.
function showText(parent, text, className) {
  const pre = element('pre', parent, undefined, className);
  let shown = 0;
  const more = element('button', null);
  function next(size) {
    let end = Math.min(shown + size, text.length);
    const unit = text.charCodeAt(end - 1);
    if (end < text.length && unit >= 0xd800 && unit < 0xdc00) end += 1;
    append(pre, text.slice(shown, end));
    shown = end;
    const left = text.length - shown;
    more.hidden = !left;
    more.textContent =
      'show ' + Math.min(left, LARGER) + ' more of ' + left + ' characters';
  }
  next(PIECE);
  if (shown < text.length) {
    more.addEventListener('click', () => next(LARGER));
    parent.append(more);
  }
  return pre;
}

// JSON with line breaks; numbers and keys stay as they were written. Null where
// it is none, or so deep that its indentation would be far longer than it is.
function pretty(json) {
  try {
    JSON.parse(json);
  } catch {
    return null;
  }
  let made = '', depth = 0;
  const parts = json.match(/"(?:\\.|[^"\\])*"|[{}[\],:]|[^\s{}[\],:"]+/g) || [];
  for (const [index, part] of parts.entries()) {
    const empty = (a, b) => '{['.includes(a || ' ') && '}]'.includes(b || ' ');
    if ('{['.includes(part)) {
      depth += 1;
      if (depth > MAX_DEPTH) return null;
      made += part;
      if (!empty(part, parts[index + 1])) made += '\n' + '  '.repeat(depth);
    } else if ('}]'.includes(part)) {
      depth -= 1;
      if (!empty(parts[index - 1], part)) made += '\n' + '  '.repeat(depth);
      made += part;
    } else if (part === ',') made += ',\n' + '  '.repeat(depth);
    else made += part === ':' ? ': ' : part;
  }
  return made;
}

function prettyLines(text) {
  const lines = text.trim().split('\n').filter(line => line.trim());
  if (text.length > PIECE) return text;
  return lines.map(line => pretty(line) ?? line).join('\n');
}

// [name, text] of the sections of an answer, in order; what is in none too.
function sections(text) {
  const found = [];
  const pattern = new RegExp('<(' + TAGS + ')>', 'g');
  let at = 0;
  const rest = (from, to) => {
    const between = text.slice(from, to).trim();
    if (between) found.push(['', between]);
  };
  for (let open; (open = pattern.exec(text)) && found.length < 200; ) {
    const close = text.indexOf('</' + open[1] + '>', pattern.lastIndex);
    rest(at, open.index);
    const end = close < 0 ? text.length : close;
    const name = open[1] + (close < 0 ? ', not closed' : '');
    found.push([name, text.slice(pattern.lastIndex, end)]);
    at = close < 0 ? text.length : close + open[1].length + 3;
    pattern.lastIndex = at;
  }
  rest(at, text.length);
  return found;
}

const TITLES = {think: 'thought', tool_call: 'calls', response: 'reply',
  obs: 'observation', user: 'user'};

// `own`: all of it is the model's, which may have made up what it observed.
function showAnswer(parent, text, own) {
  for (const [name, inside] of sections(text)) {
    const tag = name.split(',')[0];
    const madeUp = own && (tag === 'obs' || tag === 'user');
    element('h3', parent, (name.replace(tag, TITLES[tag] || tag) || 'text')
      + (madeUp ? ', written by the model' : ''));
    const shown = tag === 'tool_call' ? prettyLines(inside) : inside.trim();
    showText(parent, shown, tag === 'think' ? 'thought' : madeUp ? '' : tag);
  }
  if (!text.trim()) element('p', parent, '(empty)');
}

function words(text) {
  return (text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || []);
}

// What a text became: the longest common sequence of words stays.
function showDifference(parent, before, after) {
  const a = words(before.slice(0, PIECE)), b = words(after.slice(0, PIECE));
  if (a.length > MAX_WORDS || b.length > MAX_WORDS
      || before.length > PIECE || after.length > PIECE) {
    element('p', parent, 'Compared in their first ' + MAX_WORDS + ' words.',
      'note');
    a.length = Math.min(a.length, MAX_WORDS);
    b.length = Math.min(b.length, MAX_WORDS);
  }
  const size = b.length + 1;
  const best = new Uint16Array((a.length + 1) * size);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i * size + j] = a[i] === b[j] ? best[(i + 1) * size + j + 1] + 1
        : Math.max(best[(i + 1) * size + j], best[i * size + j + 1]);
  const pre = element('pre', parent);
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      append(pre, a[i++]);
      j++;
    } else if (j >= b.length
        || (i < a.length && best[(i + 1) * size + j] >= best[i * size + j + 1]))
      append(element('del', pre), a[i++]);
    else append(element('ins', pre), b[j++]);
  }
}

function number(value) {
  if (value === null || value === undefined) return '-';
  if (typeof value !== 'number') return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 0.001 && Math.abs(value) < 1e5
    ? value.toFixed(3) : value.toPrecision(3);
}
