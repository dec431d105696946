"""Whole runs with a judge model that is slow, fails, and comes back."""

import signal

import pytest

from awpo_jax.rollout.rewards.judges import llm
from tests.helpers import judge_server, tiny_dataset, whole_runs

LAST = 3
KEY = {llm.KEY_VARIABLE: 'sk-secret-of-the-test'}
FLAGS = (
  '--judge=llm',
  '--judge_model=m',
  '--judge_timeout=1',
  '--judge_backoff=0.02',
  '--sft_steps=0',
  f'--rl_steps={LAST}',
  '--rollout_micro=1',
  '--checkpoint_every=50',
)
ONE_BY_ONE = ('--judge_retries=0', '--judge_concurrency=1')


def _run(folder, url, cache, *further, **options):
  """A run in `folder`, its judge at `url`; what was judged lies beside it."""
  flags = tiny_dataset.flags(
    folder,
    cache,
    *FLAGS,
    f'--judge_url={url}',
    f'--judge_cache={folder.parent / "judge.sqlite"}',
    *further,
  )
  return whole_runs.forked(
    flags,
    folder.parent,
    environment=KEY,
    program='tests/helpers/thinking_train.py',
    **options,
  )


@pytest.fixture(scope='module')
def smooth(tmp_path_factory, cache):
  """A run whose judge never failed, and what that was asked."""
  folder = tmp_path_factory.mktemp('smooth') / 'run'
  with judge_server.serving() as endpoint:
    result = _run(folder, endpoint.url, cache)
    assert result.returncode == 0, result.stderr
    return folder, list(endpoint.bodies)


def test_scores_are_those_of_the_judge(smooth):
  folder, bodies = smooth
  rows = whole_runs.rows(folder, 'transcripts.jsonl')
  sampled = [row for row in rows if 'set' not in row]
  assert len(sampled) == LAST * 16
  graded = set()
  for row in sampled:
    inside = row['response'].partition('<think>')[2].partition('</think>')[0]
    thought = inside.strip()
    wanted = judge_server.verdict(thought) / 10 if thought else 0
    assert row['reasoning'] == pytest.approx(wanted)
    graded.add((row['user'], thought))
  assert len(graded) > 30
  for row in whole_runs.rows(folder):
    assert row['reward/valid'] == 1
  # Nothing was asked twice, the answers to held-out tasks included.
  asked = [body['messages'][1]['content'] for body in bodies]
  assert len(set(asked)) == len(asked) >= len(graded - {('', '')})


@pytest.mark.parametrize('start', [0, 0.25])
def test_a_judge_that_tells_nothing_apart_is_not_trusted(
  cache, tmp_path, start
):
  # As SmolLM2 did as a judge: 0 for every answer. So there is no group in which
  # outcome and reasoning both vary, and t = (0 + 1 start) / (0 + 1). R_mix is
  # R_out: w = t s / (s + s + eps) = t / 2 in a group whose outcomes vary, else
  # 0. The radius is 0.2 - 0.1 times the mean of w.
  with judge_server.serving() as endpoint:
    endpoint.behave = lambda number, body: judge_server.completion(
      '{"reason": "none", "score": 0}'
    )
    result = _run(
      tmp_path / 'run', endpoint.url, cache, f'--trust_start={start}'
    )
  assert result.returncode == 0, result.stderr
  rows = whole_runs.rows(tmp_path / 'run')
  answers = whole_runs.rows(tmp_path / 'run', 'transcripts.jsonl')
  assert [row['step'] for row in rows] == list(range(1, LAST + 1))
  for row in rows:
    groups: dict[str, set[float]] = {}
    for x in answers:
      if x['step'] == row['step'] and 'set' not in x:
        assert x['reasoning'] == 0
        groups.setdefault(x['task_id'], set()).add(x['outcome'])
    vary = sum(len(outcomes) > 1 for outcomes in groups.values())
    assert len(groups) == 4 and vary > 0
    assert row['reward/valid'] == 1
    assert row['trust/groups'] == 0 and row['trust/agreement'] is None
    assert row['trust/mean'] == pytest.approx(start)
    gate = start / 2 * vary / 4
    assert row['gate/mean'] == pytest.approx(gate, abs=1e-5)
    assert row['clip/radius'] == pytest.approx(0.2 - 0.1 * gate, abs=1e-5)


def test_the_key_is_in_no_file(smooth):
  folder, _ = smooth
  for file in folder.parent.rglob('*'):
    if file.is_file():
      assert KEY[llm.KEY_VARIABLE].encode() not in file.read_bytes(), file


def test_a_judge_that_fails_all_the_time_changes_no_number(
  smooth, cache, tmp_path
):
  ways = [way for way in judge_server.REPEATED if way != 'hangs']

  def behave(number, body):
    start = 2 * judge_server.verdict(judge_server.thought(body))
    return ways[(start + number) % len(ways)] if number < 2 else 'good'

  with judge_server.serving() as endpoint:
    endpoint.behave = behave
    result = _run(tmp_path / 'run', endpoint.url, cache)
  assert result.returncode == 0, result.stderr
  assert len(endpoint.bodies) == 3 * len(smooth[1])
  whole_runs.assert_same(tmp_path / 'run', smooth[0], LAST)


def test_too_few_scores_are_waited_for(smooth, cache, tmp_path):
  # More failures than retries: the step comes up short, and asks again.
  with judge_server.serving() as endpoint:
    endpoint.behave = lambda number, body: 'error' if number < 2 else 'good'
    result = _run(tmp_path / 'run', endpoint.url, cache, '--judge_retries=1')
  assert result.returncode == 0, result.stderr
  assert f'answers could be judged by the judge {endpoint.url}' in result.stderr
  whole_runs.assert_same(tmp_path / 'run', smooth[0], LAST)


