"""Sizes of Qwen3 that the benchmarks of a GPU know, as flags of an experiment.

They go behind those of gpu.flags, which has the shapes.
"""

import pathlib

_ROOT = pathlib.Path(__file__).resolve().parents[2]

# Flags of each size. 80 GB hold the float32 masters and moments of 1.7B
# parameters; those of 4B would be 60 GiB alone.
SIZES: dict[str, list[str]] = {
  '0.6b': [f'--model={_ROOT}/experiments/models/qwen3_0.6b.json'],
  '1.7b': [f'--model={_ROOT}/experiments/models/qwen3_1.7b.json'],
  '4b': [
    f'--model={_ROOT}/experiments/models/qwen3_4b.json',
    '--param_dtype=bfloat16',
    '--lora_rank=32',
    '--lora_alpha=64',
  ],
  'tiny': [
    f'--model={_ROOT}/experiments/models/reference.json',
    # XLA cannot multiply bfloat16 on every CPU.
    '--dtype=float32',
    '--prompt_buckets=16',
    '--response_buckets=16',
    '--prompts_per_step=4',
    '--samples=2',
    '--minibatches=2',
    '--rollout_micro=2',
  ],
}
