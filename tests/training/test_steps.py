"""A step of each phase: its data, its rewards, and what it reports."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.training.collection import sample
from awpo_jax.training.collection import score as score_lib
from tests.helpers import tiny_run


@functools.cache
def _after(phase, steps):
  """The last state and all reports of a few steps."""
  step = tiny_run.make_step(phase)
  state, reports = tiny_run.new_state(phase), []
  for index in range(steps):
    state, report = step(state, index)
    reports.append(jax.device_get(report))
  return jax.device_get(state), reports


def _loss(report):
  (update,) = jax.device_get(report.updates)
  return float(update.sums['loss'])


def test_sft_lowers_the_loss_and_takes_each_demonstration_once():
  _, reports = _after('sft', 6)
  losses = [_loss(report) for report in reports]
  # A new model is close to uniform over its tokens.
  size = tiny_run.experiment().decoder.config.vocab_size
  assert abs(losses[0] - np.log(size)) < 0.3
  assert losses[-1] < losses[0] - 0.1
  ids = [name for report in reports for name in report.ids]
  assert sorted(ids) == sorted(f'task_{i}' for i in range(24))


def test_rl_reports_rewards_times_and_updates():
  state, reports = _after('rl', 2)
  assert state.step == 4
  for index, report in enumerate(reports):
    metrics = report.metrics
    assert [int(u.updates) for u in jax.device_get(report.updates)] == [
      2 * index + 1,
      2 * index + 2,
    ]
    rows = report.transcripts
    assert [row['task_id'] for row in rows] == [
      name for name in report.ids[:2] for _ in range(2)
    ]
    for row in rows:
      task = next(
        tiny_run.make_task(i)
        for i in range(24)
        if row['task_id'] == f'task_{i}'
      )
      assert row['user'] == task.user
      if row['outcome'] is not None:
        score = tiny_run.reward(row['response'], task)
        np.testing.assert_allclose(row['outcome'], score.value, rtol=1e-6)
    assert metrics['ratio/sampler_abs_log_mean'] < 1e-5
    assert metrics['time/sample'] > 0 and metrics['time/update'] > 0
    assert 0 < metrics['length/mean'] <= tiny_run.RESPONSE_BUCKETS[-1]


def test_transcripts_hold_what_each_group_was_trained_with():
  _, reports = _after('rl', 2)
  for report in reports:
    rows = report.transcripts
    assert len(rows) == 4
    for first, second in zip(rows[::2], rows[1::2], strict=True):
      assert first['prompt'] == second['prompt']
      assert first['gate'] == second['gate']
      if first['outcome'] == second['outcome']:
        continue
      # Of two samples the better one has 1 / sqrt(2), the other minus that.
      sign = np.sign(first['outcome'] - second['outcome'])
      got = [first['outcome_advantage'], second['outcome_advantage']]
      np.testing.assert_allclose(
        got, [sign * 0.5**0.5, -sign * 0.5**0.5], rtol=1e-3
      )
  assert any(
    row['advantage'] for report in reports for row in report.transcripts
  )


def test_rl_reports_the_rollout_with_both_log_probabilities():
  _, reports = _after('rl', 2)
  for report in reports:
    rollout = report.scored.rollout
    policy = rollout.completions.policy_mask
    sampler, trainer = rollout.completions.logprobs, rollout.trainer_logprobs
    assert policy.any()
    # Two programs of one model: near, and not one array under two names.
    np.testing.assert_allclose(sampler[policy], trainer[policy], atol=1e-5)
    assert (sampler[policy] != trainer[policy]).any()


def test_rl_starts_each_rollout_with_ratios_of_one():
  _, reports = _after('rl', 2)
  for report in reports:
    first, *later = (u.maxima['ratio_abs_log_max'] for u in report.updates)
    assert first < 1e-5
    assert later and min(later) > 1e-4, later


def test_prompts_come_in_the_order_of_the_run():
  seen = []
  for index in range(6):
    tasks, prompts, _ = tiny_run.sampler().next_prompts(index)
    np.testing.assert_array_equal(prompts.ids, np.arange(4) + 4 * index)
    assert prompts.tokens.shape[-1] in tiny_run.PROMPT_BUCKETS
    seen += [task.task_id for task in tasks]
  assert sorted(seen) == sorted(f'task_{i}' for i in range(24))


def test_sample_ids_are_unique_in_the_run():
  ids = sample.sample_ids(np.array([3, 4, 1000], np.int32), 3)
  np.testing.assert_array_equal(
    ids, [[9, 10, 11], [12, 13, 14], [3000, 3001, 3002]]
  )
  assert ids.dtype == np.int32


def _completions(texts):
  """Answers [P][G] as the sampler would return them, stop token included."""
  codec = tiny_run.experiment().codec
  shape = (len(texts), len(texts[0]), tiny_run.RESPONSE_BUCKETS[-1])
  tokens = np.full(shape, codec.pad_id, np.int32)
  mask = np.zeros(shape, bool)
  for p, g in np.ndindex(shape[:2]):
    ids = codec.tokenizer.encode(texts[p][g], add_special_tokens=False)
    ids = [*ids, codec.stop_ids[0]]
    tokens[p, g, : len(ids)] = ids
    mask[p, g, : len(ids)] = True
  return types.Completions(
    tokens=tokens,
    mask=mask,
    policy_mask=mask,
    positions=np.zeros(shape, np.int32),
    turn=np.zeros(shape, np.int32),
    logprobs=np.zeros(shape, np.float32),
    entropy=np.zeros(shape, np.float32),
    finished=np.ones(shape[:2], bool),
  )


@pytest.mark.parametrize(('last', 'width'), [('db', 4), ('dbfhj', 8)])
def test_rewards_of_a_rollout(last, width):
  # Even code points: b, d, f, h, j; 2 share - 1: 1, -1, no reward, 1.
  sampler = tiny_run.sampler()
  tasks, prompts, ids = sampler.next_prompts(0)
  texts = [['b', 'a'], ['z', last], ['?', 'ab'], ['b', 'b']]
  sampled = sample.Sampled(tasks, prompts, ids, _completions(texts), texts)
  scored, transcripts = score_lib.score(
    sampled, sampler.config, sampler.scorer, sampler.codec
  )
  rewards, completions = scored.rollout.rewards, scored.rollout.completions
  metrics = score_lib.part_means(scored.parts)
  valid = [[True, True], [False, True], [True, True], [True, True]]
  np.testing.assert_array_equal(rewards.outcome_valid, valid)
  np.testing.assert_allclose(
    rewards.outcome[np.array(valid)], [1, -1, 1, -1, 0, 1, 1]
  )
  np.testing.assert_array_equal(rewards.outcome_min, [-1] * 4)
  np.testing.assert_array_equal(rewards.outcome_max, [1] * 4)
  assert rewards.wants_call.shape == (4,) and not rewards.wants_call.any()
  # The judge could not judge the one answer `?`.
  assert np.argwhere(~rewards.reasoning_valid).tolist() == [[2, 0]]
  np.testing.assert_allclose(rewards.reasoning[0], [0.5, 0.5])
  np.testing.assert_allclose(rewards.reasoning[2, 1], 1 / 3)
  # Cut to the bucket that the longest answer needs.
  assert completions.tokens.shape == (4, 2, width)
  assert completions.finished.shape == (4, 2)
  lengths = [1, 1, len(last), 1, 2, 1, 1]
  np.testing.assert_allclose(metrics['reward/length'], np.mean(lengths))
  assert [row['response'] for row in transcripts] == ['b', 'a', 'z', last]
  assert [row['outcome'] for row in transcripts] == [1, -1, None, 1]


def _asking_for(*names):
  """The configuration of an algorithm that takes these parts apart."""
  config = tiny_run.config()
  advantage = dataclasses.replace(
    config.advantage, advantage='gdpo_parts', reward_parts=names
  )
  return dataclasses.replace(config, advantage=advantage)


def test_parts_of_the_outcome_travel_where_the_algorithm_asks_for_them():
  tasks, *_ = tiny_run.sampler().next_prompts(0)
  scorer = tiny_run.experiment().scorer
  texts = [['b', 'abc'], ['z', 'db'], ['?', 'ab'], ['b', 'b']]
  rewards, *_ = score_lib.ask(tiny_run.config(), scorer, texts, tasks)
  assert rewards.parts is None
  rewards, parts, _ = score_lib.ask(_asking_for('length'), scorer, texts, tasks)
  assert set(parts) == {'length', 'solved'} and set(rewards.parts) == {'length'}
  # There is no reward of `z`.
  np.testing.assert_array_equal(
    rewards.parts['length'], [[1, 3], [np.nan, 2], [1, 2], [1, 1]]
  )
  with pytest.raises(ValueError, match='reports no style, but length, solved'):
    score_lib.ask(_asking_for('length', 'style'), scorer, texts, tasks)
  # Where no reward was had, none says what it is made of.
  texts = [['z', 'z']] * 4
  rewards, *_ = score_lib.ask(_asking_for('length'), scorer, texts, tasks)
  assert np.isnan(rewards.parts['length']).all()
