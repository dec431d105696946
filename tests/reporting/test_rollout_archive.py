"""Rollouts come back as they were, whole or not at all."""

import dataclasses
import json
import shutil
import zipfile

import jax
import numpy as np
import pytest
import tensorstore as ts

from awpo_jax import types
from awpo_jax.reporting import rollout_archive
from tests.helpers import tiny_training


def _scored(seed, *, width=tiny_training.RESPONSE, **parts):
  rollout = tiny_training.rollout(seed)
  completions = jax.tree.map(
    lambda x: x[:, :, :width] if x.ndim == 3 else x, rollout.completions
  )
  task = types.Task('', '', '', (), '', '')
  return types.Scored(
    [
      dataclasses.replace(task, task_id=f'{seed}_{p}')
      for p in range(tiny_training.PROMPTS)
    ],
    rollout.replace(completions=completions),
    parts,
  )


def _writer(folder, resume_step=0):
  return rollout_archive.Writer(
    folder, prompt_width=12, response_width=9, resume_step=resume_step
  )


def _assert_same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(
    lambda x: x.dtype, want
  )


PART = np.float32([[1, np.nan, 0, 1]] * tiny_training.PROMPTS)


def test_every_array_comes_back(tmp_path):
  writer = _writer(tmp_path)
  first = _scored(0, solved=PART)
  # Another bucket, and other parts.
  second = _scored(1, width=4, correctness=2 * PART)
  writer.append(3, first)
  # Readable while it is written to; what is opened once does not change.
  early = rollout_archive.open_archive(tmp_path)
  writer.append(5, second)
  got = rollout_archive.open_archive(tmp_path)
  assert early.steps == [3] and got.steps == [3, 5] and len(got) == 2
  _assert_same(got.rollout(3), first.rollout)
  _assert_same(got.rollout(5), second.rollout)
  assert got.tasks(5)[:2] == ['1_0', '1_1']
  np.testing.assert_array_equal(got.parts(3)['solved'], PART)
  np.testing.assert_array_equal(got.parts(5)['correctness'], 2 * PART)
  assert list(got.parts(3)) == ['solved']


def test_a_zip_file_is_read_like_the_folder(tmp_path, monkeypatch):
  run = tmp_path / 'run'
  writer = _writer(run / rollout_archive.FOLDER)
  scored = [_scored(0, solved=PART), _scored(1, width=4)]
  for step, each in enumerate(scored, start=1):
    writer.append(step, each)
  monkeypatch.chdir(run)
  zipfile.main(['-c', rollout_archive.ZIP_FILE, rollout_archive.FOLDER])
  shutil.rmtree(rollout_archive.FOLDER)
  # Also where the path is not absolute.
  for path in (run, '.'):
    got = rollout_archive.open_archive(path)
    assert got.steps == [1, 2]
    for step, each in enumerate(scored, start=1):
      _assert_same(got.rollout(step), each.rollout)
    np.testing.assert_array_equal(got.parts(1)['solved'], PART)
    assert got.tasks(2)[0] == '1_0'


def test_archives_without_what_tasks_want_go_by_the_bounds(tmp_path):
  # As one of before the field was stored: ToolRL's bounds (0, 1) want a reply,
  # (-3, 4) a call.
  scored = _scored(0)
  high = np.where(np.arange(tiny_training.PROMPTS) % 2, 4, 1).astype(np.float32)
  wanted = np.zeros(tiny_training.PROMPTS, bool)
  rollout = tiny_training.with_rewards(
    scored.rollout, outcome_max=high, wants_call=wanted
  )
  _writer(tmp_path).append(1, scored._replace(rollout=rollout))
  _assert_same(rollout_archive.open_archive(tmp_path).rollout(1), rollout)
  index = tmp_path / rollout_archive.INDEX_FILE
  row = json.loads(index.read_text())
  row['fields'].remove('rewards/wants_call')
  index.write_text(json.dumps(row) + '\n')
  old = rollout_archive.open_archive(tmp_path).rollout(1)
  np.testing.assert_array_equal(old.rewards.wants_call, high == 4)
  assert old.rewards.wants_call.dtype == bool


