// One chart a metric, one line a run: a run has one colour everywhere.

const COLOURS = ['#1f77b4', '#d62728', '#2ca02c', '#9467bd', '#ff7f0e',
  '#17becf', '#8c564b', '#e377c2', '#7f7f7f', '#bcbd22'];
const SECTIONS = [
  ['Rewards by part', /^reward\//],
  ['Held-out accuracy', /^eval\/[^/]+\/accuracy$/],
  ['Held-out rewards', /^eval\/[^/]+\/(?!accuracy)/],
  ['Gate, trust and difficulty', /^(gate|trust|difficulty|advantage)\//],
  ['Clip, KL and distance', /^(clip|kl|ratio|mismatch)(\/|$)/],
  ['Entropy and lengths', /^(entropy|policy_entropy|length\/.*|selection\/.*)$/],
  ['Time by part', /^(time|tokens)\//],
  ['Loss and optimizer', /^(loss|grad_norm|learning_rate|update\/.*)$/],
  ['Held-out accuracy by kind', /^eval\/[^/]+\/accuracy\/./],
  ['Other metrics', /^/],  // What is in none of those above.
];
const SVG = 'http://www.w3.org/2000/svg';
const WIDE = 320, HIGH = 150, LEFT = 42, BOTTOM = 18, TOP = 6;

const DASHES = ['none', '5 2', '1 2'];

function colour(run) {
  return COLOURS[CELLS.indexOf(run.cell) % COLOURS.length];
}

// Cells past the tenth have the same colours on broken lines.
function dash(run) {
  return DASHES[Math.floor(CELLS.indexOf(run.cell) / COLOURS.length)
    % DASHES.length];
}

function svg(tag, parent, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function swatch(parent, run) {
  const picture = svg('svg', parent, {class: 'swatch', viewBox: '0 0 20 6'});
  svg('line', picture, {x1: 0, x2: 20, y1: 3, y2: 3, stroke: colour(run),
    'stroke-width': 5, 'stroke-dasharray': dash(run)});
}

function legend(parent) {
  const line = element('p', parent, undefined, 'legend');
  const seen = new Set();
  for (const run of DATA.runs) {
    if (seen.has(run.cell)) continue;
    seen.add(run.cell);
    const item = element('span', line);
    swatch(item, run);
    append(item, run.cell);
  }
}

function chart(parent, name) {
  const lines = DATA.runs.filter(run => run.series[name]).map(
    run => ({run, steps: run.series[name][0], values: run.series[name][1]}));
  const steps = lines.flatMap(x => x.steps);
  const values = lines.flatMap(x => x.values);
  const span = list => list.reduce(
    ([low, high], x) => [Math.min(low, x), Math.max(high, x)],
    [Infinity, -Infinity]);
  const [first, last] = span(steps);
  let [low, high] = span(values);
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const x = step => LEFT
    + (WIDE - LEFT - 6) * (last > first ? (step - first) / (last - first) : 0.5);
  const y = value => TOP
    + (HIGH - TOP - BOTTOM) * (1 - (value - low) / (high - low));
  const box = element('div', parent, undefined, 'chart');
  box.dataset.metric = name;
  append(element('h3', box), name);
  const picture = svg('svg', box, {viewBox: `0 0 ${WIDE} ${HIGH}`});
  const sft = Math.max(...DATA.runs.map(run => run.sft));
  if (sft > first)
    svg('rect', picture, {x: x(first), y: TOP, fill: '#eee',
      width: x(Math.min(sft, last)) - x(first), height: HIGH - TOP - BOTTOM});
  svg('text', picture, {x: 0, y: TOP + 8}, number(high));
  svg('text', picture, {x: 0, y: HIGH - BOTTOM}, number(low));
  svg('text', picture, {x: LEFT, y: HIGH - 4}, first);
  svg('text', picture, {x: WIDE, y: HIGH - 4, 'text-anchor': 'end'}, last);
  for (const line of lines) {
    const points = line.steps.map(
      (step, i) => `${x(step).toFixed(1)},${y(line.values[i]).toFixed(1)}`);
    svg('polyline', picture, {points: points.join(' '), fill: 'none',
      stroke: colour(line.run), 'stroke-width': 1.3,
      'stroke-dasharray': dash(line.run)});
    if (points.length < 40)
      line.steps.forEach((step, i) => svg('circle', picture, {cx: x(step),
        cy: y(line.values[i]), r: 2, fill: colour(line.run)}));
  }
  const cursor = svg('line', picture, {y1: TOP, y2: HIGH - BOTTOM, x1: -9,
    x2: -9, stroke: '#888'});
  function under(event) {
    const left = picture.getBoundingClientRect().left;
    const at = event.clientX - left;
    return steps.reduce((best, step) =>
      Math.abs(x(step) - at) < Math.abs(x(best) - at) ? step : best, first);
  }
  picture.addEventListener('mousemove', event => {
    const step = under(event), tip = document.getElementById('tip');
    cursor.setAttribute('x1', x(step));
    cursor.setAttribute('x2', x(step));
    tip.textContent = `step ${step}`;
    for (const line of lines) {
      const i = line.steps.indexOf(step);
      if (i >= 0) append(element('div', tip), `${line.run.name}: ${
        number(line.values[i])}`);
    }
    tip.hidden = false;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - 260) + 'px';
    tip.style.top = event.clientY + 14 + 'px';
  });
  picture.addEventListener('mouseleave', hideTip);
  // The run whose line is nearest to the mouse, at its nearest step.
  picture.addEventListener('click', event => {
    const at = event.clientY - picture.getBoundingClientRect().top;
    const wanted = under(event);
    const nearest = (list, distance) => list.reduce(
      (best, x) => distance(x) < distance(best) ? x : best);
    const away = line => Math.abs(y(line.values[line.steps.indexOf(
      nearest(line.steps, step => Math.abs(step - wanted)))]) - at);
    const answered = lines.filter(line => line.run.steps.length);
    if (!answered.length) return;
    const {run} = nearest(answered, away);
    go({run: DATA.runs.indexOf(run),
      step: nearest(run.steps, step => Math.abs(step - wanted))});
  });
}

function hideTip() {
  document.getElementById('tip').hidden = true;
}

// The last value of the main figures, a row for each run.
function overview(parent) {
  const names = [...new Set(DATA.runs.flatMap(run => Object.keys(run.series)))]
    .filter(name => /^(eval\/[^/]+\/(accuracy|outcome|reasoning)|gate\/mean|trust\/mean|reward\/(outcome|reasoning))$/
      .test(name));
  const table = element('table', parent, undefined, 'overview');
  const head = element('tr', table);
  for (const name of ['last value', ...names]) append(element('th', head), name);
  for (const run of DATA.runs) {
    const row = element('tr', table), cell = element('td', row);
    swatch(cell, run);
    append(cell, run.name);
    for (const name of names)
      element('td', row, number(run.series[name]?.[1].at(-1)), 'n');
  }
}

// What experiments/doctor.py says of each run.
function diagnosis(parent) {
  for (const run of DATA.runs) {
    const box = element('details', parent, undefined, 'diagnosis');
    append(element('summary', box), `${run.name}: ${run.found}`);
    for (const finding of run.findings) {
      element('h3', box, finding.title);
      element('p', box, `${finding.what} ${finding.why}`);
      element('p', box, `What to do: ${finding.remedy} (${finding.link})`);
    }
    box.open = DATA.runs.length === 1 && run.findings.length > 0;
  }
}

function showCurves(main) {
  for (const note of DATA.notes) append(element('p', main, undefined, 'note'), note);
  diagnosis(main);
  legend(main);
  overview(main);
  DATA.runs.forEach((run, index) => {
    if (!run.steps.length) {
      append(element('p', main, undefined, 'note'),
        `${run.name} has neither transcripts nor an archive: no answers.`);
      return;
    }
    const line = element('p', main), choice = element('select', null);
    append(line, `Answers of ${run.name}, step `);
    line.append(choice);
    element('option', choice, 'choose');
    for (const step of run.steps) element('option', choice, step);
    choice.addEventListener('change',
      () => go({run: index, step: Number(choice.value)}));
    const find = element('button', line, 'find where the gate leans on the '
      + 'reasoning');
    find.addEventListener('click', () => {
      const found = leaning(index);
      if (found) go(found);
      else find.replaceWith('In no group of this page is the gate above 1/2.');
    });
  });
  const names = [...new Set(DATA.runs.flatMap(run => Object.keys(run.series)))];
  for (const [title, pattern] of SECTIONS) {
    const here = names.filter(
      name => SECTIONS.find(each => each[1].test(name))[1] === pattern);
    if (!here.length) continue;
    element('h2', main, title);
    const box = element('div', main, undefined, 'charts');
    for (const name of here) chart(box, name);
  }
}
