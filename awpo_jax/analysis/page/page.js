// Where the page is stands in its address: #step=40&prompt=3.

const DATA = JSON.parse(document.getElementById('index').textContent);
const CELLS = [...new Set(DATA.runs.map(x => x.cell))];
const FILTERS = {
  'all groups': () => true,
  'all wrong': g => known(g).length && known(g).every(s => !s.solved),
  'all right': g => known(g).length && known(g).every(s => s.solved),
  'judge and outcome disagree': g => disagrees(g),
  'some cut off': g => g.samples.some(s => s.finished === false),
  'some invalid': g => g.samples.some(s => !isValid(g, s)),
  'gate leans on the reasoning': g => leans(g),
};
const TONES = ['advantage', 'entropy', 'log_ratio', 'clipped', 'trained'];
const blocks = new Map();
const view = {filter: 'all groups', kind: '', text: '', sort: '', down: true};

const known = g => g.samples.filter(s => typeof s.solved === 'boolean');
const isNumber = x => typeof x === 'number';
const leans = g => g.gate > 0.5;

// Held-out answers need no score, nor does an algorithm that reads none.
function isValid(group, sample) {
  return isNumber(sample.outcome) && (group.set !== undefined
    || !DATA.runs[place().run].judged || isNumber(sample.reasoning));
}

// Some pair that both rewards order, but oppositely.
function disagrees(group) {
  const had = group.samples.filter(
    s => isNumber(s.outcome) && isNumber(s.reasoning));
  return had.some(a => had.some(
    b => (a.outcome - b.outcome) * (a.reasoning - b.reasoning) < 0));
}

function stats(group, name) {
  const values = group.samples.map(s => s[name]).filter(isNumber);
  if (!values.length) return [null, null];
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const square = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  return [mean,
    values.length > 1 ? Math.sqrt(square / (values.length - 1)) : null];
}

function groupsOf(run, step) {
  const id = `r${run}s${step}`;
  if (!blocks.has(id)) {
    const block = document.getElementById(id);
    blocks.set(id, block ? JSON.parse(block.textContent) : []);
    if (blocks.size > 6) blocks.delete(blocks.keys().next().value);
  }
  return blocks.get(id);
}

// Of the groups in which the gate leans on the reasoning, the one in which that
// changed an advantage most.
function leaning(run) {
  let found = null, most = -1;
  for (const step of DATA.runs[run].steps)
    groupsOf(run, step).forEach((group, prompt) => {
      const changes = group.samples.map(
        s => Math.abs(s.mix_advantage - s.outcome_advantage)).filter(isFinite);
      const change = Math.max(0, ...changes);
      if (leans(group) && change > most)
        [found, most] = [{run, step, prompt}, change];
    });
  return found;
}

function go(place) {
  hideTip();
  const parts = Object.entries(place).filter(
    ([name, value]) => !(name === 'run' && !value));
  location.hash = parts.map(([name, value]) => `${name}=${value}`).join('&');
}

function place() {
  const found = new URLSearchParams(location.hash.slice(1));
  const whole = name => /^\d+$/.test(found.get(name) ?? '')
    ? Number(found.get(name)) : null;
  const tone = TONES.includes(found.get('tokens')) ? found.get('tokens') : null;
  return {run: whole('run') ?? 0, step: whole('step'), prompt: whole('prompt'),
    tokens: tone};
}

// How many letters all prompts of a template end with, such as its last line.
function ending(groups) {
  const texts = groups.filter(g => g.user === undefined && g.rendered)
    .map(g => g.rendered);
  const [first, ...others] = texts;
  let size = 0;
  const letter = text => text[text.length - 1 - size];
  while (others.length && size < first.length
      && others.every(text => letter(text) === letter(first)))
    size += 1;
  return size;
}

function preview(group, ended) {
  if (group.user !== undefined) return lastLine(group.user);
  const text = group.rendered ?? '';
  return lastLine(text.slice(0, text.length - ended)) || lastLine(text);
}

