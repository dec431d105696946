"""The judge that flags name: built, refused, patient as they say."""

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.rollout.rewards.judges import llm, llm_prompt, rubric
from awpo_jax.training import judge as judge_lib
from tests.helpers import tiny_dataset

LLM = ('--judge=llm', '--judge_url=http://127.0.0.1:9/v1', '--judge_model=m')

GATELESS = ('--gate=none', '--difficulty=none', '--clip=fixed')


def _config(*flags):
  return config_lib.parse(
    [
      '--output_dir=run',
      '--model=m.json',
      '--rl_steps=1',
      '--judge_cache=',
      *flags,
    ]
  )


def _make(*flags):
  config = _config(*flags)
  return judge_lib.make_judge(config.data.judge, config.judge, run='run')


def test_by_name():
  assert _make('--judge=rubric') is rubric.rubric
  assert _make('--judge=none', '--gate=none') is None
  assert _make('--judge=tests.helpers.tiny_dataset:judge') is tiny_dataset.judge
  with pytest.raises(
    ValueError, match=r'known name \(llm, noisy, none, process, rubric, vain\)'
  ):
    _make('--judge=nobody')


def test_a_judge_is_corrupted_as_flags_say():
  asked = [
    types.JudgeRequest('', (), f'<think> {"x" * n} </think>')
    for n in range(1, 2001)
  ]
  true = np.float64(tiny_dataset.judge(asked))  # None becomes NaN.
  own = '--judge=tests.helpers.tiny_dataset:judge'
  # One word of 60, no praise.
  want = {'against': 1 - true, 'vain': np.where(np.isnan(true), true, 1 / 60)}
  for name, scores in want.items():
    got = np.float64(_make(own, f'--judge_{name}=1')(asked))
    np.testing.assert_allclose(got, scores)
  got = np.float64(_make(own, '--judge_noise=.5')(asked))
  # Of 1,600 scores: four standard deviations of a half are .05.
  assert (got == true).sum() / 1600 == pytest.approx(0.5, abs=0.05)


def test_every_flag_of_the_model_reaches_it(tmp_path, monkeypatch):
  monkeypatch.setenv(llm.KEY_VARIABLE, 'sk-from-outside')
  prompt = tmp_path / 'prompt.txt'
  prompt.write_text('$fence $thought $scale')
  values = {
    'url': 'http://127.0.0.1:9/v1',
    'model': 'm',
    'scale': 5.0,
    'samples': 4,
    'temperature': 0.6,
    'reply_tokens': 99,
    'token_limit_name': 'max_completion_tokens',
    'format': 'schema',
    'concurrency': 32,
    'timeout': 30.0,
    'retries': 9,
    'backoff': 0.2,
    'max_calls': 1000,
    'max_tokens': 10**6,
    'patience': 60.0,
    'cache': str(tmp_path / 'cache'),
  }
  made = _make(
    *LLM,
    f'--judge_prompt={prompt}',
    *(f'--judge_{name}={value}' for name, value in values.items()),
  )
  assert made._settings == llm.Settings(
    **values, template='$fence $thought $scale', run='run'
  )
  assert made._key == 'sk-from-outside'


def test_what_is_left_out_reaches_it():
  assert _make(*LLM, '--judge_omit=temperature,max_tokens')._settings.omit == (
    'temperature',
    'max_tokens',
  )


def test_the_built_in_prompt():
  template = _make(*LLM)._settings.template
  assert template == llm_prompt.DEFAULT.read_text('utf-8')


def test_a_prompt_that_is_not_there():
  with pytest.raises(ValueError, match='--judge_prompt=/nowhere'):
    _make(*LLM, '--judge_prompt=/nowhere')


@pytest.mark.parametrize(
  ('flags', 'share', 'needed'),
  [
    (LLM, 0.9, True),
    ((*LLM, '--min_judged=0.5'), 0.5, True),
    ((*LLM, '--min_judged=0'), 0.0, True),
    ((*LLM, '--gate=none'), 0.9, False),
    # They read the reasoning without a gate.
    ((*LLM, *GATELESS, '--advantage=gdpo'), 0.9, True),
    ((*LLM, *GATELESS, '--advantage=papo', '--correct=1'), 0.9, True),
    # A judge of one's own may have its reasons to give no score.
    (('--judge=tests.helpers.tiny_dataset:judge',), 0.0, True),
    (('--judge=tests.helpers.tiny_dataset:judge', '--min_judged=1'), 1.0, True),
  ],
)
def test_how_long_a_step_waits(flags, share, needed):
  config = _config(*flags, '--judge_patience=7')
  judge = judge_lib.make_judge(config.data.judge, config.judge, run='run')
  with judge_lib.patient(judge, config, print) as patient:
    assert (patient._min_judged, patient._needed) == (share, needed)
    assert patient._patience == 7
  with judge_lib.patient(None, config, print) as patient:
    assert patient is None
