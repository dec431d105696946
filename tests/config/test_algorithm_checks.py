"""Parts of algorithms that do not go together are refused by name."""

import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib

GRPO = ('--gate=none', '--difficulty=none', '--clip=fixed')


def _parse(*flags):
  needed = ('--output_dir=run', '--model=model.json', '--rl_steps=2')
  return config_lib.parse([*needed, *GRPO, *flags])


REWARD = ('--kl_placement=reward', '--kl_coef=0.1')
DISCO = ('--loss=disco', '--estimator=sign', '--correct=1')
PER_ROW = '--aggregation=seq-mean-token-mean'
WRONG = {
  # What the sources leave open has no default.
  '--shaper=arm needs --arm_alpha': ['--shaper=arm', '--correct=1'],
  '--shaper=arm needs --correct': ['--shaper=arm', '--arm_alpha=1'],
  '--clip_high=adaptive needs --clip_high_delta': ['--clip_high=adaptive'],
  '--advantage=papo needs --correct': ['--advantage=papo'],
  '--condition=correct needs --correct': [
    *('--condition=correct', '--gate=always', '--trust=none'),
  ],
  '--estimator=sign needs --correct': ['--estimator=sign', '--loss=disco'],
  '--estimator=maxrl needs --correct': ['--estimator=maxrl'],
  '--advantage=sa_mrpo needs --sa_gamma': ['--advantage=sa_mrpo'],
  '--estimator=maxrl knows no gate': [
    *('--estimator=maxrl', '--correct=1', '--gate=ratio'),
  ],
  # Two rewards with their own way.
  '--advantage=gdpo needs one: name a judge': [
    *('--advantage=gdpo', '--judge=none'),
  ],
  '--advantage=gdpo has an estimator of its own': [
    *('--advantage=gdpo', '--estimator=rloo'),
  ],
  '--advantage=gdpo knows no gate': ['--advantage=gdpo', '--gate=ratio'],
  '--advantage=papo knows no difficulty': [
    *('--advantage=papo', '--correct=1', '--difficulty=banded'),
  ],
  '--advantage=gdpo has no gate for --clip=linear': [
    *('--advantage=gdpo', '--clip=linear'),
  ],
  '--estimator=sign knows no gate': [*DISCO, '--gate=ratio'],
  '--advantage=gdpo_parts with --gate=none does not read': [
    *('--advantage=gdpo_parts', '--condition=correct', '--correct=1'),
  ],
  '--advantage=gdpo_parts needs --reward_parts': [
    *('--advantage=gdpo_parts', '--reward_parts='),
  ],
  '--length_buffer=4 lowers the outcome as a whole': [
    *('--advantage=gdpo_parts', '--length_buffer=4'),
  ],
  '--gate=none does not read': ['--condition=correct', '--correct=1'],
  '--condition=correct makes the reasoning agree': [
    *('--condition=correct', '--correct=1'),
    *('--gate=ratio', '--trust=agreement'),
  ],
  # What needs a gate, and its part apart.
  '--reasoning_tokens=thought is about the gate, which --advantage=gdpo': [
    *('--advantage=gdpo', '--reasoning_tokens=thought'),
  ],
  '--gate_level=reward is about the gate, which --advantage=dvao': [
    *('--advantage=dvao', '--gate_level=reward'),
  ],
  'in which --reasoning_tokens=thought finds no part': [
    *('--gate=ratio', '--gate_level=reward', '--reasoning_tokens=thought'),
  ],
  'in which --difficulty_scope=mixed finds no part': [
    *('--gate=ratio', '--gate_level=reward', '--difficulty_scope=mixed'),
  ],
  'their own, which --loss=gspo with --clip_high=factor and --shaper=none': [
    *('--gate=ratio', '--reasoning_tokens=thought', '--loss=gspo', PER_ROW),
  ],
  'with --clip_high=adaptive and --shaper=none does not know': [
    *('--gate=ratio', '--reasoning_tokens=thought'),
    *('--clip_high=adaptive', '--clip_high_delta=0.1'),
  ],
  'with --clip_high=factor and --shaper=egpo does not know': [
    *('--gate=ratio', '--reasoning_tokens=thought', '--shaper=egpo'),
  ],
  # Losses.
  '--loss=ppo and --estimator=sign': ['--estimator=sign', '--correct=1'],
  '--loss=disco and --estimator=grpo': ['--loss=disco'],
  '--loss=sapo has no clip': ['--loss=sapo', '--clip=linear'],
  '--dual_clip=3.0 belongs to --loss=ppo': [
    *('--loss=reinforce', '--dual_clip=3'),
  ],
  '--loss=gspo has one number an answer': ['--loss=gspo'],
  '--loss=gmpo has one number an answer': [
    *('--loss=gmpo', '--aggregation=token-sum'),
  ],
  '--loss=disco bounds a mean over tokens': [*DISCO, PER_ROW],
  'but --loss=disco compares groups': [
    *(*DISCO, '--mismatch=tis', '--old_logprobs=trainer'),
  ],
  '--mismatch=icepop corrects': [
    *('--mismatch=icepop', '--old_logprobs=sampler'),
  ],
  '--mismatch=tis corrects': ['--mismatch=tis', '--old_logprobs=sampler'],
  # KL.
  '--loss=apa holds to the policy': ['--loss=apa', '--kl_coef=0.1'],
  '--kl_placement=reward needs --kl_coef': ['--kl_placement=reward'],
  'changes the reward that --gate=ratio reads': [*REWARD, '--gate=ratio'],
  '--kl_placement=reward needs one graded reward': [
    *(*REWARD, '--advantage=gdpo'),
  ],
  # Tokens.
  'but --estimator=sign has none': [*DISCO, '--shaper=egpo'],
  'but --loss=gmpo is of whole answers': [
    *('--loss=gmpo', PER_ROW, '--entropy_share=0.2'),
  ],
  'which --loss=gspo with --clip_high=factor does not know': [
    *(*REWARD, '--estimator=reinforce_pp', '--loss=gspo', PER_ROW),
  ],
  '--batch_norm=row do not know': [
    *(*REWARD, '--estimator=reinforce_pp', '--batch_norm=row'),
  ],
  'which --loss=ppo with --clip_high=adaptive does not know': [
    *(*REWARD, '--estimator=reinforce_pp'),
    *('--clip_high=adaptive', '--clip_high_delta=0.1'),
  ],
  # Numbers.
  '--eps=0.0': ['--eps=0'],
  '--correct=1.5': ['--correct=1.5'],
  '--entropy_share=0.0': ['--entropy_share=0'],
  '--sampling_rounds=3 looks for groups': [
    *('--sampling_rounds=3', '--estimator=reinforce_pp'),
  ],
  '--sampling_rounds=0': ['--sampling_rounds=0'],
  '--length_buffer=999 is longer': ['--length_buffer=999'],
  '--length_buffer=-1': ['--length_buffer=-1'],
  '--mix_std_floor=-0.1': ['--mix_std_floor=-0.1'],
  '--sapo_tau=1.0: name two': ['--sapo_tau=1'],
  '--sapo_tau=0.0,1.0: each number must be above 0.': ['--sapo_tau=0,1'],
  '--egpo_alpha=nan': ['--egpo_alpha=nan'],
  '--egpo_lambda=-1.0': ['--egpo_lambda=-1'],
  '--mismatch_high=0.0': ['--mismatch_high=0'],
  '--tv_bound=-0.1': ['--tv_bound=-0.1'],
  '--clip_max=1.5 must be below 1 with --loss=ppo': ['--clip_max=1.5'],
  '--clip_max=-1.0: must be above 0.': [
    *('--clip_max=-1', '--loss=cispo'),
  ],
}


