"""`experiments/judge.py`: figures of the rubric and of a judge model."""

import json

import pytest

from awpo_jax.evaluation import judge_agreement
from awpo_jax.rollout.rewards.judges import rubric
from tests.helpers import judge_server, whole_runs

PROGRAM = 'experiments/judge.py'
TOOLS = [
  {
    'name': 'get_weather',
    'description': 'Weather of a city.',
    'parameters': {'city': {'type': 'string', 'description': 'Its name.'}},
  }
]
CALL = (
  '<tool_call>\n{"name": "get_weather", "parameters": {"city": "Oslo"}}\n'
  '</tool_call>'
)
# From good to bad, and labelled so.
THOUGHTS = [
  'The user asks for the weather in Oslo, so I call get_weather with Oslo.',
  'I should use get_weather for the city.',
  'Perfect reasoning, the best that a judge has seen.',
  'the the the of of',
]
LABELS = [5, 4, 2, 1]


@pytest.fixture
def transcripts(tmp_path):
  rows = [
    {
      'user': '<user> What is the weather in Oslo? </user>',
      'tools': TOOLS,
      'response': f'<think> {thought} </think>\n{CALL}',
      'label': label,
    }
    for thought, label in zip(THOUGHTS, LABELS, strict=True)
  ]
  file = tmp_path / 'rows.jsonl'
  file.write_text('\n'.join(map(json.dumps, rows)))
  return file


def _run(file, *flags):
  return whole_runs.forked(
    [f'--transcripts={file}', '--label_threshold=3', *flags],
    file.parent,
    program=PROGRAM,
  )


def _figures(result):
  assert result.returncode == 0, result.stderr
  return dict(line.split() for line in result.stdout.splitlines())


def test_the_rubric(transcripts):
  rows = judge_agreement.read_transcripts(transcripts)
  scores = rubric.rubric([row.request for row in rows])
  assert scores == sorted(scores, reverse=True)
  got = _figures(_run(transcripts, '--threshold=0.3'))
  assert got['answers'] == got['compared'] == '4'
  # It sees the order that people see, but that both of the last have 0.
  assert float(got['spearman']) > 0.9 and got['accuracy'] == '1'
  # Two good answers before two bad ones, all of one prompt.
  assert got['auc'] == got['auc_within'] == '1' and got['prompts'] == '1'
  assert got['pairs_within'] == '4'


def test_the_label_may_be_another_field(transcripts):
  text = transcripts.read_text().replace('"label"', '"quality"')
  transcripts.write_text(text)
  assert _figures(_run(transcripts))['auc'] == '-'
  assert _figures(_run(transcripts, '--label=quality'))['auc'] == '1'


def test_a_judge_model_and_its_scores(transcripts, tmp_path):
  output = tmp_path / 'scores.jsonl'
  with judge_server.serving() as endpoint:
    endpoint.behave = lambda number, body: 'good' if number else 'error'
    result = _run(
      transcripts,
      '--judge=llm',
      f'--judge_url={endpoint.url}',
      '--judge_model=m',
      '--judge_backoff=0.02',
      '--judge_cache=',
      f'--output={output}',
    )
  got = _figures(result)
  wanted = [judge_server.verdict(thought) / 10 for thought in THOUGHTS]
  assert whole_runs.rows(tmp_path, output.name) == [
    {'score': score, 'label': label}
    for score, label in zip(wanted, LABELS, strict=True)
  ]
  assert float(got['mean']) == pytest.approx(sum(wanted) / 4, rel=1e-3)
  assert len(endpoint.bodies) == 8


@pytest.mark.parametrize(
  ('flags', 'problem'),
  [
    (['--judge=llm'], 'set --judge_url'),
    (['--judge=nothing'], '--judge=nothing: neither a known name'),
    (['--judge=none'], 'Set --transcripts'),
    (['--transcripts='], 'Set --transcripts'),
    (['--transcripts=/nowhere'], 'FileNotFoundError'),
    (
      ['--judge=tests.helpers.tiny_dataset:bare_scores'],
      "tiny_dataset:bare_scores gave '0.5' to transcript 1",
    ),
    (
      [
        '--judge=llm',
        '--judge_url=http://127.0.0.1:9/v1',
        '--judge_model=m',
        '--judge_patience=0',
        '--judge_cache=',
      ],
      'JudgeUnavailable: The judge http://127.0.0.1:9/v1',
    ),
  ],
)
def test_what_cannot_be_had(transcripts, flags, problem):
  result = _run(transcripts, *flags)
  assert result.returncode == 2 and problem in result.stderr, result.stderr
  assert 'Traceback' not in result.stderr
