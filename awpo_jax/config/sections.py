"""Flags of devices and processes: where a run is computed, not what."""

import dataclasses

from awpo_jax.config import flags
from awpo_jax.config.flags import flag
from awpo_jax.models import attention_kernels, induction_init, lora_layers
from awpo_jax.models import config as model_config
from awpo_jax.ops import off_policy, schedules
from awpo_jax.rollout.environments import episode_rewards
from awpo_jax.rollout.text import prompts, templates


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """The run: where it writes, how long it goes, what it keeps."""

  output_dir: str = flags.flag(
    '', 'Folder of the run; an unfinished one goes on.'
  )
  seed: int = flags.flag(0, 'Fixes data, initial weights and every draw.')
  init_from: str = flags.flag(
    '', 'Run or checkpoint whose parameters a new run starts from.'
  )
  sft_steps: int = flags.flag(0, 'Updates on demonstrations, before any RL.')
  rl_steps: int = flags.flag(0, 'Rollout batches to train on.')
  eval_every: int = flags.flag(
    0, 'Steps between evaluations; 0 evaluates where a phase ends.'
  )
  eval_tasks: int = flags.flag(
    256, 'Held-out tasks of each evaluation set at most.'
  )
  eval_benchmarks: tuple[str, ...] = flags.flag(
    (),
    'Benchmarks (bfcl, apibank, mmlu_pro) that are evaluated, too: of each the '
    'same --eval_tasks rows every time.',
  )
  eval_data: str = flags.flag(
    '', 'Folder of their rows, or one that holds a folder for each.'
  )
  eval_batch: int = flags.flag(64, 'Prompts answered at once when evaluating.')
  checkpoint_every: int = flags.flag(50, 'Steps between checkpoints.')
  keep_checkpoints: int = flags.flag(2, 'Last checkpoints that stay.')
  best_metric: str = flags.flag(
    '', 'Metric whose best checkpoint stays too: eval/held_out/accuracy, say.'
  )
  transcripts: int = flags.flag(
    2, 'Groups of each rollout kept as transcripts.'
  )
  archive: bool = flags.flag(
    False, 'Keep every rollout, in <output_dir>/archive.'
  )
  profile_steps: tuple[int, ...] = flags.flag(
    (), 'First and last step that jax.profiler traces, e.g. 20,22.'
  )
  wandb_project: str = flags.flag(
    '', 'Also log to this Weights & Biases project.'
  )
  compilation_cache: str = flags.flag(
    '~/.cache/awpo_jax/xla', 'Folder of compiled programs; empty for none.'
  )
  dry_run: str = flags.flag(
    '',
    'Compile for these devices, print what the run needs of their memory, and '
    'end: here, h100, or h100:8 for eight.',
  )


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Prompts, tokenizer and rewards."""

  dataset: str = flags.flag(
    'quickstart',
    'Names joined by commas (quickstart, rlla, seal_tools), or '
    'package.module:function.',
  )
  data: str = flags.flag(
    '', 'Folder or file of each data set, joined by commas.'
  )
  bad_rows: str = flags.flag(
    'error', 'A bad row is refused, or left out and said.', ('error', 'skip')
  )
  tokenizer: str = flags.flag(
    '',
    'Hugging Face tokenizer, path or name; empty: that of --model where its '
    'weights are loaded, else one is trained on the data.',
  )
  vocab_size: int = flags.flag(1024, 'Tokens of the tokenizer that is trained.')
  prompt_buckets: tuple[int, ...] = flags.flag(
    (512,), 'Prompt lengths that programs are compiled for.'
  )
  response_buckets: tuple[int, ...] = flags.flag(
    (128,), 'Completion lengths likewise; the last is the longest answer.'
  )
  overlong: str = flags.flag(
    'error',
    'A prompt longer than the last bucket: refuse it, drop it and say so, or '
    'cut it on the left.',
    prompts.OVERLONG,
  )
  prompt_style: str = flags.flag(
    'rlla',
    "Where tools stand: in RLLA's system text, or given to the chat template "
    'as JSON schemas.',
    ('rlla', 'template'),
  )
  enable_thinking: str = flags.flag(
    'default',
    'Given to a chat template that knows it; default leaves it to that.',
    ('default', 'true', 'false'),
  )
  template_date: str = flags.flag(
    templates.DATE,
    "What a chat template that writes today's date is told, so that prompts "
    'are the same every day.',
  )
  reward: str = flags.flag(
    'toolrl',
    'Outcome reward: toolrl, or package.module:function; with an --environment '
    'that is given an episode.',
  )
  judge: str = flags.flag(
    'rubric',
    'Reasoning judge: rubric (counts words and checks calls, needs no model, '
    'cannot tell whether a thought is reasoning), llm, none, '
    'package.module:function, or, to see what a bad one does, noisy or vain.',
  )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The policy."""

  model: str = flags.flag(
    '', 'Hugging Face model, path or name; or a config.json without weights.'
  )
  init_weights: str = flags.flag(
    'auto',
    'How a new run starts, but for --init_from: from the weights of --model '
    '(pretrained), at random (normal), or able to copy (induction). auto: '
    'pretrained, or normal where --model is a config.json.',
    ('auto', 'pretrained', *induction_init.INIT_WEIGHTS),
  )
  dtype: str = flags.flag('float32', 'Of activations and cache.')
  param_dtype: str = flags.flag(
    'float32', 'Of parameters, but for adapters, which are float32.'
  )
  lora_rank: int = flags.flag(
    0, 'Rank of LoRA adapters, which alone are trained; 0 trains all weights.'
  )
  lora_alpha: float = flags.flag(32.0, 'Adapters count alpha / rank times.')
  lora_targets: tuple[str, ...] = flags.flag(
    lora_layers.LORA_TARGETS, 'Projections that have an adapter.'
  )
  logprob_chunk: int = flags.flag(128, 'Positions whose logits exist at once.')
  pack_tokens: int = flags.flag(
    0,
    'Columns of a row that updates fill with several prompts, each with its '
    'answers, in place of --micro; 0 pads them all to their buckets.',
  )
  remat: str = flags.flag(
    'none',
    'What the backward pass computes anew rather than keeps: of each block all '
    'but its products with weights (products), or all, which costs a second '
    'forward pass (blocks).',
    tuple(model_config.REMATS),
  )
  attention: str = flags.flag(
    'parts',
    "What reads whole sequences: parts (prompts shared), cuDNN's kernel or "
    "XLA's (prompts broadcast); auto: cudnn where it can be, else parts.",
    attention_kernels.KERNELS,
  )


