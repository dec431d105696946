"""Replays: projected gradients of answers."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from awpo_jax import types
from awpo_jax.analysis import replay
from awpo_jax.reporting import rollout_archive as rollout_archive_lib
from tests.helpers import tiny_training

P, G, PROMPT, RESPONSE = 2, 3, 4, 5


def rollout():
  rng = np.random.default_rng(0)

  def tokens(*shape):
    return rng.integers(0, tiny_training.VOCAB, shape, np.int32)

  lengths = np.int32([[5, 3, 1], [2, 5, 4]])
  mask = np.arange(RESPONSE) < lengths[..., None]
  completions = types.Completions(
    tokens=tokens(P, G, RESPONSE),
    mask=mask,
    policy_mask=mask,
    positions=np.tile(PROMPT + np.arange(RESPONSE, dtype=np.int32), (P, G, 1)),
    turn=np.zeros(mask.shape, np.int32),
    logprobs=np.zeros(mask.shape, np.float32),
    entropy=np.zeros(mask.shape, np.float32),
    finished=np.ones((P, G), bool),
  )
  return types.Rollout(
    prompts=types.Prompts(
      tokens=tokens(P, PROMPT),
      mask=np.ones((P, PROMPT), bool),
      ids=np.arange(P, dtype=np.int32),
    ),
    completions=completions,
    rewards=None,
    sample_ids=np.arange(P * G, dtype=np.int32).reshape(P, G),
  )


class ScoreVectorsTest(chex.TestCase):
  def test_against_differences(self):
    # Along a direction u the derivative of an answer's log-probability is
    # (f(x + h u) - f(x - h u)) / 2h, with f of the unshared full sequences.
    taken, seed = rollout(), 5
    params = jax.tree.map(jnp.asarray, tiny_training.params())
    got = replay.score_vectors(
      tiny_training.DECODER, params, taken, directions=2, seed=seed, chunk=3
    )
    self.assertEqual(got.shape, (P * G, 2))
    prompts = np.repeat(taken.prompts.tokens, G, axis=0)
    answers = taken.completions.tokens.reshape(P * G, -1)
    mask = taken.completions.mask.reshape(P * G, -1)

    @jax.jit
    def log_likelihood(params):
      tokens = np.concatenate([prompts, answers], axis=1)
      logits = tiny_training.DECODER.apply({'params': params}, tokens)
      log_p = jax.nn.log_softmax(logits[:, PROMPT - 1 : -1])
      chosen = jnp.take_along_axis(log_p, answers[..., None], axis=-1)[..., 0]
      return jnp.sum(jnp.where(mask, chosen, 0.0), axis=-1)

    leaves, tree = jax.tree.flatten(params)
    for k, key in enumerate(jax.random.split(jax.random.key(seed), 2)):
      keys = jax.random.split(key, len(leaves))
      steps = [
        1e-3 * jax.random.normal(k, x.shape)
        for k, x in zip(keys, leaves, strict=True)
      ]
      above, below = (
        log_likelihood(
          jax.tree.unflatten(
            tree, [x + sign * s for x, s in zip(leaves, steps, strict=True)]
          )
        )
        for sign in (1, -1)
      )
      want = (np.float64(above) - np.float64(below)) / 2e-3
      np.testing.assert_allclose(got[:, k], want, rtol=0.02, atol=0.05)


def test_a_replay_may_take_apart_what_the_run_did_not(tmp_path):
  # Stored are an outcome of 0 or 1 and its parts; of one step, by hand: format
  # 0 0 1 1 and correctness -3 3 -3 3 are each -+ s, s = sqrt(3) / 2 (ddof 1).
  scored = tiny_training.rollout(0)
  groups = scored.sample_ids.shape
  parts = {
    'format': np.tile(np.float32([0, 0, 1, 1]), (groups[0], 1)),
    'correctness': np.tile(np.float32([-3, 3, -3, 3]), (groups[0], 1)),
  }
  valid = np.ones(groups, bool)
  scored = tiny_training.with_rewards(scored, outcome_valid=valid)
  task = types.Task('t', '', '', (), '', '')
  writer = rollout_archive_lib.Writer(
    tmp_path / rollout_archive_lib.FOLDER,
    prompt_width=tiny_training.PROMPT,
    response_width=tiny_training.RESPONSE,
    resume_step=0,
  )
  writer.append(1, types.Scored([task] * groups[0], scored, parts))
  # Its flags name some that there are no more.
  (tmp_path / 'run.flags').write_text(
    '--output_dir=run\n--model=m\n--rl_steps=1\n--gate=none\n'
    '--difficulty=none\n--clip=fixed\n--arm_share=0.2\n--kl_weight=none\n'
  )
  apart = replay.variant(
    tmp_path, '--advantage=gdpo_parts', '--batch_norm=none'
  )
  assert apart.advantage.advantage == 'gdpo_parts'
  made = replay.replay(
    rollout_archive_lib.open_archive(tmp_path), {'apart': apart}
  )
  half = np.sqrt(3) / 2
  want = np.array([-2 * half, 0, 0, 2 * half])
  np.testing.assert_allclose(
    made['apart'].advantages,
    np.tile(want, (1, groups[0], 1)),
    rtol=1e-4,
    atol=1e-4,
  )


def test_a_run_of_before_a_flag_is_replayed_without_it(tmp_path):
  lines = '--output_dir=run\n--model=m\n--rl_steps=1\n'
  (tmp_path / 'run.flags').write_text(lines)
  old = replay.variant(tmp_path).advantage
  assert (old.trust, old.mix_std_floor) == ('none', 0.0)
  (tmp_path / 'run.flags').write_text(f'{lines}--trust=confident\n')
  new = replay.variant(tmp_path, '--mix_std_floor=0.1').advantage
  assert (new.trust, new.mix_std_floor) == ('confident', 0.1)


def test_a_flag_that_never_was_is_refused_in_a_variant(tmp_path):
  (tmp_path / 'run.flags').write_text(
    '--output_dir=run\n--model=m\n--rl_steps=1\n'
  )
  with pytest.raises(flags.Error, match='gaet'):
    replay.variant(tmp_path, '--gaet=none')


def test_cosine_of_an_archived_rollout_with_solved(tmp_path):
  # GRPO of ToolRL's outcome: each group less its mean, over its deviation.
  run = pathlib.Path(__file__).resolve().parents[2] / 'notebooks/run'
  archive = rollout_archive_lib.open_archive(run)
  step = archive.steps[0]
  outcome = np.float64(archive.rollout(step).rewards.outcome)
  solved = np.float64(archive.parts(step)['solved'])
  a, s = (x - x.mean(1, keepdims=True) for x in (outcome, solved))
  a /= outcome.std(1, ddof=1, keepdims=True) + 1e-6
  want = np.sum(a * s) / np.sqrt(np.sum(a * a) * np.sum(s * s))
  grpo = replay.solved_cosine(run, '--gate=none', '--difficulty=none')
  np.testing.assert_allclose(grpo, want, rtol=1e-5)
  assert grpo < replay.solved_cosine(run) < 0.9
  assert replay.solved_cosine(tmp_path) is None
