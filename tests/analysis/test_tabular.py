"""Tables: judges and steps by hand, GRPO to the bit, a NumPy loop."""

import dataclasses

import jax
import numpy as np
import pytest

from awpo_jax.analysis import tabular, tabular_map
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as config_flags
from tests.helpers import whole_runs

QUICKSTART = '--flagfile=experiments/quickstart.flags'
GOOD = tabular.Judge('good')
ALL = [GOOD, tabular.Judge('vain'), tabular.Judge('against')]
SMALL = tabular.Task(3, prompts=2, samples=4, options=3, steps=3)


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
  monkeypatch.chdir(whole_runs.ROOT)


def _algorithm(name, *flags):
  file = f'--flagfile=experiments/algorithms/{name}.flags'
  return config_lib.parse([QUICKSTART, file, *flags])


def test_judges_by_hand():
  # 0 is right, 1 what a vain judge likes.
  thoughts = np.array([[0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]])
  by_hand = {
    'good': [1, 0.25, 0.5, 0],
    'against': [0, 0.75, 0.5, 1],
    'vain': [0, 0, 0.5, 0.25],
  }
  assert {*by_hand} == {*tabular.JUDGES}
  for name, scores in by_hand.items():
    np.testing.assert_allclose(tabular.JUDGES[name](thoughts), scores)


def test_the_share_that_is_noise():
  thoughts = np.ones((100, 100, 2), np.int32)  # A good judge gives all 0.
  for noise in (0.0, 0.25, 1.0):
    scores = np.asarray(
      tabular.reasoning_rewards(
        jax.random.key(0), thoughts, np.int32(0), np.float32(noise)
      )
    )
    # Standard error of a share at most .0044, of the mean at most .0029.
    np.testing.assert_allclose(np.mean(scores > 0), noise, atol=0.02)
    np.testing.assert_allclose(np.mean(scores), noise / 2, atol=0.015)
    assert scores.min() >= 0 and scores.max() < 1


def test_the_start_by_hand():
  task = tabular.Task(2, executed=1, options=4, chance=0.4)
  logits = tabular.initial_logits(task)
  policy = np.asarray(jax.nn.softmax(logits))
  assert policy.shape == (8, 3, 4)
  np.testing.assert_allclose(policy[3, 1], [0.4, 0.2, 0.2, 0.2], rtol=1e-6)
  np.testing.assert_allclose(tabular.success(logits), 0.4**3, rtol=1e-6)


def test_a_step_by_hand():
  # One decision between two options, right with 0.4; answers right, wrong,
  # wrong, wrong. Mean 1/4, unbiased std 1/2: A = 3/2, -1/2, -1/2, -1/2.
  # mean A (one_hot - policy), first option:
  #   (3/2 * 0.6 + 3 * -1/2 * -0.4) / 4 = (0.9 + 0.6) / 4 = 0.375
  logits = tabular.initial_logits(
    tabular.Task(1, prompts=1, options=2, chance=0.4)
  )
  choices = np.array([0, 1, 1, 1], np.int32).reshape(1, 4, 1)
  batch = tabular.rollout(
    logits, choices, np.zeros((1, 4), np.float32), decisions=1
  )
  np.testing.assert_array_equal(batch.rewards.outcome, [[1, 0, 0, 0]])
  np.testing.assert_allclose(
    batch.completions.logprobs[0, :, 0], np.log([0.4, 0.6, 0.6, 0.6]), rtol=1e-6
  )
  moved = tabular.policy_gradient(
    logits, choices, np.float32([[1.5, -0.5, -0.5, -0.5]])
  )
  np.testing.assert_allclose(moved, [[[0.375, -0.375]]], rtol=1e-6)


def test_what_a_rollout_says_of_its_answers_by_hand():
  # Two decisions that the judge reads and one that it does not, of 0.4 and 0.6.
  task = tabular.Task(2, executed=1, prompts=1, options=2, chance=0.4)
  choices = np.array([[[0, 0, 0], [0, 0, 1]]], np.int32)
  scores = np.float32([[0.25, 1]])
  batch = tabular.rollout(
    tabular.initial_logits(task), choices, scores, decisions=2
  )
  rewards = batch.rewards
  np.testing.assert_array_equal(rewards.outcome, [[1, 0]])
  np.testing.assert_array_equal(rewards.reasoning, scores)
  np.testing.assert_array_equal(
    [rewards.outcome_min, rewards.outcome_max], [[0], [1]]
  )
  # Else solved groups would not shut the gate.
  np.testing.assert_array_equal(rewards.wants_call, [True])
  np.testing.assert_array_equal(batch.thinking, [[[1, 1, 0], [1, 1, 0]]])
  entropy = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
  np.testing.assert_allclose(
    batch.completions.entropy, np.full((1, 2, 3), entropy), rtol=1e-6
  )


