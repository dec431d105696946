"""Flags of the run, its model and its devices."""

import dataclasses

from awpo_jax.config.flags import flag
from awpo_jax.models import attention_kernels, induction_init, lora_layers
from awpo_jax.models import config as model_config

MAX_SEED = 2**31 - 1  # The key of the draws has 32 bits, one of them a sign.
DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """The run: where it writes, how long it goes, what it keeps."""

  output_dir: str = flag(
    '',
    'Folder of the run. It has to be set; a run that stopped there is '
    'continued.',
    may_change=True,
  )
  seed: int = flag(
    0,
    'Seed of data order, initial weights and every random draw. Repeat a run '
    'with other seeds to see how much of a result is chance.',
    minimum=0,
    maximum=MAX_SEED,
  )
  init_from: str = flag(
    '',
    'Run or checkpoint whose parameters a new run starts from, for example '
    'runs/a or runs/a/checkpoints/900. Empty starts as --init_weights says.',
  )
  sft_steps: int = flag(
    0,
    'Steps of supervised fine-tuning on demonstrations, which come before any '
    'RL. A step is one update. 0, with --rl_steps=0, only evaluates.',
    minimum=0,
  )
  rl_steps: int = flag(
    0,
    'Steps of reinforcement learning. A step is one rollout batch with all '
    'updates on it.',
    minimum=0,
  )
  eval_every: int = flag(
    0,
    'Steps between evaluations on held-out tasks. 0 evaluates only at the '
    'start of the run and at the end of each phase.',
    minimum=0,
  )
  eval_at_start: bool = flag(
    True,
    'Whether a run that starts from trained weights is evaluated before its '
    'first step. Set it to false where their evaluation is known, as that of a '
    'checkpoint from which many runs start.',
  )
  eval_tasks: int = flag(
    256,
    'Largest number of held-out tasks of each evaluation set. Raise it for '
    'accuracies with less noise; evaluations take longer.',
    minimum=1,
  )
  eval_benchmarks: tuple[str, ...] = flag(
    (),
    'Benchmarks that are part of every evaluation, separated by commas: bfcl, '
    'apibank, mmlu_pro. Each is asked the same --eval_tasks rows every time.',
  )
  eval_data: str = flag(
    '',
    'Folder of the rows of --eval_benchmarks, or a folder that holds one for '
    'each benchmark.',
  )
  eval_batch: int = flag(
    64,
    'Prompts answered at once in an evaluation. Lower it if an evaluation runs '
    'out of memory.',
    minimum=1,
  )
  eval_temperature: float = flag(
    0.0,
    'Sampling temperature of evaluations. 0 is greedy: the most likely answer '
    'is measured, not the policy that is trained. The draws of all evaluations '
    'of a run are the same.',
    minimum=0,
  )
  checkpoint_every: int = flag(
    50,
    'Steps between checkpoints. The end of a phase is always saved.',
    minimum=1,
    may_change=True,
  )
  keep_checkpoints: int = flag(
    2,
    'How many of the latest checkpoints are kept; older ones are deleted.',
    minimum=1,
    may_change=True,
  )
  best_metric: str = flag(
    '',
    'Metric of the evaluations whose best checkpoint is kept as well, for '
    'example eval/held_out/accuracy. Higher is better.',
  )
  transcripts: int = flag(
    2,
    'Groups of each rollout batch that are written to transcripts.jsonl.',
    minimum=0,
    may_change=True,
  )
  archive: bool = flag(
    False,
    'Whether every rollout is written to <output_dir>/archive, from which '
    'advantages of other algorithms can be computed afterwards.',
  )
  profile_steps: tuple[int, ...] = flag(
    (),
    'First and last step that jax.profiler traces, for example 20,22. Empty '
    'traces none.',
    minimum=1,
    may_change=True,
  )
  wandb_project: str = flag(
    '',
    'Project of Weights & Biases to which metrics and tables of answers are '
    'also written. Empty writes none there.',
    may_change=True,
  )
  trackio_project: str = flag(
    '',
    'Project of trackio to which metrics and traces of answers are also '
    'written. Empty writes none there.',
    may_change=True,
  )
  compilation_cache: str = flag(
    '~/.cache/awpo_jax/xla',
    'Folder in which compiled programs are kept, so that the next run starts '
    'sooner. Empty keeps none.',
    may_change=True,
  )
  dry_run: str = flag(
    '',
    'Devices for which the programs are compiled without running them: here, '
    'h100, v5e or v6e (TPUs), or h100:8 for eight. The memory that the run '
    'needs is printed.',
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The policy model."""

  model: str = flag(
    '',
    'Path or name of a Hugging Face model, a GGUF file, smollm2, or a '
    'config.json without weights. It has to be set.',
  )
  init_weights: str = flag(
    'auto',
    'Initial weights of a run without --init_from: those of --model '
    '(pretrained), random ones (normal), or ones made by hand that copy from '
    'the prompt (induction). auto is pretrained, or normal if --model is a '
    'config.json.',
    ('auto', 'pretrained', *induction_init.INIT_WEIGHTS),
  )
  dtype: str = flag(
    'float32',
    'Number format of activations and of the key-value cache. Set bfloat16 on '
    'accelerators.',
    DTYPES,
  )
  param_dtype: str = flag(
    'float32',
    'Number format of the parameters; adapters are always float32. With 16 '
    'bits small updates are lost in rounding.',
    DTYPES,
  )
  lora_rank: int = flag(
    0,
    'Rank of LoRA adapters, which are then the only trained parameters. 0 '
    'trains all parameters.',
    minimum=0,
  )
  lora_alpha: float = flag(
    32.0,
    'Scale of the LoRA adapters: their output is multiplied by alpha / rank. '
    'Change it together with --lora_rank.',
    above=0,
  )
  lora_targets: tuple[str, ...] = flag(
    lora_layers.LORA_TARGETS,
    'Projections that get a LoRA adapter, separated by commas. Fewer of them '
    'need less memory.',
  )
  logprob_chunk: int = flag(
    128,
    'Positions of a sequence whose logits are in memory at once. Lower it if '
    'updates run out of memory.',
    minimum=1,
  )
  pack_tokens: int = flag(
    0,
    'Tokens of a row into which updates pack several prompts with their '
    'answers, instead of --micro. 0 packs nothing and pads to the buckets. Set '
    'it if most answers are much shorter than the longest.',
    minimum=0,
    may_change=True,
  )
  remat: str = flag(
    'none',
    'What the backward pass computes a second time instead of keeping it in '
    'memory: nothing (none), all of a block but its matrix products '
    '(products), or whole blocks (blocks), which costs a second forward pass. '
    'loop is blocks as one loop over stacked parameters: it compiles sooner, '
    'holds the parameters once more, and is the one to use on a CPU.',
    tuple(model_config.REMATS),
  )
  attention: str = flag(
    'parts',
    'How attention over whole sequences is computed: parts (prompts are shared '
    "by their answers), XLA's, cuDNN's kernel, or splash, JAX's for TPUs (all "
    'three repeat prompts; no TPU has run splash). auto is cudnn if the device '
    'has it, otherwise parts.',
    attention_kernels.KERNELS,
    may_change=True,
  )
  decode_attention: str = flag(
    'parts',
    'How a sampled token attends to its prompt and answer: parts, or a '
    "library's kernel for each of the two, XLA's or cuDNN's, which is told how "
    'many keys are in use. cudnn launches fewer kernels, but no GPU has run '
    'it.',
    attention_kernels.DECODE_KERNELS,
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class DevicesConfig:
  """Devices and processes."""

  cpu_devices: int = flag(
    1,
    'Devices into which the CPU is split. Set it to about the number of cores.',
    minimum=1,
    may_change=True,
  )
  parallelism: str = flag(
    'pmap',
    'How the state is kept: all of it on every device (pmap), or cut into '
    'parts as --mesh says (sharded), for models that do not fit into one '
    'device.',
    ('pmap', 'sharded'),
    may_change=True,
  )
  mesh: str = flag(
    '',
    'Devices along each axis with --parallelism=sharded. data:8,model:4 cuts '
    'prompts and parameters into 8 parts, and heads and features into 4. Empty '
    'takes all devices along data.',
    may_change=True,
  )
  distributed: str = flag(
    'no',
    'Whether several processes train together: no, auto (JAX finds them on a '
    'TPU pod, SLURM or Open MPI), or flags (--coordinator, --processes and '
    '--process_id say it).',
    ('no', 'auto', 'flags'),
    may_change=True,
  )
  coordinator: str = flag(
    '',
    'Address of process 0 as HOST:PORT, with --distributed=flags.',
    may_change=True,
  )
  processes: int = flag(
    1,
    'Number of processes, with --distributed=flags.',
    minimum=1,
    may_change=True,
  )
  process_id: int = flag(
    0,
    'Number of this process, counted from 0, with --distributed=flags.',
    minimum=0,
    may_change=True,
  )