function summary(group, ended) {
  const [outcome, outcomeStd] = stats(group, 'outcome');
  const [reasoning, reasoningStd] = stats(group, 'reasoning');
  const had = known(group);
  return {
    set: group.set ?? 'rollout', task: group.task_id, kind: group.kind ?? '-',
    outcome, 's(outcome)': outcomeStd, reasoning, 's(reasoning)': reasoningStd,
    gate: group.gate, weight: group.difficulty,
    solved: had.length ? had.filter(s => s.solved).length / had.length : null,
    prompt: preview(group, ended),
  };
}

function lastLine(text) {
  const line = text.trim().split('\n').at(-1) ?? '';
  return line.length > 160 ? line.slice(0, 160) + '...' : line;
}

function holds(group, text) {
  const inside = x => typeof x === 'string' && x.toLowerCase().includes(text);
  return inside(group.user) || inside(group.task_id) || inside(group.rendered)
    || group.samples.some(s => inside(s.response));
}

function showStep(main, here) {
  const run = DATA.runs[here.run];
  const groups = groupsOf(here.run, here.step);
  const bar = element('p', main);
  walk(bar, run.steps, here.step, step => go({run: here.run, step}), 'step');
  const choose = (names, key) => {
    const made = element('select', bar);
    made.name = key;
    for (const name of names) element('option', made, name || 'all kinds').value = name;
    made.value = view[key];
    made.addEventListener('change', () => { view[key] = made.value; fill(); });
  };
  choose(Object.keys(FILTERS), 'filter');
  const kinds = [...new Set(groups.map(g => g.kind).filter(Boolean))];
  if (!kinds.includes(view.kind)) view.kind = '';
  choose(['', ...kinds], 'kind');
  const search = element('input', bar);
  search.placeholder = 'search the texts';
  search.value = view.text;
  search.addEventListener('input', () => { view.text = search.value; fill(); });
  const count = element('output', bar);
  const table = element('table', main, undefined, 'groups');
  const ended = ending(groups);
  function fill() {
    table.textContent = '';
    const rows = groups.map((group, index) => ({group, index,
      cells: summary(group, ended)}));
    const text = view.text.toLowerCase();
    const shown = rows.filter(({group}) => FILTERS[view.filter](group)
      && (!view.kind || group.kind === view.kind)
      && (!text || holds(group, text)));
    count.textContent = `${shown.length} of ${groups.length} groups`;
    if (view.sort) shown.sort((a, b) => compare(a.cells[view.sort],
      b.cells[view.sort]) * (view.down ? -1 : 1));
    const head = element('tr', table);
    for (const name of Object.keys(rows[0]?.cells ?? {}))
      element('th', head, name + (view.sort === name ? (view.down ? ' ▾' : ' ▴')
        : '')).addEventListener('click', () => {
          view.down = view.sort === name ? !view.down : true;
          view.sort = name;
          fill();
        });
    for (const {index, cells} of shown) {
      const row = element('tr', table, undefined, 'row');
      row.dataset.prompt = index;
      for (const value of Object.values(cells)) {
        const text = typeof value === 'string';
        const cell = element('td', row, undefined, text ? '' : 'n');
        append(cell, number(value));
      }
      row.addEventListener('click',
        () => go({run: here.run, step: here.step, prompt: index}));
    }
  }
  fill();
}

function compare(a, b) {
  if (typeof a === 'string' && typeof b === 'string')
    return a < b ? -1 : Number(a > b);
  return (a ?? -Infinity) - (b ?? -Infinity) || 0;
}

function walk(bar, list, now, to, what) {
  const at = list.indexOf(now);
  for (const [label, next] of [['◂', list[at - 1]], ['▸', list[at + 1]]]) {
    const button = element('button', bar, label);
    button.disabled = next === undefined;
    button.title = `to the ${what} ${next ?? ''}`;
    button.addEventListener('click', () => to(next));
  }
  bar.append(` ${what} ${now} `);
}