@dataclasses.dataclass(frozen=True)
class DevicesConfig:
  """Devices and processes."""

  cpu_devices: int = flag(
    1, 'Devices that the CPU is split into, one thread each or so.'
  )
  parallelism: str = flag(
    'pmap',
    'pmap: all of the state on every device; sharded: cut over --mesh.',
    ('pmap', 'sharded'),
  )
  mesh: str = flag(
    '',
    'Devices along each axis, for sharded: data:8,model:4 cuts prompts and '
    'parameters in 8, heads and features in 4; empty: all along data.',
  )
  rollout_devices: int = flag(
    0,
    'With --overlap, last devices that only sample, while the others train; '
    '0: all do both.',
  )
  distributed: str = flag(
    'no',
    'Several processes: auto finds them as JAX knows the cluster (TPU pod, '
    'SLURM, Open MPI), flags as the next three say.',
    ('no', 'auto', 'flags'),
  )
  coordinator: str = flag('', 'HOST:PORT of process 0.')
  processes: int = flag(1, 'How many there are.')
  process_id: int = flag(0, 'Number of this one, from 0.')


DEVICES_MAY_CHANGE = frozenset(
  field.name for field in dataclasses.fields(DevicesConfig)
)


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
  """Episodes of several turns, whose tool calls run (`--environment`)."""

  environment: str = flag(
    'none',
    'Where calls run: quickstart, bfcl, package.module:function (of '
    'sandbox.Limits), or none: an answer is one turn.',
  )
  max_turns: int = flag(8, 'Answers of an episode at most.')
  observation_tokens: int = flag(
    128, 'Tokens that an episode reads between two answers at most.'
  )
  episode_reward: str = flag(
    'outcome',
    'Of an episode where --reward=toolrl: its end as the environment sees it, '
    "or ToolRL's reward of each turn against the reference.",
    episode_rewards.EPISODE_REWARDS,
  )
  tool_seconds: float = flag(5.0, 'Seconds of a call.')
  tool_megabytes: int = flag(512, 'Memory of a process that runs calls.')
  tool_chars: int = flag(4096, 'Characters of a result; the rest is cut.')
  tool_workers: int = flag(2, 'Processes that run calls.')


