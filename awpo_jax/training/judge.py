"""The judge that flags name, and how a run asks it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

from awpo_jax import types
from awpo_jax.config import data
from awpo_jax.config import experiment as config_lib
from awpo_jax.ops import advantages
from awpo_jax.reporting import progress
from awpo_jax.rollout import plugins
from awpo_jax.rollout.rewards.judges import (
  corrupted,
  llm_prompt,
  process,
  rubric,
)
from awpo_jax.rollout.rewards.judges import patient as patient_lib

LLM = 'llm'
JUDGES = {
  'rubric': rubric.rubric,
  'process': process.process,
  'noisy': corrupted.noisy,
  'vain': corrupted.vain,
}
# Of the answers of a step, with a judge that may fail to come back.
_MIN_JUDGED = 0.9


def make_judge(
  name: str, flags: data.JudgeConfig, *, run: str
) -> types.Judge | None:
  """The judge of `--judge`, corrupted as flags say; calls no endpoint yet.

  Args:
    name: value of the flag.
    flags: of the judge, checked.
    run: whose budget it spends, e.g. the folder of the run.

  Returns:
    The judge; None for `none`.

  Raises:
    ValueError: there is none of that name, or its prompt, cache or key cannot
      be used.
  """
  if name == 'none':
    return None
  judge = _load(name, flags, run)
  shares = flags.judge_noise, flags.judge_against, flags.judge_vain
  if not any(shares):
    return judge
  noise, against, vain = shares
  return corrupted.Corrupted(judge, noise=noise, against=against, vain=vain)


def _load(name: str, flags: data.JudgeConfig, run: str) -> types.Judge:
  """The judge as it is."""
  if name != LLM:
    known = {**JUDGES, LLM: None, 'none': None}
    return plugins.load(name, known, flag='judge')
  # Its client takes half a second to import, which most runs need not wait for.
  from awpo_jax.rollout.rewards.judges import llm

  given = {
    field.name: getattr(flags, f'judge_{field.name}')
    for field in dataclasses.fields(llm.Settings)
    if field.name not in ('template', 'run')
  }
  template = llm_prompt.read_template(flags.judge_prompt)
  settings = llm.Settings(**given, template=template, run=run)
  return llm.LlmJudge(settings, os.environ.get(llm.KEY_VARIABLE))


@contextlib.contextmanager
def patient(
  judge: types.Judge | None,
  config: config_lib.Config,
  tell: Callable[[str], None],
  working: patient_lib.Working = progress.working,
) -> Iterator[patient_lib.Judging | None]:
  """The judge that the steps of a run ask; closed after the block.

  Where the algorithm does not read the reasoning (`--gate=none`, say) nothing
  hangs on its scores, and none is waited for.
  """
  if judge is None:
    yield None
    return
  share = config.judge.min_judged
  if share is None:
    share = _MIN_JUDGED if config.data.judge == LLM else 0.0
  asked = patient_lib.Judging(
    judge,
    min_judged=share,
    patience=config.judge.judge_patience,
    needed=advantages.reads_reasoning(
      advantage=config.advantage.advantage, gate=config.advantage.gate
    ),
    tell=tell,
    working=working,
  )
  with contextlib.closing(asked):
    yield asked
