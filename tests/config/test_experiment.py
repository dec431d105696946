"""Flags are the fields: nothing is named twice, nothing wrong gets through."""

import dataclasses
import re
from unittest import mock

import pytest
from absl import flags as absl_flags

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.config import phases
from awpo_jax.models import attention_kernels
from awpo_jax.ops import (
  advantages,
  aggregation,
  awpo,
  clipping,
  difficulty,
  estimators,
  gates,
  policy_losses,
  rivals,
  surrogate,
  trust,
)
from awpo_jax.rollout.environments import episode_rewards
from awpo_jax.rollout.text import chat_template, prompts

LLM = ('--judge=llm', '--judge_url=http://here:8000/v1', '--judge_model=m')
NEEDED = ('--output_dir=run', '--model=model.json', '--rl_steps=2')


def _parse(*flags):
  return config_lib.parse([*NEEDED, *flags])


def _fields():
  return [
    field
    for section in config_lib.sections().values()
    for field in dataclasses.fields(section)
  ]


def test_every_field_is_a_flag_with_its_default():
  values = absl_flags.FlagValues()
  config_lib.define_flags(values)
  names = [field.name for field in _fields()]
  assert len(names) == len(set(names))
  assert set(names) == set(config_lib.to_dict(config_lib.Config()))
  for field in _fields():
    flag = values[field.name]
    default = flag.default
    if isinstance(field.default, tuple):
      # Absl has lists of strings.
      default = tuple(type(field.default[0])(x) for x in default)
    assert default == field.default, field.name
    assert field.metadata['help'] in flag.help


def test_help_is_sentences():
  for field in _fields():
    text = field.metadata['help']
    assert re.fullmatch(r'[A-Z].* .*\.', text), f'--{field.name}: {text}'


def test_a_rollout_batch_is_trained_on_four_times_by_default():
  assert _parse().rl.minibatches == 4


def test_choices_are_the_keys_of_the_functions():
  choices = {field.name: field.metadata['choices'] for field in _fields()}
  for name, table in {
    'reward_scale': awpo.REWARD_SCALES,
    'mix': awpo.MIXES,
    'mix_advantage': awpo.MIX_ADVANTAGES,
    'gate': gates.GATES,
    'trust': trust.TRUSTS,
    'tau_of': gates.TAUS,
    'saturation': gates.SATURATIONS,
    'gate_level': awpo.GATE_LEVELS,
    'reasoning_tokens': awpo.REASONING_TOKENS,
    'clip_scope': clipping.CLIP_SCOPES,
    'difficulty': difficulty.DIFFICULTIES,
    'difficulty_of': difficulty.SOLVE_RATES,
    'difficulty_norm': difficulty.DIFFICULTY_NORMS,
    'difficulty_scope': awpo.COMBINATIONS['convex'],
    'combine': awpo.COMBINATIONS,
    'clip': clipping.CLIPS,
    'enable_thinking': chat_template.THINKING,
    'aggregation': aggregation.AGGREGATIONS,
    'kl_estimator': surrogate.KL_ESTIMATORS,
    'episode_reward': episode_rewards.EPISODE_REWARDS,
    'advantage': advantages.ADVANTAGES,
    'condition': advantages.CONDITIONS,
    'estimator': estimators.ESTIMATORS,
    'saw_on': rivals.SAW_ON,
    'batch_norm': estimators.BATCH_NORMS,
    'shaper': advantages.SHAPERS,
    'empty_groups': aggregation.EMPTY_GROUPS,
    'unfinished': aggregation.UNFINISHED,
    'loss': policy_losses.LOSSES,
    'disco_score': policy_losses.SCORES,
    'clip_high': clipping.CLIP_HIGHS,
    'mismatch': surrogate.MISMATCHES,
    'mismatch_level': surrogate.LEVELS,
    'old_logprobs': ('auto', *surrogate.OLD_LOGPROBS),
    'schedule': phases.SCHEDULES,
    'sft_schedule': phases.SCHEDULES,
    'overlong': prompts.OVERLONG,
    'attention': attention_kernels.KERNELS,
    'decode_attention': attention_kernels.DECODE_KERNELS,
  }.items():
    assert tuple(choices[name]) == tuple(table), name
  want = {'none', 'ratio', 'share', 'binary', 'always'}
  assert want == set(choices['gate'])


