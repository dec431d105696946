"""Flags of both phases of training, and of their optimizer."""

import dataclasses
from collections.abc import Callable, Mapping

import optax

from awpo_jax.config.flags import flag
from awpo_jax.ops import surrogate

# (peak, updates that are left after the warm-up) -> learning rate by update.
SCHEDULES: Mapping[str, Callable[[float, int], optax.Schedule]] = {
  'constant': lambda peak, updates: optax.constant_schedule(peak),
  'linear': lambda peak, updates: optax.linear_schedule(peak, 0.0, updates),
  'cosine': optax.cosine_decay_schedule,
}


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """Supervised fine-tuning on demonstrations."""

  sft_batch: int = flag(
    32,
    'Demonstrations of an update. More of them make its gradient less noisy '
    'and the step slower.',
    minimum=1,
  )
  sft_micro: int = flag(
    8,
    'Demonstrations of a microbatch, of which --sft_batch is a multiple. Lower '
    'it if updates run out of memory; no result depends on it.',
    minimum=1,
  )
  sft_learning_rate: float = flag(
    1e-3,
    'Peak learning rate. The default suits the bundled models of 1 M '
    'parameters; larger models take less.',
    minimum=0,
  )
  sft_schedule: str = flag(
    'cosine',
    'Learning rate after the warm-up: constant, or falling to 0 along a line '
    'or a cosine.',
    SCHEDULES,
  )
  sft_warmup: int = flag(
    10,
    'Updates in which the learning rate rises linearly to its peak.',
    minimum=0,
  )


@dataclasses.dataclass(frozen=True)
class RlConfig:
  """Rollouts and the updates on them."""

  prompts_per_step: int = flag(
    32,
    'Prompts of a rollout batch, P. More of them make an update less noisy and '
    'the step slower.',
    minimum=1,
  )
  samples: int = flag(
    8,
    'Answers sampled for each prompt, G. They are compared with each other, so '
    'two are needed. Raise it if few groups have an advantage.',
    minimum=2,
  )
  rollout_micro: int = flag(
    0,
    'Prompts that each device answers at once; their answers are judged while '
    'the next are sampled. 0 takes all prompts of the device. Lower it if '
    'sampling runs out of memory.',
    minimum=0,
  )
  slots: int = flag(
    0,
    'Answers that each device samples at once; where one is finished the next '
    'begins. 0 samples all answers of --rollout_micro together. Set it if '
    'answers differ much in length.',
    minimum=0,
  )
  slots_shared: int = flag(
    1,
    'Number of --slots that share the keys of one prompt. They take their next '
    'answers when all of them are finished.',
    minimum=1,
  )
  minibatches: int = flag(
    4,
    'Updates on each rollout batch. With one no clip radius matters, as every '
    'ratio is 1; with more the policy moves further on the same answers.',
    minimum=1,
  )
  micro: int = flag(
    1,
    'Prompts of a microbatch, with all their answers. Raise it for speed, '
    'lower it if updates run out of memory; no result depends on it.',
    minimum=1,
  )
  temperature: float = flag(
    1.0,
    'Sampling temperature, which also divides the logits in the trainer. Lower '
    'it if answers are mostly noise, raise it if they are all alike.',
    above=0,
  )
  old_logprobs: str = flag(
    'auto',
    'Log-probabilities from which the ratio starts. trainer computes them once '
    'more before the updates, so that ratios begin at exactly 1; sampler takes '
    'those of sampling, which saves a forward pass. auto is sampler where both '
    'agree up to rounding, in float32 on a CPU without --mismatch, and trainer '
    'elsewhere; the flags that a run keeps say which.',
    ('auto', *surrogate.OLD_LOGPROBS),
  )
  # 0 is the control in which sampling alone makes the numbers move.
  learning_rate: float = flag(
    1e-6,
    'Peak learning rate. The default suits models of billions of parameters; '
    'small models take more.',
    minimum=0,
  )
  schedule: str = flag(
    'constant',
    'Learning rate after the warm-up: constant, or falling to 0 along a line '
    'or a cosine.',
    SCHEDULES,
  )
  warmup: int = flag(
    0,
    'Updates in which the learning rate rises linearly to its peak.',
    minimum=0,
  )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW, for both phases."""

  adam_b1: float = flag(
    0.9,
    "Decay of AdamW's first moment. It is rarely changed.",
    minimum=0,
    below=1,
  )
  adam_b2: float = flag(
    0.999,
    "Decay of AdamW's second moment. Lower it if gradients change in size "
    'during the run.',
    minimum=0,
    below=1,
  )
  adam_eps: float = flag(
    1e-8,
    "Number added to the root of AdamW's second moment. It is rarely changed.",
    above=0,
  )
  weight_decay: float = flag(
    0.0,
    'Decoupled weight decay: the share of a weight, times the learning rate, '
    'that an update takes away. RL is mostly done without.',
    minimum=0,
  )
  max_grad_norm: float = flag(
    1.0,
    'Global norm to which gradients are clipped. Lower it if the loss jumps; a '
    'large number turns clipping off.',
    above=0,
  )
  first_moment_dtype: str = flag(
    'float32',
    'Number format of the first moment; bfloat16 halves its memory. The second '
    'moment is always float32, as bfloat16 is too coarse for it.',
    ('float32', 'bfloat16'),
  )