@pytest.mark.parametrize('named', WRONG)
def test_what_makes_no_sense_is_refused_by_name(named):
  with pytest.raises(flags_lib.ConfigError) as raised:
    _parse(*WRONG[named])
  assert named in str(raised.value)
  # Nothing else is wrong with it.
  assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
  'flags',
  [
    # Any estimator under AWPO's gate, weight and clip.
    ['--gate=ratio', '--difficulty=banded', '--estimator=opo'],
    ['--loss=gspo', PER_ROW, '--clip=linear', '--clip_min=1e-4'],
    ['--loss=cispo', '--clip_max=10', '--clip_high_factor=0.02'],
    ['--loss=apa', '--mismatch=tis', '--mismatch_level=row'],
    ['--advantage=gdpo', '--loss=sapo', '--shaper=egpo'],
    ['--advantage=gdpo_parts', '--judge=none'],
    [*REWARD, '--estimator=rloo', '--kl_estimator=k1'],
    [*REWARD, '--estimator=reinforce_pp', '--empty_groups=drop'],
    [*DISCO, '--unfinished=drop', '--sampling_rounds=4'],
    ['--mismatch=tis', '--mismatch_level=row', '--parallelism=sharded'],
    ['--mismatch=tis', '--loss=gspo', PER_ROW],
    # What belongs to a phase that the run does not have does not matter.
    ['--loss=disco', '--rl_steps=0', '--sft_steps=1'],
  ],
)
def test_what_goes_together_is_let_through(flags):
  _parse(*flags)
