"""Rollouts in parts: the same answers, judged while the rest is sampled."""

import dataclasses
import json
import threading
import time
import types as python_types

import jax
import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.rewards.judges import patient as patient_lib
from awpo_jax.rollout.text import prompts as prompts_lib
from awpo_jax.training import judge as judge_lib
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.collection import score
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import optimizer, train_step
from tests.helpers import judge_server, tiny_run


def _sampler(program, *, judge=tiny_run.judge, **rl):
  """One that draws by a program, whatever the bucket."""
  config = tiny_run.config()
  config = dataclasses.replace(config, rl=dataclasses.replace(config.rl, **rl))
  programs = python_types.SimpleNamespace(
    sample=dict.fromkeys(tiny_run.PROMPT_BUCKETS, program)
  )
  return tiny_run.sampler(None, config, programs, judge=judge)


@pytest.fixture(scope='module')
def params():
  return tiny_run.new_state('rl').params


@pytest.fixture(scope='module')
def program():
  experiment = tiny_run.experiment()
  return compile_lib.make_sampler(
    tiny_run.config(),
    experiment.decoder,
    tiny_run.mesh(),
    temperature=1.0,
    stop_ids=experiment.codec.stop_ids,
    pad_id=experiment.codec.pad_id,
  )


def test_in_parts_the_answers_are_the_same(params, program):
  # Draws come from the ids of the samples; the tiny model leaves no doubt.
  *_, whole, texts = _sampler(program).rollout(params, 0)
  *_, parts, same = _sampler(program, rollout_micro=1).rollout(params, 0)
  assert whole.tokens.shape == (4, 2, 8)
  assert texts == same and len({text for group in texts for text in group}) > 4
  for name in ('tokens', 'mask', 'policy_mask', 'positions', 'finished'):
    np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
  np.testing.assert_allclose(whole.logprobs, parts.logprobs, atol=1e-5)


def test_a_part_is_judged_while_the_next_is_sampled(params, program):
  asked, begun = [], threading.Event()

  def judge(requests):
    asked.append(requests)
    begun.set()
    return tiny_run.judge(requests)

  def waiting(*arguments):
    # The second part does not end before the first one is being judged.
    assert not calls or begun.wait(60)
    calls.append(arguments)
    return program(*arguments)

  calls = []
  patient = patient_lib.Judging(judge)
  sampler = _sampler(waiting, rollout_micro=1, judge=patient)
  sampled = sampler.rollout(params, 0)
  tasks, texts = sampled.tasks, sampled.texts
  assert len(calls) == 2
  scored, transcripts = score.score(
    sampled, sampler.config, sampler.scorer, sampler.codec
  )
  # Each answer once, and its score in its place.
  assert [len(requests) for requests in asked] == [4, 4]
  wanted = [
    1 / (1 + len(text)) if text != '?' else 0.0
    for group in texts
    for text in group
  ]
  reasoning = scored.rollout.rewards.reasoning
  np.testing.assert_allclose(reasoning.ravel(), wanted)
  assert [row['response'] for row in transcripts] == [*texts[0], *texts[1]]
  solved = scored.parts['solved'][:2].ravel()
  assert [row['solved'] for row in transcripts] == [x == 1 for x in solved]
  assert [row['kind'] for row in transcripts] == [
    task.kind for task in tasks[:2] for _ in texts[0]
  ]
  patient.close()


# Four waves of 64 calls of two seconds each, and eight seconds of sampling.
PROMPTS, SAMPLES, CONCURRENCY, CALL, GENERATION = 64, 4, 64, 2.0, 8.0
WAVES = PROMPTS * SAMPLES // CONCURRENCY


def _timed_step(monkeypatch, folder, url, parts):
  """Seconds of an RL step and of what it is made of, after a first one."""
  model = folder / 'config.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  config = config_lib.parse(
    [
      *tiny_run.FLAGS,
      f'--model={model}',
      f'--output_dir={folder / "run"}',
      '--prompt_buckets=40',
      '--response_buckets=8',
      '--sft_steps=0',
      f'--prompts_per_step={PROMPTS}',
      f'--samples={SAMPLES}',
      '--minibatches=4',
      '--micro=4',
      f'--rollout_micro={PROMPTS // parts}',
      '--judge=llm',
      f'--judge_url={url}',
      '--judge_model=m',
      f'--judge_concurrency={CONCURRENCY}',
      '--judge_cache=',
    ]
  )
  experiment = setup_lib.make_experiment(config)
  mesh = sharding.data_mesh(jax.devices()[:1])
  tx = optimizer.make_optimizers(config)
  params = decoder_lib.init_params(experiment.decoder.config, jax.random.key(0))
  state = sharding.place_replicated(
    train_step.init_state(params, tx['rl']), mesh
  )
  compiled = compile_lib.compile_programs(
    config,
    experiment.decoder,
    mesh,
    state,
    tx,
    stop_ids=experiment.codec.stop_ids,
    pad_id=experiment.codec.pad_id,
  )
  fast = compiled.sample[40]

  def slow(*arguments):
    started = time.perf_counter()
    completions = jax.block_until_ready(fast(*arguments))
    taken = time.perf_counter() - started
    time.sleep(max(0.0, GENERATION / parts - taken))
    return completions

  compiled = dataclasses.replace(compiled, sample={40: slow})
  decode, seen = prompts_lib.decode_completions, iter(range(10**6))
  monkeypatch.setattr(
    prompts_lib,
    'decode_completions',
    lambda *arguments: [
      [f'<think> {next(seen)} {text} </think>' for text in group]
      for group in decode(*arguments)
    ],
  )
  with judge_lib.patient(experiment.scorer.judge, config, print) as patient:
    sampler = tiny_run.sampler(experiment, config, compiled, judge=patient)
    step = tiny_run.rl_step(dataclasses.replace(sampler, mesh=mesh))
    state, _ = step(state, 0)
    before = compile_lib.compile_count()
    _, report = step(state, 1)
    assert compile_lib.compile_count() == before
  assert report.metrics['reward/valid'] == 1
  monkeypatch.undo()
  return {
    name: report.metrics[f'time/{name}']
    for name in ('step', 'sample', 'score', 'prepare', 'update')
  }


@pytest.mark.slow
def test_judging_costs_little_where_sampling_takes_as_long(
  monkeypatch, tmp_path
):
  """Prints its figures: `python -m pytest -s -m slow FILE`."""
  figures = {}
  with judge_server.serving_elsewhere(CALL) as (url, end):
    for parts in (1, 4, 8):
      folder = tmp_path / str(parts)
      folder.mkdir()
      times = _timed_step(monkeypatch, folder, url, parts)
      figures[parts] = times
      line = '  '.join(f'{name} {value:.2f} s' for name, value in times.items())
      print(f'{parts} parts: {line}')
    calls, most = end()
  assert calls == 3 * 2 * PROMPTS * SAMPLES and most <= CONCURRENCY
  # Eight parts keep as many calls under way, and have a shorter end.
  times = figures[8]
  bound = 1.15 * max(GENERATION, WAVES * CALL) + times['update'] + 2.0
  print(f'In 8 parts {times["step"]:.2f} s, at most {bound:.2f} s.')
  assert times['step'] <= bound
  assert figures[1]['step'] > GENERATION + WAVES * CALL
