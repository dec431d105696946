"""Data sets by name, and several in one run."""

import json

import pytest

from awpo_jax import types
from awpo_jax.rollout import datasets
from awpo_jax.rollout.datasets.quickstart import tasks


def make_task(name):
  return types.Task(name, 'system', 'user', (), 'truth', 'single')


def load_own(*, seed, data=None):
  """Two training prompts, one demonstration, one held-out prompt."""
  train = [make_task(f'{data}_{seed}_{i}') for i in range(2)]
  return types.Dataset(
    demonstrations=[types.Demonstration(train[0], data)],
    train=train,
    evals={'held_out': [make_task(f'{data}_eval')]},
  )


def load_other(*, seed, data=None):
  return load_own(seed=seed, data=data)


OWN = f'{__name__}:load_own'
OTHER = f'{__name__}:load_other'


def test_one_data_set_is_loaded_as_it_is():
  dataset = datasets.load(OWN, seed=5, data='a,b')
  assert [task.task_id for task in dataset.train] == ['a,b_5_0', 'a,b_5_1']
  assert list(dataset.evals) == ['held_out']
  assert datasets.DATASETS['quickstart'] is tasks.load
  assert list(datasets.load('quickstart', seed=0).evals)[0] == 'values'


def test_several_are_joined_in_order():
  dataset = datasets.load(f'{OWN},{OTHER}', seed=5, data='a,')
  assert [task.task_id for task in dataset.train] == [
    *('a_5_0', 'a_5_1', 'None_5_0', 'None_5_1')
  ]
  assert [d.response for d in dataset.demonstrations] == ['a', None]
  evals = {k: [t.task_id for t in v] for k, v in dataset.evals.items()}
  assert evals == {
    f'{OWN}_held_out': ['a_eval'],
    f'{OTHER}_held_out': ['None_eval'],
  }


@pytest.mark.parametrize(
  ('spec', 'data'),
  [(f'{OWN},{OTHER}', 'a'), (f'{OWN},{OTHER}', None), (f'{OWN},{OWN}', 'a,b')],
)
def test_each_needs_its_own_place(spec, data):
  with pytest.raises(ValueError, match='as many places, separated by commas'):
    datasets.load(spec, seed=0, data=data)


def test_what_cannot_be_loaded_is_refused():
  with pytest.raises(ValueError, match='--dataset=rla: neither a known name'):
    datasets.load('rla', seed=0)
  with pytest.raises(ValueError, match='quickstart: .* train on it alone'):
    datasets.load(f'{OWN},quickstart', seed=0, data='a,')


def test_bad_rows_are_left_out_where_that_is_allowed(tmp_path):
  row = {'instruction': 'Be brief.', 'output': '<response> b </response>'}
  lines = [json.dumps(row | {'input': f'user {i}'}) for i in range(60)]
  lines.insert(3, json.dumps(row))
  (tmp_path / 'rows.jsonl').write_text('\n'.join(lines))
  with pytest.raises(ValueError, match='rows.jsonl:4: no field "input"'):
    datasets.load('rlla', seed=0, data=str(tmp_path))
  skipped = []
  dataset = datasets.load('rlla', seed=0, data=str(tmp_path), skipped=skipped)
  assert len(skipped) == 1 and 'rows.jsonl:4' in skipped[0]
  assert len(dataset.train) + len(dataset.evals['held_out']) == 60
  # A function that knows nothing of it is called as before.
  assert datasets.load(OWN, seed=0, data='x', skipped=[]).train