# One value other than the default for every flag.
OTHERS = {
  'output_dir': 'elsewhere',
  'cpu_devices': 2,
  'parallelism': 'sharded',
  'mesh': 'data:2,model:1',
  'distributed': 'flags',
  'coordinator': 'localhost:1234',
  'processes': 4,
  'process_id': 3,
  'seed': 3,
  'init_from': 'old',
  'sft_steps': 5,
  'rl_steps': 6,
  'eval_every': 7,
  'eval_at_start': False,
  'eval_tasks': 8,
  'bad_rows': 'skip',
  'eval_benchmarks': ('bfcl', 'apibank'),
  'eval_data': 'benchmarks',
  'eval_batch': 9,
  'eval_temperature': 0.5,
  'checkpoint_every': 10,
  'keep_checkpoints': 11,
  'best_metric': 'eval/x/accuracy',
  'transcripts': 12,
  'archive': True,
  'profile_steps': (2, 4),
  'wandb_project': 'w',
  'trackio_project': 't',
  'compilation_cache': '',
  'dry_run': 'here',
  'dataset': 'rlla,seal_tools',
  'data': 'a,b',
  'tokenizer': 'tok',
  'vocab_size': 500,
  'prompt_buckets': (64, 96),
  'response_buckets': (4, 8, 16),
  'max_prompt_tokens': 60,
  'max_answer_tokens': 7,
  'overlong': 'drop',
  'prompt_style': 'template',
  'enable_thinking': 'false',
  'template_date': '2025-02-05',
  'reward': 'a.b:c',
  'judge': 'd.e:f',
  'judge_url': 'https://there/v1',
  'judge_model': 'm',
  'judge_prompt': 'prompt.txt',
  'judge_scale': 5.0,
  'judge_samples': 4,
  'judge_temperature': 0.6,
  'judge_reply_tokens': 99,
  'judge_token_limit_name': 'max_completion_tokens',
  'judge_format': 'schema',
  'judge_omit': ('max_completion_tokens',),
  'judge_concurrency': 32,
  'judge_timeout': 30.0,
  'judge_retries': 9,
  'judge_backoff': 0.2,
  'judge_max_calls': 1000,
  'judge_max_tokens': 10**6,
  'judge_cache': '',
  'judge_noise': 0.5,
  'judge_against': 0.25,
  'judge_vain': 0.125,
  'min_judged': 0.75,
  'judge_patience': 60.0,
  'environment': 'g.h:i',
  'max_turns': 3,
  'observation_tokens': 12,
  'episode_reward': 'turns',
  'tool_seconds': 0.5,
  'tool_megabytes': 64,
  'tool_chars': 100,
  'tool_workers': 4,
  'model': 'other.json',
  'init_weights': 'induction',
  'dtype': 'bfloat16',
  'param_dtype': 'bfloat16',
  'lora_rank': 8,
  'lora_alpha': 16.0,
  'lora_targets': ('v_proj', 'q_proj'),
  'logprob_chunk': 13,
  'pack_tokens': 128,
  'remat': 'blocks',
  'attention': 'xla',
  'decode_attention': 'cudnn',
  'sft_batch': 14,
  'sft_micro': 7,
  'sft_learning_rate': 1e-5,
  'sft_schedule': 'linear',
  'sft_warmup': 1,
  'prompts_per_step': 24,
  'samples': 5,
  'rollout_micro': 8,
  'slots': 10,
  'slots_shared': 5,
  'minibatches': 3,
  'micro': 2,
  'temperature': 0.7,
  'old_logprobs': 'sampler',
  'learning_rate': 3e-7,
  'schedule': 'cosine',
  'warmup': 4,
  'adam_b1': 0.8,
  'adam_b2': 0.95,
  'adam_eps': 1e-15,
  'weight_decay': 0.1,
  'max_grad_norm': 0.3,
  'first_moment_dtype': 'bfloat16',
  'reward_scale': 'unit',
  'mix': 'convex',
  'mix_weight': 0.25,
  'mix_advantage': 'reasoning',
  'mix_std_floor': 0.1,
  'ddof': 0,
  'gate': 'binary',
  'tau': 0.1,
  'trust': 'confident',
  'trust_prior': 2.0,
  'trust_kappa': 0.3,
  'saturation': 'solved',
  'difficulty': 'parabola',
  'difficulty_of': 'solved',
  'difficulty_norm': 'mean',
  'band': (0.1, 0.3),
  'base': 0.5,
  'priority': 2.5,
  'floor': 0.05,
  'difficulty_scope': 'mixed',
  'combine': 'additive',
  'gate_level': 'reward',
  'reasoning_tokens': 'thought',
  'tau_of': 'share',
  'trust_start': 0.1,
  'clip_scope': 'group',
  'clip': 'harmonic',
  'clip_min': 0.05,
  'clip_max': 0.3,
  'clip_high_factor': 1.4,
  'dual_clip': 3.0,
  'aggregation': 'seq-mean-token-mean',
  'entropy_coef': 0.001,
  'kl_coef': 0.01,
  'kl_estimator': 'k2',
  'kl_placement': 'reward',
  'mismatch': 'tis',
  'mismatch_level': 'row',
  'mismatch_low': 0.25,
  'mismatch_high': 3.0,
  'clip_high': 'adaptive',
  'clip_high_delta': 0.05,
  'loss': 'sapo',
  'advantage': 'gdpo',
  'estimator': 'rloo',
  'batch_norm': 'row',
  'eps': 1e-4,
  'correct': 0.5,
  'condition': 'correct',
  'gd2po_tau': 0.2,
  'saw_on': 'advantages',
  'sa_gamma': 2.0,
  'reward_parts': ('solved',),
  'length_buffer': 4,
  'length_penalty': 0.5,
  'shaper': 'egpo',
  'egpo_lambda': 0.3,
  'egpo_alpha': 3.0,
  'arm_alpha': 0.7,
  'empty_groups': 'drop',
  'sampling_rounds': 2,
  'unfinished': 'drop',
  'entropy_share': 0.9,
  'sapo_tau': (1.0, 2.0),
  'tv_bound': 0.1,
  'tv_max_ratio': 10.0,
  'apa_lambda': 0.3,
  'disco_score': 'ratio',
  'disco_tau': 1.0,
  'disco_beta': 100.0,
  'disco_delta': 1e-3,
}