# None of a run's numbers hangs on it.
ENVIRONMENT_MAY_CHANGE = frozenset({'tool_workers'})


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
  """A language model as the judge (`--judge=llm`), and waiting for any judge.

  Its key is read from the environment, `AWPO_JUDGE_API_KEY`, and kept nowhere.
  """

  judge_url: str = flag(
    '', 'Base of an OpenAI-compatible endpoint: http://localhost:8000/v1, say.'
  )
  judge_model: str = flag('', 'Name of the model there.')
  judge_prompt: str = flag(
    '', 'File of the prompt template; empty for the built-in one.'
  )
  judge_scale: float = flag(10.0, 'The best score the prompt asks for.')
  judge_samples: int = flag(1, 'Replies that a judgement is the mean of.')
  judge_temperature: float = flag(0.0, 'Of the judge; 0 is greedy.')
  judge_reply_tokens: int = flag(512, 'Tokens of a reply at most.')
  judge_token_limit_name: str = flag(
    'max_tokens',
    'Name under which the endpoint is told --judge_reply_tokens.',
    ('max_tokens', 'max_completion_tokens'),
  )
  judge_omit: tuple[str, ...] = flag(
    (),
    'Parameters that are not sent, joined by commas, for an endpoint that '
    'refuses them: temperature, or that of --judge_token_limit_name.',
  )
  judge_concurrency: int = flag(16, 'Calls under way at once.')
  judge_timeout: float = flag(120.0, 'Seconds of a call.')
  judge_retries: int = flag(
    4, 'Further calls where a reply fails or cannot be read.'
  )
  judge_backoff: float = flag(
    1.0, 'Seconds before the first of these; doubled each time, up to 30.'
  )
  judge_max_calls: int = flag(0, 'Calls that the run may make; 0: no bound.')
  judge_max_tokens: int = flag(
    0, 'Tokens that prompts and replies of the run may have; 0: no bound.'
  )
  judge_cache: str = flag(
    '~/.cache/awpo_jax/judge.sqlite',
    'SQLite file of what was judged, which runs may share; empty for none.',
  )
  min_judged: float | None = flag(
    None,
    'Share of the answers that must be judged for a step to go on; none: 0.9 '
    'with --judge=llm, 0 with another.',
  )
  judge_patience: float = flag(
    600.0, 'Seconds without a score after which the run saves and ends.'
  )


# None of the numbers of a run hangs on these: with the cache they are those of
# the model, the prompt and the scale. Another temperature gives others, but an
# endpoint that refuses it has judged nothing with it.
JUDGE_MAY_CHANGE = frozenset(
  {
    'judge_url',
    'judge_reply_tokens',
    'judge_token_limit_name',
    'judge_omit',
    'judge_concurrency',
    'judge_timeout',
    'judge_retries',
    'judge_backoff',
    'judge_max_calls',
    'judge_max_tokens',
    'min_judged',
    'judge_patience',
  }
)


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
    off_policy.OLD_LOGPROBS,
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
