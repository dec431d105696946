"""Transcripts as trajectories of ATIF v1.7, which other tools read.

The Agent Trajectory Interchange Format of the Harbor project: one JSON object a
trajectory, whose steps are those of the user and of the agent, each of these
with its thought, its calls, and what they gave.
"""

import collections
import importlib.metadata
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from awpo_jax.analysis import records
from awpo_jax.reporting import json_text
from awpo_jax.reporting import metrics as metrics_lib
from awpo_jax.rollout import messages
from awpo_jax.rollout.text import json_schemas, tool_calls

SCHEMA = 'ATIF-v1.7'
MAX_CHARS = tool_calls.MAX_CHARS
# They stand elsewhere.
_SAID = ('user', 'tools', 'response', 'episode')
# What a trajectory came to; all else of a row says which one it is.
_PAID = (
  'outcome',
  'outcome_bounds',
  'parts',
  'reasoning',
  'solved',
  'gate',
  'difficulty',
  'solve_rate',
  'outcome_advantage',
  'mix_advantage',
  'advantage',
)

Json = dict[str, Any]


def export(
  run: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  chosen: Callable[[int], bool] = lambda step: True,
  max_chars: int = MAX_CHARS,
) -> int:
  """Writes every transcript of a run as a file.

  The names hang on step and place alone, on nothing that a model wrote.

  Args:
    run: folder of it.
    output: folder that is new or empty.
    chosen: whether a step is written.
    max_chars: of a text, at most; what is longer is cut and says so. The
      arguments of a call, of at most `MAX_CHARS`, stay whole.

  Returns:
    How many files there are now.

  Raises:
    FileNotFoundError: the run has no transcripts.
    ValueError: `output` holds something, a line is no transcript, or
      `flags.json` is damaged.
  """
  run, output = pathlib.Path(run), pathlib.Path(output)
  path = run / metrics_lib.TRANSCRIPTS_FILE
  if not path.is_file():
    raise FileNotFoundError(
      f'There is no {path}: name the --output_dir of train.py, of a run with '
      '--transcripts above 0.'
    )
  if output.exists() and any(output.iterdir()):
    raise ValueError(f'{output} holds files: name a new folder.')
  output.mkdir(parents=True, exist_ok=True)
  model = records.read_flags(run).get('model') or None
  counted: collections.Counter[int] = collections.Counter()
  for row in metrics_lib.read_metrics(path):
    step = int(row['step'])
    if not chosen(step):
      continue
    name = f'step_{step:06d}_{counted[step]:04d}'
    counted[step] += 1
    made = trajectory(
      row, session=run.name, name=name, model=model, max_chars=max_chars
    )
    text = json_text.dumps(made, indent=2)
    (output / f'{name}.json').write_text(text + '\n', encoding='utf-8')
  return counted.total()


def trajectory(
  row: Mapping[str, Any],
  *,
  session: str,
  name: str,
  model: str | None = None,
  max_chars: int = MAX_CHARS,
) -> Json:
  """A transcript in the format.

  Args:
    row: of `transcripts.jsonl`.
    session: name of the run.
    name: of the trajectory, unique in it.
    model: that was trained.
    max_chars: of a text, at most.

  Raises:
    ValueError: it is no transcript.
  """
  steps: list[Json] = []

  def add(source: str, message: str, **more: Any) -> None:
    steps.append(
      {
        'step_id': len(steps) + 1,
        'source': source,
        'message': message,
        **{key: value for key, value in more.items() if value},
      }
    )

  turns = messages.turns(row, limit=max_chars)
  add('user', messages.cut(str(row.get('user', '')), max_chars))
  for turn in turns:
    add(
      'agent',
      turn.reply,
      reasoning_content=turn.thought,
      tool_calls=[
        {
          'tool_call_id': call_id,
          'function_name': call.name,
          'arguments': call.parameters,
        }
        for call_id, call in turn.calls
      ],
      observation=_observation(turn),
      llm_call_count=1,
    )
    for text in turn.said():
      add('user', text)
  return {
    'schema_version': SCHEMA,
    'session_id': session,
    'trajectory_id': f'{session}/{name}',
    'agent': _agent(row, model),
    'steps': steps,
    'final_metrics': {
      'total_steps': len(steps),
      'extra': {key: row[key] for key in _PAID if key in row},
    },
    'extra': {
      key: messages.cut(value, max_chars) if isinstance(value, str) else value
      for key, value in row.items()
      if key not in (*_SAID, *_PAID)
    },
  }


def _observation(turn: messages.Turn) -> Json | None:
  results = [
    {'content': text} | ({'source_call_id': call} if call else {})
    for call, text in turn.results()
  ]
  return {'results': results} if results else None


def _agent(row: Mapping[str, Any], model: str | None) -> Json:
  tools = [
    {
      'type': 'function',
      'function': {
        'name': tool.name,
        'description': tool.description,
        'parameters': json_schemas.of_parameters(tool.parameters),
      },
    }
    for tool in messages.tools_of(row)
  ]
  agent: Json = {
    'name': 'awpo_jax',
    'version': importlib.metadata.version('awpo_jax'),
    'tool_definitions': tools,
  }
  return agent | ({'model_name': model} if model else {})