function showGroup(main, here) {
  const groups = groupsOf(here.run, here.step), group = groups[here.prompt];
  const bar = element('p', main);
  walk(bar, groups.map((_, i) => i), here.prompt,
    prompt => go({run: here.run, step: here.step, prompt}), 'prompt');
  append(bar, ` ${group.task_id} (${group.set ?? 'rollout'}, ${group.kind ?? '-'})`);
  const line = ['gate', 'difficulty', 'solve_rate'].filter(x => isNumber(group[x]))
    .map(x => `${x} ${number(group[x])}`).join(', ');
  if (line) element('p', main, line, 'group-numbers');
  else if (group.set === undefined)
    element('p', main, 'Of this group no advantage is recorded: it was not '
      + 'trained on, or the run is older than this record.', 'note');
  if (group.tools?.length) {
    const fold = element('details', main);
    element('summary', fold, `${group.tools.length} tools`);
    showText(fold, group.tools.map(x => JSON.stringify(x, null, 2)).join('\n'));
  }
  showText(main, group.user ?? group.rendered ?? '', 'user');
  if (group.ground_truth) {
    const fold = element('details', main);
    element('summary', fold, 'reference answer');
    showAnswer(fold, group.ground_truth);
  }
  compareChoice(main, here, group);
  toneChoice(main, here, group);
  const box = element('div', main, undefined, 'samples');
  group.samples.forEach((sample, index) =>
    showSample(element('div', box, undefined, 'sample'), group, sample, index,
      here.tokens));
}

function showSample(box, group, sample, index, tone) {
  const state = [sample.solved === true ? 'solved' : sample.solved === false
    ? 'not solved' : 'not known'];
  if (sample.finished === false) state.push('cut off');
  if (!isValid(group, sample)) state.push('invalid');
  element('h2', box, `sample ${index}: ${state.join(', ')}`);
  const table = element('table', box, undefined, 'numbers');
  const add = (name, value) => {
    const row = element('tr', table);
    append(element('td', row), name);
    const cell = element('td', row);
    cell.dataset.name = name;
    if (value.length > PIECE) showText(cell, value);
    else append(cell, value);
  };
  const bounds = group.outcome_bounds;
  const parts = Object.entries(sample.parts ?? {}).map(
    ([name, value]) => `${name} ${number(value)}`);
  add('outcome', number(sample.outcome)
    + (bounds ? ` in [${bounds.map(number).join(', ')}]` : ''));
  if (parts.length) add('parts', parts.join(', '));
  add('reasoning', number(sample.reasoning));
  if (sample.said) add('judge', sample.said);
  for (const [name, key] of [['A_out', 'outcome_advantage'],
    ['A_mix', 'mix_advantage'], ['advantage', 'advantage']])
    if (isNumber(sample[key])) add(name, number(sample[key]));
  if (tone && sample.tokens) showTokens(box, group, sample.tokens, tone);
  else if (sample.turns) sample.turns.forEach((turn, i) => {
    element('h3', box, `turn ${i + 1}`);
    showAnswer(box, turn.text ?? '', true);
    for (const [role, text] of turn.observations ?? []) {
      append(element('h3', box), TITLES[role] ?? role);
      showText(box, String(text), 'obs');
    }
  });
  else {
    // Of an episode that the archive alone has, some of it was observed.
    const own = sample.tokens?.policy.every(x => x) ?? true;
    showAnswer(box, sample.response ?? '', own);
  }
}

function toneChoice(main, here, group) {
  const bar = element('p', main);
  if (!group.samples.some(s => s.tokens)) {
    element('span', bar, group.set !== undefined
      ? 'No tokens: held-out answers are not in the archive.'
      : 'No tokens: the run kept no archive of this group (train.py --archive).',
    'note');
    return;
  }
  append(bar, 'tokens: ');
  const made = element('select', bar);
  made.name = 'tokens';
  for (const tone of ['text', ...TONES]) element('option', made, tone);
  made.value = here.tokens ?? 'text';
  made.addEventListener('change', () => {
    const {tokens, ...rest} = here;
    go(made.value === 'text' ? rest : {...rest, tokens: made.value});
  });
  if (here.tokens === 'clipped' || here.tokens === 'log_ratio')
    append(bar, 'between sampler and trainer before the first update; what later '
      + 'updates clipped is not kept');
}

