"""`generate.py` says what the evaluation of the run said, and ends cleanly."""

import json
import signal

import pytest

from tests.helpers import hf_models, whole_runs

GENERATE = 'experiments/generate.py'


@pytest.fixture
def generate(tmp_path):
  def run(*flags, **options):
    return whole_runs.forked(flags, tmp_path, program=GENERATE, **options)

  return run


def evaluated(folder, step):
  """Greedy answers of a run's evaluation: the user's text -> the answer."""
  return {
    row['user']: row['response']
    for row in whole_runs.rows(folder, 'transcripts.jsonl')
    if 'set' in row and row['step'] == step
  }


@pytest.mark.parametrize('step', [4, 7])
def test_greedy_answers_are_those_of_the_evaluation(reference, generate, step):
  folder = reference.folder
  answers = evaluated(folder, step)
  user, response = max(answers.items(), key=lambda item: len(item[1]))
  model = folder if step == reference.last else folder / 'checkpoints' / '4'
  result = generate(
    f'--model={model}',
    '--system=system',
    f'--prompt={user}',
    '--temperature=0',
    '--max_tokens=8',
    '--samples=2',
  )
  assert result.returncode == 0, result.stderr
  # After its demonstrations alone this policy stops at once.
  assert bool(response) == (step == reference.last)
  assert result.stdout == (
    f'--- answer 1 of 2\n{response}\n--- answer 2 of 2\n{response}\n'
  )


def test_a_model_of_hugging_face_with_messages_and_tools(generate, tmp_path):
  hf_models.save_qwen3(tmp_path / 'qwen3')
  chat = {
    'messages': [{'role': 'user', 'content': 'Weather in Oslo?'}],
    'tools': [{'name': 'get_weather', 'description': 'd', 'parameters': {}}],
  }
  (tmp_path / 'chat.json').write_text(json.dumps(chat))
  flags = (
    f'--model={tmp_path / "qwen3"}',
    f'--messages={tmp_path / "chat.json"}',
    '--max_tokens=8',
    '--enable_thinking=false',
    f'--compilation_cache={tmp_path / "programs"}',
  )
  further = ['--seed=1'], ['--seed=2'], ['--seed=1', '--prompt_style=short']
  results = [generate(*flags, *more) for more in further]
  assert any((tmp_path / 'programs').iterdir())
  for result in results:
    assert result.returncode == 0 and not result.stderr, result.stderr
  assert len({result.stdout for result in results}) == 3
  # A template that knows no tools: that is said, unless the style is chosen.
  template = next((tmp_path / 'qwen3').glob('chat_template*'))
  template.write_text('{% for m in messages %}{{ m.content }}{% endfor %}')
  flags = (flags[0], flags[1], flags[2], '--prompt_style=auto')
  result = generate(*flags)
  assert result.returncode == 0 and 'knows no tools' in result.stderr
  result = generate(*flags, '--prompt_style=rlla')
  assert result.returncode == 0 and not result.stderr


@pytest.mark.parametrize(
  ('flags', 'problem'),
  [
    (['--prompt=a'], 'Set --model'),
    (['--model=OLD'], 'either --prompt or --messages'),
    (['--model=OLD', '--prompt= '], '--prompt is empty'),
    (['--model=OLD', '--messages=no.json'], '--messages=no.json: no such file'),
    (['--model=/nowhere', '--prompt=a'], '/nowhere'),
    (['--model=/x.gguf', '--prompt=a'], 'There is no file /x.gguf'),
    (['--model=OLD', '--prompt=a', '--max_tokens=99999'], '--max_tokens=99999'),
    (['--model=OLD', '--prompt=a', '--samples=0'], '--samples=0'),
    (['--model=OLD', '--prompt=a', '--template_date=x'], '--template_date=x'),
    (['--model=OLD', '--prompt=a', '--enable_thinking=true'], 'does not know'),
  ],
)
def test_a_mistake_is_one_line(reference, generate, flags, problem):
  result = generate(
    *(flag.replace('OLD', str(reference.folder)) for flag in flags)
  )
  assert result.returncode == 2 and not result.stdout
  (line,) = result.stderr.strip().splitlines()
  assert problem in line


def test_interrupted(reference, generate):
  result = generate(
    f'--model={reference.folder}',
    '--prompt=a',
    at=whole_runs.Signal(
      'awpo_jax.rollout.text.tokenizers:decode_answer', 1, number=signal.SIGINT
    ),
  )
  assert result.returncode == 130
  assert result.stdout == '\n' and not result.stderr
