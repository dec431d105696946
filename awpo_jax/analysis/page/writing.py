"""The page of runs: one HTML file, which loads nothing and runs one script.

What a model wrote is in it as JSON in which no `<` stands, and is shown as text
alone. The answers of a step are a block of their own, which is read when the
step is opened.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from awpo_jax.analysis import doctor, records
from awpo_jax.analysis.page import reading
from awpo_jax.reporting import files, json_text

# Texts are cut to the first of these with which a step fits.
_TEXT_LIMITS = (4_000_000, 100_000, 10_000, 1_000)
_MEGABYTE = 1_000_000
_SCRIPTS = ('text.js', 'curves.js', 'page.js')
_MAX_POINTS = 1000


def write_page(
  runs: Sequence[reading.Run],
  path: str | os.PathLike[str],
  *,
  max_steps: int = 0,
  max_megabytes: float = 20.0,
) -> list[str]:
  """Writes the page of some runs.

  Args:
    runs: at least one; the first is shown first.
    path: of the HTML file; its folder is made if missing.
    max_steps: steps of each run whose answers are in it, spread evenly; 0: as
      many as there is room for.
    max_megabytes: size of the file at most, above 0.

  Returns:
    What was left out, in sentences; they stand on the page, too.

  Raises:
    ValueError: the curves alone are larger than the page may be.
  """
  curves = [_curves(run) for run in runs]
  room = int(max_megabytes * _MEGABYTE) - len(_document({'runs': curves}, []))
  if room < 0:
    raise ValueError(
      f'--max_megabytes={max_megabytes:g} has no room for the curves of '
      f'{len(runs)} runs: raise it, or name fewer runs.'
    )
  blocks, notes = [], []
  for number, run in enumerate(runs):
    kept, note = _steps(run, number, room // len(runs), max_steps)
    blocks += [block for _, block in kept]
    curves[number]['steps'] = [step for step, _ in kept]
    notes += note
  text = _document({'runs': curves, 'notes': notes}, blocks)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_whole(path, text)
  return notes


def _curves(run: reading.Run) -> dict[str, Any]:
  """Every metric that is a number as [steps, values], and what they tell."""
  lines = run.record.rows
  every = -(-len(lines) // _MAX_POINTS)
  series: dict[str, tuple[list[int], list[float]]] = {}
  for index, row in enumerate(lines):
    for name, value in row.items():
      # An evaluation is rare: all of it stays, and so does the end of a run.
      kept = index % every == 0 or index == len(lines) - 1
      kept = kept or name.startswith('eval/')
      if kept and records.is_number(value) and name != 'step':
        steps, values = series.setdefault(name, ([], []))
        steps.append(row['step'])
        values.append(float(f'{value:.5g}'))
  sft = [row['step'] for row in lines if row.get('phase') == 'sft']
  diagnosis = doctor.diagnose(run.record)
  return {
    'name': run.name,
    'cell': run.cell,
    'found': diagnosis.heading(),
    'findings': [x.to_json() for x in diagnosis.findings],
    'series': series,
    'sft': max(sft, default=0),
    'judged': run.judged,
    'steps': run.steps,
  }


def _steps(
  run: reading.Run, number: int, room: int, most: int
) -> tuple[list[tuple[int, bytes]], list[str]]:
  """As many steps of a run as there is room for, spread evenly."""
  every = run.steps
  chosen = _spread(every, most or len(every))
  if not chosen:
    return [], []
  for limit in _TEXT_LIMITS:
    last = _block(run, number, chosen[-1], limit)
    if len(last) <= room or limit == _TEXT_LIMITS[-1]:
      break
  kept = _fill(run, number, chosen, room, limit)
  notes = []
  if len(kept) < len(every):
    notes.append(
      f'{run.name}: the answers of {len(kept)} of {len(every)} steps are in '
      'this page (--max_steps, --max_megabytes); the curves are of all.'
    )
  if limit < _TEXT_LIMITS[0]:
    notes.append(f'{run.name}: texts are cut to {limit:,} characters.')
  return kept, notes


def _fill(
  run: reading.Run, number: int, chosen: Sequence[int], room: int, limit: int
) -> list[tuple[int, bytes]]:
  """Steps from coarse to fine until the next one does not fit."""
  kept: dict[int, bytes] = {}
  used = 0
  for step in _coarse_to_fine(chosen):
    block = _block(run, number, step, limit)
    if used + len(block) > room:
      break
    kept[step] = block
    used += len(block)
  return sorted(kept.items())


def _coarse_to_fine(steps: Sequence[int]) -> Iterator[int]:
  """The last, the first, the middle, the middles of the halves, ..."""
  seen: set[int] = set()
  parts = 1
  while len(seen) < len(steps):
    for part in range(parts, -1, -1):
      step = steps[round(part * (len(steps) - 1) / parts)]
      if step not in seen:
        seen.add(step)
        yield step
    parts *= 2


def _spread(steps: Sequence[int], count: int) -> list[int]:
  """`count` of the values, evenly spread, always with the last one."""
  count = min(count, len(steps))
  if count == 1:
    return [steps[-1]]
  return [
    steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)
  ]


def _block(run: reading.Run, number: int, step: int, limit: int) -> bytes:
  data = _cut(run.groups(step), limit)
  return (
    f'<script type="application/json" id="r{number}s{step}">'.encode()
    + _json(data)
    + b'</script>\n'
  )


def _cut(value: Any, limit: int) -> Any:
  """The same with all texts cut."""
  if isinstance(value, str):
    if len(value) <= limit:
      return value
    return f'{value[:limit]}\n[{len(value) - limit} more characters]'
  if isinstance(value, dict):
    return {key: _cut(x, limit) for key, x in value.items()}
  return [_cut(x, limit) for x in value] if isinstance(value, list) else value


def _json(value: Any) -> bytes:
  """JSON that no HTML parser can take for anything else."""
  text = json.dumps(
    json_text.plain(value), ensure_ascii=False, separators=(',', ':')
  )
  for letter in '<>&':
    text = text.replace(letter, f'\\u{ord(letter):04x}')
  return json_text.escaped(text).encode()


def _document(data: dict[str, Any], blocks: Sequence[bytes]) -> bytes:
  own = importlib.resources.files(__package__)
  style = (own / 'page.css').read_text(encoding='utf-8')
  script = '\n'.join(
    (own / name).read_text(encoding='utf-8') for name in _SCRIPTS
  )
  policy = (
    f"default-src 'none'; script-src '{_digest(script)}'; "
    f"style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
  )
  title = ', '.join(run['name'] for run in data['runs'])[:200]
  page = (own / 'page.html').read_text(encoding='utf-8')
  head, foot = page.split('{{blocks}}')
  index = b'<script type="application/json" id="index">' + _json(data)
  head = head.replace('{{policy}}', policy).replace('{{style}}', style)
  head = head.replace('{{title}}', html.escape(title))
  return b''.join(
    [
      head.encode('utf-8', 'replace'),
      index + b'</script>\n',
      *blocks,
      foot.replace('{{script}}', script).encode(),
    ]
  )


def _digest(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'