def unchecked(flags):
  """Parses values that contradict each other, as all of `OTHERS` do.

  What goes with which is the matter of `tests/config/test_algorithm_checks.py`.
  """
  with mock.patch.object(config_lib, 'check', lambda config: None):
    return config_lib.parse(flags)


def as_flag(name, value):
  text = ','.join(map(str, value)) if isinstance(value, tuple) else value
  return f'--{name}={text}'


def test_every_flag_is_read_and_survives_the_flags_file(tmp_path):
  defaults = config_lib.to_dict(config_lib.Config())
  assert OTHERS.keys() == defaults.keys()
  assert not [name for name in OTHERS if OTHERS[name] == defaults[name]]
  config = unchecked([as_flag(*item) for item in OTHERS.items()])
  assert config_lib.to_dict(config) == OTHERS
  file = tmp_path / 'run.flags'
  file.write_text(config_lib.to_flagfile(config))
  assert unchecked([f'--flagfile={file}']) == config


def test_the_defaults_survive_the_flags_file(tmp_path):
  config = _parse()
  assert config.numbers.dual_clip is None and config.run.profile_steps == ()
  file = tmp_path / 'run.flags'
  file.write_text(config_lib.to_flagfile(config))
  assert config_lib.parse([f'--flagfile={file}']) == config


