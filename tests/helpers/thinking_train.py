"""`experiments/train.py` with a policy whose every answer is a thought.

A tiny model that learnt to think would take minutes; here all that it says
stands between the tags, for judges of thoughts to have something to judge.
"""

import runpy

from awpo_jax.rollout.text import prompts

_decode = prompts.decode_completions


def _thinking(*arguments, **named):
  return [
    [f'<think> {text} </think>' for text in group]
    for group in _decode(*arguments, **named)
  ]


if __name__ == '__main__':
  prompts.decode_completions = _thinking
  runpy.run_path('experiments/train.py', run_name='__main__')