def test_a_judge_that_is_down_ends_the_run_which_goes_on_elsewhere(
  smooth, cache, tmp_path
):
  folder = tmp_path / 'run'
  with judge_server.serving() as endpoint:
    # Down in the middle of the second step.
    endpoint.behave = lambda number, body: (
      'good' if len(endpoint.bodies) <= 20 else 'closed'
    )
    result = _run(
      folder, endpoint.url, cache, '--judge_patience=1', '--judge_retries=1'
    )
  assert result.returncode == 75, result.stderr  # A failure that may pass.
  for text in (endpoint.url, '--judge_', 'Step 1 is saved'):
    assert text in result.stderr
  assert 'Traceback' not in result.stderr
  assert whole_runs.saved_steps(folder) == [1]
  assert [row['step'] for row in whole_runs.rows(folder)] == [1]
  # The same command, but that the endpoint has moved.
  with judge_server.serving() as other:
    result = _run(folder, other.url, cache)
  assert result.returncode == 0, result.stderr
  whole_runs.assert_same(folder, smooth[0], LAST)
  assert len(other.bodies) < len(smooth[1])


def test_down_from_the_start_and_then_out_of_budget(smooth, cache, tmp_path):
  folder = tmp_path / 'run'
  dead = 'http://127.0.0.1:9/v1'
  # One call fails, which is one too many.
  result = _run(folder, dead, cache, '--judge_patience=0', *ONE_BY_ONE)
  assert result.returncode == 75 and dead in result.stderr
  assert whole_runs.saved_steps(folder) == [0]
  with judge_server.serving() as endpoint:
    # It counts: 19 are left, and 16 at most are needed for a step.
    result = _run(folder, endpoint.url, cache, '--judge_max_calls=20')
    assert result.returncode == 75, result.stderr
    assert 'raise --judge_max_calls' in result.stderr
    assert len(endpoint.bodies) == 19
    assert [row['step'] for row in whole_runs.rows(folder)] == [1]
    result = _run(folder, endpoint.url, cache)
  assert result.returncode == 0, result.stderr
  whole_runs.assert_same(folder, smooth[0], LAST)


def test_a_signal_ends_the_waiting(cache, tmp_path):
  at = whole_runs.Signal(
    'awpo_jax.rollout.rewards.judges.patient:_missing',
    call=2,
    number=signal.SIGTERM,
  )
  folder, dead = tmp_path / 'run', 'http://127.0.0.1:9/v1'
  result = _run(folder, dead, cache, *ONE_BY_ONE, at=at)
  assert result.returncode == 128 + signal.SIGTERM, result.stderr
  assert 'Stopped by SIGTERM after step 0, which is saved' in result.stderr
  assert whole_runs.saved_steps(folder) == [0]


def test_a_rerun_asks_nothing(smooth, cache):
  folder = smooth[0].parent / 'again'
  dead = 'http://127.0.0.1:9/v1'
  result = _run(folder, dead, cache)
  assert result.returncode == 0, result.stderr
  whole_runs.assert_same(folder, smooth[0], LAST)


def test_a_refusal_ends_the_run_which_goes_on_when_corrected(
  smooth, cache, tmp_path
):
  folder = tmp_path / 'run'
  said = {
    'error': {
      'message': f"'max_tokens' is not known; yours, {KEY[llm.KEY_VARIABLE]}."
    }
  }
  with judge_server.serving() as endpoint:
    endpoint.behave = lambda number, body: (
      judge_server.refusal(400, said) if 'max_tokens' in body else 'good'
    )
    result = _run(folder, endpoint.url, cache)
    assert result.returncode == 1, result.stderr
    for text in ("400: 'max_tokens' is not known; yours, [key]", 'Step 0 is'):
      assert text in result.stderr
    assert KEY[llm.KEY_VARIABLE] not in result.stderr
    assert 'Traceback' not in result.stderr
    assert whole_runs.saved_steps(folder) == [0]
    assert len(endpoint.bodies) <= 16
    result = _run(
      folder,
      endpoint.url,
      cache,
      '--judge_token_limit_name=max_completion_tokens',
    )
  assert result.returncode == 0, result.stderr
  whole_runs.assert_same(folder, smooth[0], LAST)


def test_a_run_that_trains_nothing_ends(cache, tmp_path):
  folder = tmp_path / 'run'
  flags = tiny_dataset.flags(
    folder,
    cache,
    '--judge=tests.helpers.tiny_dataset:mute',
    '--sft_steps=0',
    '--rl_steps=9',
  )
  result = whole_runs.forked(flags, tmp_path)
  assert result.returncode == 1, result.stderr
  assert (
    'No answer of the last 3 steps could be trained on, so nothing was learnt '
    'in them: of the last one 16 of 16 answers had no score (the judge '
    'tests.helpers.tiny_dataset:mute). Step 3 is saved'
  ) in result.stderr
  assert whole_runs.saved_steps(folder)[-1] == 3
  assert len(whole_runs.rows(folder)) == 3


def test_a_reward_without_bounds_loses_no_step(cache, tmp_path):
  folder = tmp_path / 'run'
  flags = tiny_dataset.flags(
    folder,
    cache,
    '--reward=tests.helpers.tiny_dataset:bare',
    '--checkpoint_every=50',
  )
  result = whole_runs.forked(flags, tmp_path)
  assert result.returncode == 1, result.stderr
  # Asked for the first time when the end of SFT is evaluated.
  for text in (
    'task held_out_0 by tests.helpers.tiny_dataset:bare is',
    'Step 4 is',
  ):
    assert text in result.stderr
  assert 'Traceback' not in result.stderr
  assert whole_runs.saved_steps(folder) == [4]