@pytest.mark.parametrize(
  ('flag', 'error', 'named'),
  [
    ('--no_such_flag=1', absl_flags.Error, 'no_such_flag'),
    ('--samples=four', absl_flags.Error, 'samples'),
    ('--samples=2.5', absl_flags.Error, 'samples'),
    ('--learning_rate=fast', absl_flags.Error, 'learning_rate'),
    ('--gate=wide', absl_flags.Error, 'gate'),
    ('--dtype=float99', absl_flags.Error, '--dtype=float99'),
    ('--param_dtype=int32', absl_flags.Error, '--param_dtype=int32'),
    ('--prompt_buckets=64,wide', flags_lib.ConfigError, '--prompt_buckets'),
    ('--band=low,high', flags_lib.ConfigError, '--band'),
    ('stray', flags_lib.ConfigError, 'stray'),
  ],
)
def test_what_is_no_flag_or_no_value(flag, error, named):
  with pytest.raises(error, match=named):
    _parse(flag)


WRONG = {
  '--template_date=yesterday': ['--template_date=yesterday'],
  '--template_date=2025-02-30': ['--template_date=2025-02-30'],
  # Python would read it, a person perhaps as the 2nd of May.
  '--template_date=20250205': ['--template_date=20250205'],
  '--output_dir': ['--output_dir='],
  '--model': ['--model='],
  '--init_weights=pretrained': ['--init_weights=pretrained', '--init_from=a'],
  '--sft_steps and --rl_steps': ['--rl_steps=0'],
  'both 0, so there is': [
    '--rl_steps=0',
    '--model=pretrained',
    '--init_weights=normal',
  ],
  'are both 0': ['--rl_steps=0', '--model=pretrained', '--dry_run=here'],
  '--eval_at_start=false: leave': [
    '--rl_steps=0',
    '--model=pretrained',
    '--eval_at_start=false',
  ],
  '--sft_steps=-1': ['--sft_steps=-1'],
  '--rl_steps=-2': ['--rl_steps=-2', '--sft_steps=9'],
  '--pack_tokens=-1': ['--pack_tokens=-1'],
  '--seed=-1': ['--seed=-1'],
  # The key of the draws is made of 32 bits, one of them a sign.
  '--seed=2147483648': ['--seed=2147483648'],
  '--eval_every=-1': ['--eval_every=-1'],
  '--transcripts=-1': ['--transcripts=-1'],
  '--warmup=-1': ['--warmup=-1'],
  '--sft_warmup=-1': ['--sft_warmup=-1'],
  '--cpu_devices=0': ['--cpu_devices=0'],
  '--eval_tasks=0': ['--eval_tasks=0'],
  '--eval_batch=0': ['--eval_batch=0'],
  '--checkpoint_every=0': ['--checkpoint_every=0'],
  '--keep_checkpoints=0': ['--keep_checkpoints=0'],
  '--sft_batch=0': ['--sft_batch=0'],
  '--sft_micro=0': ['--sft_micro=0', '--sft_steps=1'],
  '--prompts_per_step=0': ['--prompts_per_step=0'],
  '--minibatches=0': ['--minibatches=0'],
  '--micro=0': ['--micro=0'],
  '--logprob_chunk=0': ['--logprob_chunk=0'],
  '--prompt_buckets=64,32': ['--prompt_buckets=64,32'],
  '--prompt_buckets=: name': ['--prompt_buckets='],
  '--response_buckets=1,8: each number must be at least 2.': [
    '--response_buckets=1,8'
  ],
  '--response_buckets=8,8': ['--response_buckets=8,8'],
  '--dtype=float16 turns small gradients into 0': ['--dtype=float16'],
  '--profile_steps=3': ['--profile_steps=3'],
  '--profile_steps=4,3: ': ['--profile_steps=4,3', '--rl_steps=4'],
  # Steps count from 1, and there are two.
  '--profile_steps=0,1: ': ['--profile_steps=0,1'],
  '--profile_steps=2,3: ': ['--profile_steps=2,3'],
  '--sft_micro=3': ['--sft_steps=1', '--sft_batch=8', '--sft_micro=3'],
  '--minibatches=3': ['--prompts_per_step=8', '--minibatches=3'],
  '--micro=3': ['--prompts_per_step=8', '--minibatches=2', '--micro=3'],
  '--rollout_micro=3': ['--prompts_per_step=8', '--rollout_micro=3'],
  '--rollout_micro=-1': ['--rollout_micro=-1'],
  '--slots=-1': ['--slots=-1'],
  '--slots_shared=0': ['--slots_shared=0'],
  '--slots_shared=2': ['--slots_shared=2'],
  '--slots=6': ['--samples=4', '--slots=6', '--slots_shared=4'],
  '--samples=4': ['--samples=4', '--slots=6', '--slots_shared=3'],
  'leave --slots at 0': [
    '--slots=4',
    '--environment=quickstart',
    '--response_buckets=512',
  ],
  '--decode_attention=xla is for answers that are sampled together, without '
  '--slots=4': ['--decode_attention=xla', '--slots=4'],
  '--decode_attention=cudnn is for answers that are sampled together, without '
  '--environment=quickstart': [
    '--decode_attention=cudnn',
    '--environment=quickstart',
    '--response_buckets=512',
  ],
  '--samples=1': ['--samples=1'],
  '--temperature=0.0': ['--temperature=0'],
  '--judge=none': ['--judge=none'],
  '--judge_omit=seed: only temperature and max_tokens': [
    *(*LLM, '--judge_omit=seed'),
  ],
  '--judge_omit=max_tokens: only temperature and max_completion_tokens': [
    *(*LLM, '--judge_omit=max_tokens'),
    '--judge_token_limit_name=max_completion_tokens',
  ],
  '--judge_omit=temperature does not send --judge_temperature=0.5': [
    *(*LLM, '--judge_omit=temperature', '--judge_temperature=0.5'),
  ],
  '--judge_noise, --judge_against and --judge_vain sum to 1.1': [
    *('--judge_noise=.5', '--judge_against=.3', '--judge_vain=.3'),
  ],
  '--judge=none has no scores that --judge_noise': [
    *('--judge=none', '--gate=none', '--judge_vain=.3'),
  ],
  'set --judge_url': [*LLM, '--judge_url='],
  'set --judge_model': [*LLM, '--judge_model='],
  '--judge_url is no plain http address': [*LLM, '--judge_url=here:8000/v1'],
  'AWPO_JUDGE_API_KEY': [*LLM, '--judge_url=https://me:key@here/v1'],
  'the environment': [*LLM, '--judge_url=https://here/v1?key=secret'],
  '--judge_scale=0.0': [*LLM, '--judge_scale=0'],
  '--judge_timeout=nan': [*LLM, '--judge_timeout=nan'],
  '--judge_backoff=-1.0': [*LLM, '--judge_backoff=-1'],
  '--judge_temperature=-1.0': [*LLM, '--judge_temperature=-1'],
  '--judge_samples=3 gives equal replies': [*LLM, '--judge_samples=3'],
  '--judge_samples=0': ['--judge_samples=0'],
  '--judge_concurrency=0': ['--judge_concurrency=0'],
  '--judge_reply_tokens=0': ['--judge_reply_tokens=0'],
  '--judge_retries=-1': ['--judge_retries=-1'],
  '--judge_max_calls=-1': ['--judge_max_calls=-1'],
  '--judge_max_tokens=-1': ['--judge_max_tokens=-1'],
  '--judge_patience=nan': ['--judge_patience=nan'],
  '--min_judged=1.5': ['--min_judged=1.5'],
  '--min_judged=nan': ['--min_judged=nan'],
  '--mix_weight': ['--mix=convex'],
  '--ddof=2': ['--ddof=2'],
  '--band=0.8,0.2': ['--band=0.8,0.2'],
  '--band=0.5': ['--band=0.5'],
  '--clip_min=0.3': ['--clip_min=0.3'],
  '--clip_max=1.0': ['--clip_max=1'],
  '--clip_min=0.0': ['--clip_min=0'],
  '--dual_clip=1.0': ['--dual_clip=1'],
  '--sft_learning_rate=nan': ['--sft_learning_rate=nan', '--sft_steps=1'],
  '--learning_rate=nan': ['--learning_rate=nan'],
  '--learning_rate=-0.1': ['--learning_rate=-0.1'],
  '--temperature=nan': ['--temperature=nan'],
  '--temperature=inf': ['--temperature=inf'],
  '--adam_b1=-0.1': ['--adam_b1=-0.1'],
  '--adam_b2=2.0': ['--adam_b2=2'],
  '--adam_b2=1.0': ['--adam_b2=1'],
  '--adam_eps=0.0': ['--adam_eps=0'],
  '--weight_decay=-1.0': ['--weight_decay=-1'],
  '--max_grad_norm=-1.0': ['--max_grad_norm=-1'],
  '--max_grad_norm=inf': ['--max_grad_norm=inf'],
  '--mix_weight=-1.0': ['--mix_weight=-1'],
  '--mix_weight=nan': ['--mix=convex', '--mix_weight=nan'],
  '--mix_weight strictly between 0 and 1, not 0': [
    '--mix=convex',
    '--mix_weight=0',
  ],
  # A range holds whether the run uses the flag or not.
  '--lora_alpha=-1.0': ['--lora_alpha=-1'],
  '--tau=-2.0': ['--tau=-2', '--rl_steps=0', '--sft_steps=1'],
  '--sft_learning_rate=inf': ['--sft_learning_rate=inf'],
  '--tau=-1.0': ['--tau=-1'],
  '--band=nan,0.8': ['--band=nan,0.8'],
  '--band=0.2,80.0': ['--band=0.2,80'],
  '--base=nan': ['--base=nan'],
  '--priority=inf': ['--priority=inf'],
  '--floor=-0.5': ['--floor=-0.5'],
  '--clip_min=nan': ['--clip_min=nan'],
  '--clip_high_factor=-3.0': ['--clip_high_factor=-3'],
  '--dual_clip=nan': ['--dual_clip=nan'],
  '--entropy_coef=inf': ['--entropy_coef=inf'],
  '--lora_rank=-1': ['--lora_rank=-1'],
  '--lora_alpha=0.0': ['--lora_rank=1', '--lora_alpha=0'],
  '--lora_targets=q_proj,head': ['--lora_rank=1', '--lora_targets=q_proj,head'],
  '--lora_targets=q_proj,q_proj': [
    '--lora_rank=1',
    '--lora_targets=q_proj,q_proj',
  ],
  '--lora_rank=0 for no adapters': ['--lora_rank=1', '--lora_targets='],
  '--kl_coef=-1.0': ['--kl_coef=-1'],
  '--kl_coef=nan': ['--kl_coef=nan'],
  '--kl_coef=0.1 is a term of RL': [
    '--kl_coef=0.1',
    '--rl_steps=0',
    '--sft_steps=1',
  ],
  '--kl_estimator=k1': ['--kl_coef=0.1', '--kl_estimator=k1'],
}