def test_advantages_of_tokens_act_on_their_own_tokens():
  logits = np.zeros((1, 2, 2), np.float32)
  choices = np.array([[[0, 0], [1, 1]]], np.int32)
  advantages = np.float32([[[1, 0], [-1, 0]]])
  moved = tabular.policy_gradient(logits, choices, advantages)
  np.testing.assert_allclose(moved, [[[0.5, -0.5], [0, 0]]])


def _expected(mean_of, options, seed, task):
  """Success by step of a float64 loop on the draws that `train` makes."""
  p = task.chance
  logits = np.zeros((task.prompts, task.tokens, options))
  logits[..., 0] = np.log(p * (options - 1) / (1 - p))
  shape = (task.prompts, task.samples, task.tokens)
  curve = []
  for key in jax.random.split(jax.random.key(seed), task.steps):
    policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    curve.append(policy[..., 0].prod(-1).mean())
    drawn = jax.random.split(key)[0]
    choices = np.asarray(
      jax.random.categorical(
        drawn, logits.astype(np.float32)[:, None], shape=shape
      )
    )
    for i in range(task.prompts):
      rewards = np.array([mean_of(list(x)) for x in choices[i]])
      spread = rewards.std(ddof=1)
      for g in range(task.samples):
        a = (rewards[g] - rewards.mean()) / (spread + 1e-6)
        for t in range(task.tokens):
          one = np.eye(options)[choices[i, g, t]]
          logits[i, t] += (
            task.learning_rate / task.samples * a * (one - policy[i, t])
          )
  policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  return [*curve, policy[..., 0].prod(-1).mean()]


def _outcome(x):
  return float(not any(x))


def _sum_of_both(x):
  # Before its first wrong decision, of those of the thought.
  right = next((i for i, c in enumerate(x[:3]) if c), 3)
  return _outcome(x) + right / 3


@pytest.mark.parametrize(
  ('name', 'reward'), [('grpo', _outcome), ('naive_mix', _sum_of_both)]
)
@pytest.mark.parametrize('executed', [0, 1])
def test_training_against_a_loop(name, reward, executed):
  task = dataclasses.replace(SMALL, executed=executed)
  got = tabular.train(_algorithm(name), task, [GOOD], seeds=2).success[0]
  for seed in (0, 1):
    expected = _expected(reward, task.options, seed, task)
    np.testing.assert_allclose(got[seed], expected, rtol=2e-4)
  assert abs(got[0, -1] - got[0, 0]) > 1e-3


def test_no_gate_is_grpo_whoever_judges():
  grpo = tabular.train(_algorithm('grpo'), SMALL, ALL, seeds=2)
  none = tabular.train(
    _algorithm('awpo', '--gate=none', '--difficulty=none'), SMALL, ALL, seeds=2
  )
  np.testing.assert_array_equal(grpo.success, none.success)
  for other in grpo.success[1:]:
    np.testing.assert_array_equal(grpo.success[0], other)
  np.testing.assert_array_equal(grpo.trust, 1)


def test_seeds_are_reproducible():
  config = _algorithm('awpo')
  two = tabular.train(config, SMALL, ALL, seeds=2)
  alone = tabular.train(config, SMALL, ALL[:1], seeds=1)
  np.testing.assert_allclose(two.success[:1, :1], alone.success, rtol=1e-6)
  assert (two.success[0, 0] != two.success[0, 1]).any()
  assert ((two.trust >= 0) & (two.trust <= 1)).all() and (two.trust < 1).any()
  # Of the judge that is against it the correlation is never above 0.
  assert (two.trust[0] > 0).any() and (two.trust[2] == 0).all()