function showTokens(box, group, tokens, tone) {
  const values = tokens[tone];
  if (!values) {
    element('p', box, `The archive has no ${tone}: with --old_logprobs=sampler `
      + 'the trainer computes none of its own.', 'note');
    return;
  }
  // One scale for the group: its samples can be compared.
  const largest = group.samples.flatMap(s => s.tokens?.[tone] ?? [])
    .reduce((a, b) => Math.max(a, Math.abs(b ?? 0)), 1e-9);
  if (tone === 'advantage' || tone === 'entropy' || tone === 'log_ratio')
    element('p', box, `blue above 0, red below, up to ${number(largest)} in size; grey: masked`);
  const pre = element('pre', box, undefined, 'tokens');
  tokens.pieces.forEach((piece, i) => {
    const made = element('span', pre, undefined, 'token');
    append(made, piece);
    const about = ['advantage', 'entropy', 'log_ratio', 'clipped'].filter(
      x => tokens[x]).map(x => `${x} ${number(tokens[x][i])}`);
    made.title = about.join(', ') + (tokens.trained[i] ? '' : ', not trained on');
    if (!tokens.policy[i]) made.classList.add('masked');
    else {
      if (!tokens.trained[i]) made.classList.add('untrained', 'masked');
      if (tone === 'clipped' && values[i]) made.classList.add('clipped');
      if (!['clipped', 'trained'].includes(tone) && tokens.trained[i]) {
        const share = (values[i] ?? 0) / largest;
        made.style.backgroundColor = share < 0
          ? `rgba(214, 39, 40, ${-0.7 * share})`
          : `rgba(31, 119, 180, ${0.7 * share})`;
      }
    }
  });
}

// The same task at an earlier step, or in another run.
function compareChoice(main, here, group) {
  const bar = element('p', main);
  append(bar, 'compare with ');
  const made = element('select', bar), target = element('div', main);
  made.name = 'compare';
  element('option', made, 'nothing').value = '';
  DATA.runs.forEach((run, r) => run.steps.forEach(step => {
    if (r !== here.run || step !== here.step)
      element('option', made, `${run.name}, step ${step}`).value = `${r} ${step}`;
  }));
  made.addEventListener('change', () => {
    target.textContent = '';
    if (!made.value) return;
    const [r, step] = made.value.split(' ').map(Number);
    const other = groupsOf(r, step).find(
      x => x.task_id === group.task_id && x.set === group.set);
    if (!other) {
      element('p', target, 'The prompt is not among the answers there.', 'note');
      return;
    }
    const box = element('div', target, undefined, 'samples difference');
    group.samples.forEach((sample, i) => {
      if (!other.samples[i]) return;
      const column = element('div', box, undefined, 'sample');
      element('h3', column, `sample ${i}: outcome ${
        number(other.samples[i].outcome)} there, ${number(sample.outcome)} here`);
      showDifference(column, other.samples[i].response ?? '',
        sample.response ?? '');
    });
  });
}

function show() {
  const here = place(), main = document.getElementById('main');
  const run = DATA.runs[here.run];
  main.textContent = '';
  hideTip();
  const where = document.getElementById('where');
  where.textContent = '';
  if (here.step === null || !run) return showCurves(main);
  append(where, `▸ ${run.name} ▸ `);
  const back = element('a', where, `step ${here.step}`);
  back.href = `#run=${here.run}&step=${here.step}`;
  const groups = groupsOf(here.run, here.step);
  if (!groups.length)
    element('p', main, 'The answers of this step are not in this page.', 'note');
  else if (here.prompt === null || !groups[here.prompt]) showStep(main, here);
  else showGroup(main, here);
}

window.addEventListener('hashchange', show);
show();