@pytest.mark.parametrize('named', WRONG)
def test_what_cannot_work_is_refused_with_the_flag_named(named):
  with pytest.raises(flags_lib.ConfigError) as raised:
    _parse(*WRONG[named])
  assert named in str(raised.value)
  # Nothing else is wrong with it.
  assert len(str(raised.value).splitlines()) == 1


def test_all_problems_are_told_at_once():
  with pytest.raises(flags_lib.ConfigError) as raised:
    _parse('--samples=1', '--ddof=7', '--output_dir=')
  assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize(
  'flags',
  [
    ['--judge=none', '--gate=none'],
    [*LLM, '--judge_url=https://here', '--min_judged=1', '--judge_patience=0'],
    [*LLM, '--judge_samples=3', '--judge_temperature=1', '--judge_backoff=0'],
    # Nothing is asked of what another judge does not need.
    ['--judge_samples=3', '--judge_url=nonsense'],
    ['--mix=convex', '--mix_weight=0.5'],
    # What belongs to a phase that the run does not have does not matter.
    ['--rl_steps=0', '--sft_steps=1', '--clip_max=2', '--judge=none'],
    ['--sft_batch=8', '--sft_micro=3'],
    # The ends of what is allowed.
    ['--seed=2147483647', '--profile_steps=1,2', '--band=0,1'],
    ['--learning_rate=0', '--entropy_coef=0', '--adam_b1=0', '--floor=0'],
    ['--dtype=bfloat16', '--param_dtype=float16'],
    ['--lora_rank=1', '--lora_targets=up_proj', '--kl_coef=0.1'],
    # Without adapters and a KL term their flags need not fit together.
    ['--lora_targets=head', '--kl_estimator=k1'],
  ],
)
def test_what_works_is_let_through(flags):
  _parse(*flags)


