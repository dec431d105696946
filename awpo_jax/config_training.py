"""Flags of training: both phases and their optimizer."""

import dataclasses

from awpo_jax.config_objective import flag
from awpo_jax.ops import mismatch, schedules


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """Supervised fine-tuning on demonstrations."""

  sft_batch: int = flag(32, 'Demonstrations of an update.')
  sft_micro: int = flag(8, 'Demonstrations of a microbatch.')
  sft_learning_rate: float = flag(1e-3, 'Peak learning rate.')
  sft_schedule: str = flag(
    'cosine',
    'Learning rate after the warm-up.',
    schedules.SCHEDULES,
  )
  sft_warmup: int = flag(10, 'Updates of linear warm-up.')


@dataclasses.dataclass(frozen=True)
class RlConfig:
  """Rollouts and the updates on them."""

  prompts_per_step: int = flag(32, 'Prompts of a rollout batch, P.')
  samples: int = flag(8, 'Answers sampled for each prompt, G.')
  rollout_micro: int = flag(
    0,
    'Prompts that each device answers at once; 0: all of its share. They are '
    'judged while the next are answered.',
  )
  slots: int = flag(
    0,
    'Answers that each device samples at once; one that is done makes room for '
    'the next. 0: all of those prompts.',
  )
  slots_shared: int = flag(
    1,
    'Slots that share the keys of one prompt; they take their next answers '
    'when all of them are done.',
  )
  overlap: bool = flag(
    False,
    'Sample the next batch from the parameters before the updates on this one, '
    'and score it while they run: one step off-policy, for --mismatch to '
    'correct.',
  )
  minibatches: int = flag(4, 'Updates on each rollout batch.')
  micro: int = flag(1, 'Prompts of a microbatch; all their answers with them.')
  temperature: float = flag(1.0, 'Of sampler and trainer alike.')
  old_logprobs: str = flag(
    'trainer',
    'Log-probabilities the ratio starts from.',
    mismatch.OLD_LOGPROBS,
  )
  learning_rate: float = flag(1e-6, 'Peak learning rate.')
  schedule: str = flag(
    'constant',
    'Learning rate after the warm-up.',
    schedules.SCHEDULES,
  )
  warmup: int = flag(0, 'Updates of linear warm-up.')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW, for both phases."""

  adam_b1: float = flag(0.9, 'Decay of the first moment.')
  adam_b2: float = flag(0.999, 'Decay of the second moment.')
  adam_eps: float = flag(1e-8, 'Added to the root of the second moment.')
  weight_decay: float = flag(0.0, 'Decoupled weight decay.')
  max_grad_norm: float = flag(1.0, 'Global norm gradients are clipped to.')
  first_moment_dtype: str = flag(
    'float32',
    'Of the first moment; the second is float32, as bfloat16 could not move '
    'by 1 - adam_b2.',
    ('float32', 'bfloat16'),
  )
