"""Talks to a checkpoint; the text is printed as it is sampled.

python experiments/generate.py --model=Qwen/Qwen3-0.6B --prompt="Who are you?"
python experiments/generate.py --model=runs/x --messages=chat.json --samples=4

--model is a run, one of its checkpoints (runs/x/checkpoints/900), or a Hugging
Face folder or name. --messages is a JSON file as OpenAI's API takes it: a list
of messages, or {"messages": [...], "tools": [...]}.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator

os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax.checkpointing import initial_params, policies  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.config import sections  # noqa: E402
from awpo_jax.evaluation import policy_answers  # noqa: E402
from awpo_jax.rollout.sampling import streaming  # noqa: E402
from awpo_jax.rollout.text import (
  chat_template,  # noqa: E402
  conversations,  # noqa: E402
  templates,  # noqa: E402
)

flags.DEFINE_string(
  'model',
  None,
  'Run, checkpoint, Hugging Face model or GGUF file that answers, or smollm2.',
)
flags.DEFINE_string('prompt', None, 'What the user says.')
flags.DEFINE_string(
  'messages', None, 'JSON file of messages and tools, instead of --prompt.'
)
flags.DEFINE_string('system', None, 'System text before --prompt.')
flags.DEFINE_integer('samples', 1, 'Number of answers, at least 1.')
flags.DEFINE_float('temperature', 1.0, 'Sampling temperature; 0 is greedy.')
flags.DEFINE_integer(
  'max_tokens', 512, 'Largest number of tokens in an answer.'
)
flags.DEFINE_integer('seed', 0, 'Seed of every random draw.')
flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16', 'float16'],
  'Number format of activations and of the key-value cache. If not set it is '
  'that of the parameters.',
)
flags.DEFINE_enum(
  'prompt_style',
  'auto',
  ['auto', 'rlla', 'short', 'template'],
  "How tools of --messages are given: in RLLA's system text (rlla), in one of "
  "few words (short), or to the model's chat template (template). auto does as "
  'the run was trained, or as rlla where a template knows no tools.',
)
flags.DEFINE_enum(
  'enable_thinking',
  'default',
  list(chat_template.THINKING),
  'Value of enable_thinking for a chat template that reads it. default leaves '
  'the choice to the template.',
)
flags.DEFINE_string(
  'template_date',
  '',
  'Date, as YYYY-MM-DD, that is given to a chat template which writes the '
  'current day into the prompt. Empty does as the model was trained.',
)


flags.DEFINE_string(
  'compilation_cache',
  sections.RunConfig.compilation_cache,
  'Folder in which compiled programs are kept, so that the next answer begins '
  'sooner. Empty keeps none.',
)


def answers(values: flags.FlagValues) -> Iterator[tuple[int, str]]:
  """The answers; raises `ValueError` or `OSError` if flags forbid it."""
  if not values.model:
    raise ValueError('Set --model to a run, a Hugging Face model or a GGUF.')
  talk = conversations.read(values.prompt, values.messages, values.system)
  settings = streaming.Settings(
    samples=values.samples,
    max_tokens=values.max_tokens,
    temperature=values.temperature,
    seed=values.seed,
  )
  chosen = values.enable_thinking, values.template_date, values.prompt_style
  # Before weights are read.
  if values.template_date:
    templates.parse_date(values.template_date)
  said = bool(talk.tools) and values.prompt_style == 'auto'
  own = policies.text_side(values.model, tools=said)
  policy_answers.asked(*own, talk, *chosen)
  initial_params.use_compilation_cache(values.compilation_cache)
  policy = policies.load(values.model, dtype=values.dtype)
  return policy_answers.answers(policy, talk, settings, *chosen)


def main(arguments: list[str]) -> None:
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # As `head` expects.
  try:
    pieces = answers(flags.FLAGS)
    streaming.write(pieces, flags.FLAGS.samples, sys.stdout)
  except (ValueError, OSError) as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print(flush=True)
    sys.exit(130)


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