def test_which_flags_a_run_may_change():
  config = _parse('--seed=1', '--band=0.1,0.9')
  old = config_lib.to_json(config)
  assert config_lib.differences(old, config) == []
  changed = _parse(
    '--seed=2',
    '--band=0.2,0.9',
    '--keep_checkpoints=9',
    # The endpoint has moved.
    '--judge_url=http://there/v1',
    '--judge_patience=9',
    '--decode_attention=cudnn',
  )
  assert config_lib.differences(old, changed) == [
    '--seed: 1 then, 2 now',
    '--band: [0.1, 0.9] then, [0.2, 0.9] now',
  ]
  # Of flags that are gone those are told that had changed the numbers.
  assert config_lib.differences(old | {'overlap': False}, config) == []
  (told,) = config_lib.differences(old | {'overlap': True}, config)
  assert told.startswith('--overlap: True then, and no such flag now')
  # A run that is older than trust had none, whatever the default is now.
  older = {name: value for name, value in old.items() if name != 'trust'}
  assert config_lib.differences(older, config) == [
    "--trust: 'none' then, 'agreement' now"
  ]


@pytest.mark.parametrize(
  ('flags', 'platform', 'want'),
  [
    ((), 'cpu', 'sampler'),
    (('--temperature=0.7', '--lora_rank=4'), 'cpu', 'sampler'),
    (('--param_dtype=bfloat16',), 'cpu', 'sampler'),
    # Float32 products of accelerators are of fewer bits.
    ((), 'gpu', 'trainer'),
    ((), 'cuda', 'trainer'),
    ((), 'tpu', 'trainer'),
    (('--dtype=bfloat16',), 'cpu', 'trainer'),
    (('--mismatch=tis',), 'cpu', 'trainer'),
    (('--mismatch=icepop',), 'cpu', 'trainer'),
    # What is said is done.
    (('--old_logprobs=trainer',), 'cpu', 'trainer'),
    (('--old_logprobs=sampler',), 'gpu', 'sampler'),
    (('--old_logprobs=sampler', '--dtype=bfloat16'), 'cpu', 'sampler'),
  ],
)
def test_auto_takes_the_samplers_where_both_agree(flags, platform, want):
  config = _parse(*flags)
  settled = config_lib.settled(config, platform)
  assert settled.rl.old_logprobs == want
  # Nothing else changes, and it is settled once.
  rl = dataclasses.replace(settled.rl, old_logprobs=config.rl.old_logprobs)
  assert dataclasses.replace(settled, rl=rl) == config
  assert config_lib.settled(settled, 'other') == settled


@pytest.mark.parametrize(
  ('flag', 'began', 'want'),
  [
    ('auto', {'old_logprobs': 'trainer'}, 'trainer'),
    ('auto', {'old_logprobs': 'sampler'}, 'sampler'),
    ('auto', {'old_logprobs': 'no such'}, 'sampler'),
    ('auto', {}, 'sampler'),
    ('trainer', {'old_logprobs': 'sampler'}, 'trainer'),
  ],
)
def test_a_run_that_goes_on_keeps_what_it_began_with(flag, began, want):
  config = _parse(f'--old_logprobs={flag}')
  assert config_lib.settled(config, 'cpu', began).rl.old_logprobs == want