def test_arrays_are_lazy(tmp_path):
  _writer(tmp_path).append(1, _scored(0))
  step = rollout_archive.open_archive(tmp_path)[1]
  tokens = step['completions/tokens']
  assert isinstance(tokens, ts.TensorStore)
  assert tokens.shape == (
    tiny_training.PROMPTS,
    tiny_training.SAMPLES,
    tiny_training.RESPONSE,
  )
  np.testing.assert_array_equal(
    tokens[2:4].read().result(),
    tiny_training.rollout(0).completions.tokens[2:4],
  )
  with pytest.raises(KeyError, match='no step 2, but .1.'):
    rollout_archive.open_archive(tmp_path)[2]
  with pytest.raises(KeyError, match='rewards/style'):
    step['rewards/style']


def test_what_some_algorithms_ask_for_is_kept(tmp_path):
  scored = _scored(0)
  mask = scored.rollout.completions.policy_mask
  rollout = scored.rollout.replace(
    thinking=mask, trainer_logprobs=np.where(mask, -1, 0).astype(np.float32)
  )
  rollout = tiny_training.with_rewards(
    rollout, parts={'format': PART, 'style': 2 * PART}
  )
  _writer(tmp_path).append(1, scored._replace(rollout=rollout))
  _assert_same(rollout_archive.open_archive(tmp_path).rollout(1), rollout)


@pytest.mark.parametrize('resume_step', [0, 3, 4, 9])
def test_cut_where_the_run_goes_on(tmp_path, resume_step):
  writer = _writer(tmp_path)
  for step in (3, 5):
    writer.append(step, _scored(step))
  writer = _writer(tmp_path, resume_step)
  kept = [step for step in (3, 5) if step <= resume_step]
  assert rollout_archive.open_archive(tmp_path).steps == kept
  # Rows that were cut are written over, by fewer tokens too.
  writer.append(11, _scored(7, width=4))
  got = rollout_archive.open_archive(tmp_path)
  assert got.steps == [*kept, 11]
  for step in kept:
    _assert_same(got.rollout(step), _scored(step).rollout)
  _assert_same(got.rollout(11), _scored(7, width=4).rollout)


def test_a_step_is_there_once_its_line_is_whole(tmp_path):
  writer = _writer(tmp_path)
  writer.append(1, _scored(0))
  writer.append(2, _scored(1))
  index = tmp_path / rollout_archive.INDEX_FILE
  whole = index.read_bytes()
  first = whole.index(b'\n') + 1
  # However many bytes of the second line a killed process left.
  for length in (first, first + 1, len(whole) - 1):
    index.write_bytes(whole[:length])
    assert rollout_archive.open_archive(tmp_path).steps == [1]
  # And a writer goes on from there.
  _writer(tmp_path, 5).append(6, _scored(2))
  assert rollout_archive.open_archive(tmp_path).steps == [1, 6]
  assert len([json.loads(x) for x in index.read_bytes().splitlines()]) == 2


def test_steps_come_in_order(tmp_path):
  writer = _writer(tmp_path)
  writer.append(2, _scored(0))
  with pytest.raises(ValueError, match='Step 2 comes after step 2'):
    writer.append(2, _scored(0))


def test_no_archive(tmp_path):
  with pytest.raises(FileNotFoundError, match='--archive'):
    rollout_archive.open_archive(tmp_path)


def test_it_is_compressed(tmp_path):
  _writer(tmp_path).append(1, _scored(0))
  scored = _scored(0)
  raw = sum(x.nbytes for x in jax.tree.leaves(scored.rollout))
  stored = sum(
    x.stat().st_size
    for x in tmp_path.rglob('*')
    if x.is_file() and 'c' in x.relative_to(tmp_path).parts
  )
  assert stored < 0.6 * raw
