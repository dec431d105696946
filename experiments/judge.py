"""Scores the reasoning in a file of transcripts, to choose a judge by.

python experiments/judge.py --transcripts=labelled.jsonl --judge=rubric
python experiments/judge.py --transcripts=labelled.jsonl --judge=llm \\
  --judge_url=http://localhost:8000/v1 --judge_model=Qwen/Qwen3-8B
python experiments/judge.py --transcripts=runs/x/transcripts.jsonl \\
  --label=solved

A line of the file is a JSON object of user, tools (a list of name, description,
parameters), response, and perhaps a label, a number of people; a run's
transcripts.jsonl is such a file, whose answers say whether they are solved.
Prints how far the judge agrees with the labels: auc is the share of pairs of a
good and a bad answer that it orders rightly (chance has 0.5), auc_within that
of pairs of one prompt, low and high the ends of their 95% intervals, which
resampled prompts do not give (-) where none of them differs. --output keeps the
scores, one line a transcript.
"""

import functools
import logging
import os
import pathlib
import sys

os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax import types  # noqa: E402
from awpo_jax.config import (
  checks,  # noqa: E402
  data,  # noqa: E402
)
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.evaluation import judge_agreement  # noqa: E402
from awpo_jax.reporting import (
  json_text,  # noqa: E402
  progress,  # noqa: E402
)
from awpo_jax.rollout.rewards import returned  # noqa: E402
from awpo_jax.rollout.rewards.judges import patient  # noqa: E402
from awpo_jax.training import judge as judge_lib  # noqa: E402

flags.DEFINE_string(
  'transcripts', None, 'File of transcripts, one JSON object a line.'
)
flags.DEFINE_string(
  'judge', 'rubric', 'Judge to measure: rubric, llm, or module:function.'
)
flags.DEFINE_string('output', None, 'New file to which scores are written.')
flags.DEFINE_string(
  'label', 'label', 'Field that holds the label, for example solved.'
)
flags.DEFINE_float(
  'threshold', 0.5, 'Score from which on the judge calls a thought good.'
)
flags.DEFINE_float(
  'label_threshold', 0.5, 'Label from which on a thought is good.'
)
flags_lib.define_section(data.JudgeConfig)
sys.path.append(os.getcwd())


def judged(values: flags.FlagValues) -> dict[str, float | None]:
  """The figures; raises `ValueError` or `OSError` if flags forbid it."""
  if not values.transcripts or values.judge == 'none':
    raise ValueError('Set --transcripts to a file, and --judge to a judge.')
  settings = flags_lib.read_section(data.JudgeConfig, values)
  rules = checks.judge_rules(settings, values.judge)
  for text in (text for wrong, text in rules if wrong):
    raise ValueError(text)
  if values.output and pathlib.Path(values.output).exists():
    raise ValueError(f'--output={values.output} exists: name a new file.')
  rows = judge_agreement.read_transcripts(values.transcripts, values.label)
  run = os.path.abspath(values.transcripts)
  judge = judge_lib.make_judge(values.judge, settings, run=run)
  assert judge is not None
  answers = [f'transcript {number}' for number in range(1, len(rows) + 1)]
  say = functools.partial(
    patient.shown, judge, len(rows), patient.counts(judge)
  )
  with progress.working(say):
    scores = returned.judged(judge, [row.request for row in rows], answers)
  labels = [row.label for row in rows]
  if values.output:
    with pathlib.Path(values.output).open('w', encoding='utf-8') as file:
      for score, label in zip(scores, labels, strict=True):
        row = {'score': score, 'label': label}
        file.write(json_text.dumps(row) + '\n')
  good = values.label_threshold
  prompts = [(row.request.user, repr(row.request.tools)) for row in rows]
  return {
    **judge_agreement.agreement(
      scores, labels, threshold=values.threshold, label_threshold=good
    ),
    **judge_agreement.separation(scores, labels, prompts, label_threshold=good),
  }


def main(arguments: list[str]) -> None:
  logging.getLogger('absl').setLevel(logging.WARNING)
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  try:
    figures = judged(flags.FLAGS)
  except (ValueError, OSError, types.JudgeUnavailable) as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.exit(2)
  for name, value in figures.items():
    text = '-' if value is None else f'{value:.4g}'
    print(f'{name:<16}{text:>10}')


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
