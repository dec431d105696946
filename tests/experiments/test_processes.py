"""Several processes of one run: its numbers, and what a killed one does."""

import dataclasses
import json
import pathlib
import signal
import time

import numpy as np
import pytest

from tests.helpers import tiny_dataset, whole_runs

LAST = 4
DEVICES = 4


@dataclasses.dataclass(frozen=True)
class Case:
  """Starts runs of one kind, each in a folder of its own."""

  base: pathlib.Path
  cache: str

  def flags(self, name: str, *further: str) -> list[str]:
    base = self.base / name
    base.mkdir(exist_ok=True)
    flags = tiny_dataset.flags(base / 'run', self.cache, *further)
    model = {**tiny_dataset.MODEL, 'num_attention_heads': 4}
    model |= {'num_key_value_heads': 4, 'head_dim': 8}
    (base / 'model.json').write_text(json.dumps(model))
    return [
      *flags,
      '--vocab_size=300',
      '--sft_steps=2',
      '--rl_steps=2',
      '--sft_batch=8',
      '--prompts_per_step=8',
      '--transcripts=8',
    ]

  def run(self, name: str, processes: int, *further: str, at=None):
    """A run of four devices, cut among processes."""
    own = DEVICES // processes
    flags = self.flags(name, f'--cpu_devices={own}', *further)
    if processes == 1:
      return [whole_runs.forked(flags, self.base / name)]
    return whole_runs.together(flags, self.base / name, processes, at=at)


@pytest.fixture(scope='module')
def case(tmp_path_factory, cache):
  return Case(tmp_path_factory.mktemp('processes'), cache)


@pytest.fixture(scope='module')
def alone(case):
  """The folder of the run of one process."""
  (result,) = case.run('alone', 1)
  assert result.returncode == 0, result.stderr
  return case.base / 'alone' / 'run'


@pytest.fixture(scope='module')
def pair(case):
  """The folder of the run of two processes, which nothing disturbed."""
  results = case.run('pair', 2)
  assert [x.returncode for x in results] == [0, 0], results
  first, second = results
  assert 'accuracy' in first.stdout and 'accuracy' not in second.stdout
  return case.base / 'pair' / 'run'


def _compare(folder, wanted):
  ours, theirs = (whole_runs.untimed(x) for x in (folder, wanted))
  assert [x['step'] for x in ours] == list(range(1, LAST + 1))
  for got, want in zip(ours, theirs, strict=True):
    assert got.keys() == want.keys()
    for name, value in want.items():
      if isinstance(value, float):
        # Loss and gradient of the same batch to 1e-5 and better; what is a
        # difference of log-probabilities is rounding itself.
        assert got[name] == pytest.approx(value, rel=1e-5, abs=2e-6), name
      else:
        assert got[name] == value, name
  ours, theirs = (whole_runs.stored(x, LAST) for x in (folder, wanted))
  for name, array in theirs.items():
    # Adam divides a gradient by its own size, so rounding of a tiny one moves a
    # parameter by a share of the step: here of 1e-2, at most three thousandths.
    np.testing.assert_allclose(ours[name], array, atol=3e-5, err_msg=name)
  ours, theirs = (
    whole_runs.rows(x, 'transcripts.jsonl') for x in (folder, wanted)
  )
  # A draw may differ where rounding carries it over an edge; none does here.
  assert [x['response'] for x in ours] == [x['response'] for x in theirs]
  assert [x['task_id'] for x in ours] == [x['task_id'] for x in theirs]


def test_two_processes_under_pmap(alone, pair):
  _compare(pair, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('processes', 'flags'),
  [
    (4, ()),
    (4, ('--parallelism=sharded',)),
    (2, ('--parallelism=sharded', '--mesh=data:2,model:2')),
  ],
)
def test_other_layouts(alone, case, processes, flags):
  name = f'{processes}{"".join(flags)}'.replace(':', '')
  results = case.run(name, processes, *flags)
  assert {x.returncode for x in results} == {0}, results
  _compare(case.base / name / 'run', alone)


def test_a_process_that_is_killed(case, pair):
  at = whole_runs.Signal('awpo_jax.training.collection.score:score', call=1)
  started = time.perf_counter()
  first, last = case.run('killed', 2, at=at)
  # The other one does not wait for ever.
  assert time.perf_counter() - started < 120
  assert last.returncode == -signal.SIGKILL
  assert first.returncode not in (0, -signal.SIGKILL), first
  assert first.stderr
  folder = case.base / 'killed' / 'run'
  assert set(whole_runs.saved_steps(folder)) <= {2}
  results = case.run('killed', 2)
  assert [x.returncode for x in results] == [0, 0], results
  whole_runs.assert_same(folder, pair, LAST)


@pytest.mark.slow
def test_another_number_of_processes_goes_on(case, alone):
  at = whole_runs.Signal(
    'awpo_jax.training.collection.score:score',
    call=1,
    number=signal.SIGTERM,
  )
  results = case.run('fewer', 2, at=at)
  assert {x.returncode for x in results} == {128 + signal.SIGTERM}, results
  folder = case.base / 'fewer' / 'run'
  assert whole_runs.saved_steps(folder)[-1] == 3
  (result,) = case.run('fewer', 1)
  assert result.returncode == 0, result.stderr
  _compare(folder, alone)