@pytest.mark.parametrize(
  ('flag', 'name'),
  [
    ('--loss=reinforce', 'loss'),
    ('--kl_coef=0.1', 'kl_coef'),
    ('--empty_groups=drop', 'empty_groups'),
  ],
)
def test_what_would_not_act_is_refused(flag, name):
  with pytest.raises(config_flags.ConfigError, match=f'--{name}=.*leave it'):
    tabular.train(_algorithm('grpo', flag), SMALL, [GOOD], seeds=1)


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    (lambda: tabular.Task(0), 'decisions=0'),
    (lambda: tabular.Task(1, chance=1.0), 'chance=1.0'),
    (lambda: tabular.Judge('mild'), 'mild'),
    (lambda: tabular_map.parse_judge('good:2'), "'good:2'.*noise=2.0"),
    (lambda: tabular_map.parse_judge('good:x'), "'good:x'.*name:noise"),
  ],
)
def test_wrong_numbers_are_named(wrong, message):
  with pytest.raises(ValueError, match=message):
    wrong()


def test_reasoning_helps_and_with_trust_cannot_harm():
  # What the map claims, where outcomes are rare: .4^6 of answers are right.
  judges = [*ALL, tabular.Judge('good', noise=1.0)]
  grpo, trusted, believed = (
    tabular.train(
      _algorithm('awpo', '--difficulty=none', flag),
      tabular.Task(6),
      judges,
      seeds=16,
    ).success[..., -1]
    for flag in ('--gate=none', '--trust=agreement', '--trust=none')
  )
  gain = np.mean(trusted - grpo, axis=1)
  assert gain[0] > 0.3
  # Judges that are wrong are never believed. Noise is at times; its gain has a
  # standard error of .024.
  assert (gain[1:3] > -0.01).all() and gain[3] > -0.1
  loss = np.mean(believed - grpo, axis=1)
  assert loss[0] > 0.3 and (loss[1:] < -0.15).all()


# The map.


def _found():
  """Two algorithms, two numbers of decisions, one judge, four seeds."""
  return tabular_map.Map(
    judges=(tabular_map.parse_judge('good:0.5'),),
    decisions=(2, 4),
    success={
      'grpo': np.float32([[[0.1, 0.2, 0.3, 0.4]], [[0.1, 0.2, 0.3, 0.4]]]),
      'other': np.float32([[[0.3, 0.4, 0.5, 0.6]], [[0.2, 0.1, 0.4, 0.3]]]),
    },
  )


def test_gains_are_paired():
  # +.2 with every seed; then +.1, -.1, +.1, -.1.
  made = tabular_map.gains(_found(), ['grpo'])
  (sure,), (unsure,) = made['grpo']['other']
  np.testing.assert_allclose(sure.mean, 0.2, rtol=1e-6)
  np.testing.assert_allclose(unsure.mean, 0, atol=1e-7)
  assert tabular_map.sure(sure) and not tabular_map.sure(unsure)


def test_what_is_written(tmp_path):
  text = tabular_map.write_report(_found(), tmp_path, baselines=['grpo'])
  assert 'mean success, k = 2' in text
  assert '| good, noise 0.5 | 0.250 | 0.450 |' in text
  assert '| good, noise 0.5 | +0.200 [+0.200 +0.200] |' in text
  rows = (tmp_path / 'cells.csv').read_text().split('\n')
  assert rows[3].strip() == 'other,2,good,0.5,4,0.4500,0.2000,0.2000,0.2000'
  assert (tmp_path / 'over_grpo.png').read_bytes()[:4] == b'\x89PNG'
  saved = np.load(tmp_path / 'success.npz')
  np.testing.assert_array_equal(saved['other'], _found().success['other'])


def test_where_the_picture_has_a_sign():
  found = _found()
  # Over `other`: -.2 with every seed, k = 2, and both signs, k = 4.
  made = tabular_map.gains(found, ['grpo', 'other'])
  for baseline, sign in (('grpo', '+'), ('other', '_')):
    panel = tabular_map.plot(found, made, None, baseline=baseline).axes[0]
    (mark,) = panel.get_lines()
    assert mark.get_marker() == sign
    assert (*mark.get_xdata(), *mark.get_ydata()) == (0, 0)
    assert [x.get_text() for x in panel.get_xticklabels()] == ['noise 0.5']
    assert [x.get_text() for x in panel.get_yticklabels()] == ['2', '4']
