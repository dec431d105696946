"""Which real rows fit what SmolLM2 is trained with: the figures of docs.

Its tokenizer is read from the model's file, the weights are not.
"""

import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.models.formats import gguf_files
from awpo_jax.rollout.datasets import seal_tools
from awpo_jax.rollout.text import tool_calls
from awpo_jax.training import setup as setup_lib
from tests.helpers import shared_data, whole_runs

pytest.importorskip('gguf', reason='pip install gguf')
try:
  gguf_files.find('smollm2')
except FileNotFoundError as error:
  pytest.skip(str(error), allow_module_level=True)


def _experiment(data, folder, *further):
  return setup_lib.make_experiment(
    config_lib.parse(
      [
        f'--flagfile={whole_runs.ROOT}/experiments/smollm2.flags',
        f'--data={data}',
        f'--output_dir={folder}',
        *further,
      ]
    )
  )


@pytest.fixture(scope='module')
def seal(tmp_path_factory):
  data = shared_data.path('seal_tools')
  experiment = _experiment(data, tmp_path_factory.mktemp('seal'))
  return experiment, seal_tools.load_compact(seed=0, data=str(data))


def _parts(dataset):
  return {'train': dataset.train, **dataset.evals}


def _two_calls(tasks):
  answers = [tool_calls.parse(task.ground_truth) for task in tasks]
  return sum(len(answer.calls) == 2 for answer in answers)


def test_rows_that_fit(seal):
  experiment, whole = seal
  kept = experiment.data.dataset
  found = {
    name: (len(tasks), _two_calls(tasks), len(rows), _two_calls(rows))
    for (name, tasks), rows in zip(
      _parts(kept).items(), _parts(whole).values(), strict=True
    )
  }
  # docs/smollm2.md and docs/data.md, counted apart from this code.
  assert found == {
    'train': (150, 1, 207, 7),
    'in_domain': (162, 1, 208, 8),
    'out_domain': (89, 1, 98, 4),
  }
  assert len(kept.demonstrations) == 150


def test_lengths_of_the_rows(seal):
  # Shortest and longest of all rows, and the percentage of prompts of 200 to
  # 450 tokens and of answers of 40 to 100: docs/data.md, likewise.
  experiment, whole = seal
  tokenizer = experiment.codec.tokenizer
  found = {}
  for name, tasks in _parts(whole).items():
    prompts = np.array([len(experiment.codec.encode(x)) for x in tasks])
    answers = np.array(
      [
        len(tokenizer.encode(x.ground_truth, add_special_tokens=False)) + 1
        for x in tasks
      ]
    )
    found[name] = tuple(
      figure
      for lengths, low, high in ((prompts, 200, 450), (answers, 40, 100))
      for figure in (
        *(lengths.min(), lengths.max()),
        int(100 * np.mean((lengths >= low) & (lengths <= high)) + 0.5),
      )
    )
  assert found == {
    'train': (180, 675, 56, 46, 184, 77),
    'in_domain': (226, 801, 63, 46, 177, 79),
    'out_domain': (256, 604, 79, 46, 148, 91),
  }


def test_few_rows_of_rlla_fit(tmp_path):
  data = shared_data.path('rlla')
  experiment = _experiment(
    data, tmp_path / 'run', '--dataset=rlla', '--sft_steps=0'
  )
  assert len(experiment.data.dataset.train) == 22
  assert experiment.data.left_out['train'] == 326 - 22
  # Those without a rationale: the placeholder is short.
  assert not experiment.data.dataset.demonstrations
