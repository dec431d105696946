"""`beside_torch.py` of a tiny model; PyTorch's side where it is installed."""

import dataclasses
import importlib
import importlib.util
import json
import pathlib
import sys
import time

import numpy as np
import pytest

from awpo_jax.models import config as model_config
from awpo_jax.models.formats import hf_weights
from tests.golden import hf_cases
from tests.helpers import decoder_reference, whole_runs

PROGRAM = 'experiments/benchmarks/beside_torch.py'
HF = hf_cases.CASES['qwen3_tied'] | {
  'model_type': 'llama',
  'head_dim': 8,
  'rope_theta': 1e4,
  'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4},
  'architectures': ['LlamaForCausalLM'],
}
STREAM = np.random.default_rng(5).integers(0, hf_cases.VOCAB, 700, np.int32)


@pytest.fixture(autouse=True)
def _path(monkeypatch):
  """Programs of that folder import each other, as Python lets them."""
  monkeypatch.syspath_prepend(str(whole_runs.ROOT / 'experiments/benchmarks'))


def load(name):
  return importlib.import_module(name)


def sized(name):
  return load('beside_cases').CASES[name].tiny()


@pytest.fixture(name='model', scope='module')
def _model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model')
  weights = hf_cases.weights(HF, np.random.RandomState(0))
  hf_cases.write(folder, HF, weights)
  return folder


def job(model, folder, side='ours'):
  return {
    'model': str(model),
    'repeats': 2,
    'begun': time.time(),
    'logprobs': str(folder / f'long_{side}.npz'),
  }


def reference(model, prompt, answer):
  """f64[len(answer)] log-probabilities, by NumPy."""
  _, params = hf_weights.load_pretrained(
    model, dtype='float32', param_dtype='float32'
  )
  row = np.concatenate([prompt, answer])
  logits = decoder_reference.logits(row, params, HF)[len(prompt) - 1 : -1]
  shifted = logits - logits.max(-1, keepdims=True)
  scores = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  return scores[np.arange(len(answer)), answer]


def rows(case):
  """Group, prompt and answer of each row, without padding."""
  made = load('beside_cases').batch(case, STREAM)
  for p, prompt in enumerate(made['prompts']):
    for g, answer in enumerate(made['answers'][p]):
      yield (
        (p, g),
        prompt[made['prompt_mask'][p]],
        answer[made['mask'][p, g]],
      )


def test_batches_are_the_stream():
  case = sized('rl_real')
  every = list(rows(case))
  assert len(every) == 4 * 2
  # 0.4 and 0.88 of 24 columns, 0.36 and 0.9 of 10.
  assert {9 <= len(x) <= 21 and 3 <= len(y) <= 9 for _, x, y in every} == {True}
  assert len({len(x) for _, x, _ in every}) > 1
  told = [y if g else np.concatenate([x, y]) for (_, g), x, y in every]
  told = np.concatenate(told)
  np.testing.assert_array_equal(told, STREAM[: len(told)])
  made = load('beside_cases').batch(case, STREAM)
  assert made['prompt_mask'][:, -1].all() and made['mask'][..., 0].all()
  # Begun anew at its end.
  short = load('beside_cases').batch(case, STREAM[:7])
  assert short['prompts'].max() <= STREAM[:7].max()


@pytest.mark.parametrize('name', ['read', 'decode_8x8', 'rl_real_packed'])
def test_our_side(name, model, tmp_path):
  made = load('beside_ours').measure(sized(name), STREAM, job(model, tmp_path))
  assert len(made['seconds']) == 2 and min(made['seconds']) > 0
  assert made['matmul_gflops'] > 0 and made['start_seconds'] > 0
  if name == 'decode_8x8':
    assert len(made['short_seconds']) == 2
  if name.startswith('rl'):
    assert np.isfinite(made['loss'])


@pytest.mark.parametrize('name', ['sft_real', 'sft_real_packed'])
def test_our_loss(name, model, tmp_path):
  case = sized(name)
  made = load('beside_ours').measure(case, STREAM, job(model, tmp_path))
  wanted = np.concatenate([reference(model, x, y) for _, x, y in rows(case)])
  assert made['loss'] == pytest.approx(-wanted.mean(), rel=1e-5)


def test_our_long_row(model, tmp_path):
  case = dataclasses.replace(sized('long'), response=70)
  made = load('beside_ours').measure(case, STREAM, job(model, tmp_path))
  _, prompt, answer = next(rows(case))
  assert (len(prompt), len(answer)) == (31, 68)  # 125 of 128, rounded down.
  wanted = reference(model, prompt, answer)
  assert len(made['packed_seconds']) == 2
  with np.load(tmp_path / 'long_ours.npz') as kept:
    assert set(kept) == {'padded', 'packed'}
    for got in kept.values():
      np.testing.assert_allclose(got, wanted, atol=2e-4)


@pytest.mark.parametrize(
  'name', ['read', 'decode_64_static', 'decode_8x8', 'rl_real', 'sft_blocks']
)
def test_their_side(name, model, tmp_path):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  side = load('beside_theirs')
  made = side.measure(sized(name), STREAM, job(model, tmp_path))
  assert len(made['seconds']) == 2 and made['matmul_gflops'] > 0


def test_their_numbers(model, tmp_path):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  side, case = load('beside_theirs'), sized('sft_real')
  made = side.measure(case, STREAM, job(model, tmp_path))
  wanted = np.concatenate([reference(model, x, y) for _, x, y in rows(case)])
  assert made['loss'] == pytest.approx(-wanted.mean(), rel=1e-5)
  case = dataclasses.replace(sized('long'), response=70)
  side.measure(case, STREAM, job(model, tmp_path, 'theirs'))
  _, prompt, answer = next(rows(case))
  with np.load(tmp_path / 'long_theirs.npz') as kept:
    wanted = reference(model, prompt, answer)
    np.testing.assert_allclose(kept['logprobs'], wanted, atol=2e-4)


# The table.

ONE = model_config.DecoderConfig(
  vocab_size=11,
  width=2,
  layers=1,
  heads=2,
  kv_heads=1,
  head_width=4,
  mlp_width=5,
)


def test_work_and_tokens_by_hand():
  beside, cases = load('beside_torch'), load('beside_cases')
  # q and o: 2 x 8 each; k and v: 2 x 4 each; MLP: 3 x 2 x 5: 78 a token. A
  # query costs 2 x 8 a key; logits 2 x 11.
  case = cases.Case('sft', 2, 6, response=4)
  read = 78 * 6 + 16 * 6 * 3
  written = 78 * 4 + 16 * 4 * (6 + 2) + 22 * 4
  forward = 2 * 2 * (read + written)
  assert beside.tokens(case) == 2 * (6 + 4)
  assert beside.work(case, ONE) == 3 * forward
  lora = dataclasses.replace(case, theirs='lora')
  assert beside.work(lora, ONE) == 2 * forward
  # Three answers to each prompt, which is read once.
  rl = dataclasses.replace(case, part='rl', samples=3)
  assert beside.tokens(rl) == 2 * (6 + 3 * 4)
  assert beside.work(rl, ONE) == 3 * 2 * 2 * (read + 3 * written)
  decode = dataclasses.replace(rl, part='decode')
  assert beside.tokens(decode) == 2 * 3 * 4
  # Of six tokens the last has logits: it sees five before it, and itself half.
  case = cases.Case('read', 2, 6)
  last = 78 + 16 * 5.5 + 22
  assert beside.tokens(case) == 12
  assert beside.work(case, ONE) == 2 * 2 * (78 * 5 + 16 * 5 * 2.5 + last)


def figures(*seconds, **more):
  return {
    'seconds': list(seconds),
    'matmul_gflops': 2.0,
    'start_seconds': 7.0,
    'peak_gib': 1.5,
    **more,
  }


def cells(text, name):
  (line,) = (x for x in text.splitlines() if x.startswith(f'| {name} |'))
  return [x.strip() for x in line.strip('|').split('|')]


def test_table(tmp_path):
  beside = load('beside_torch')
  results = beside.Results(tmp_path / 'r.json', {'model': 'x'})
  results.add('read', 'ours', figures(0.1, 0.2, 0.9))
  results.add('read', 'theirs', figures(0.3, matmul_gflops=4.0))
  # 8 prompts of 511 tokens, and their last: 78 + 22 and 511.5 keys.
  products = 2 * 8 * (78 * 512 + 22 + 16 * (511 * 255.5 + 511.5))
  share = products / (0.2 * 2e9), products / (0.3 * 4e9)
  found = cells(beside.table(results, ONE, tiny=False), 'read')
  # 8 x 512 tokens.
  assert found[1:4] == ['0.0488', '0.0732', '1.50']
  assert found[4:6] == [f'{x:.0%}' for x in share] == ['9%', '3%']
  assert found[6:] == ['1.5', '1.5', '7.0', '7.0', '2', '4']


def test_table_takes_the_prompts_off(tmp_path):
  beside = load('beside_torch')
  results = beside.Results(tmp_path / 'r.json', {})
  short = {'short_seconds': [0.4]}
  results.add('decode_8', 'ours', figures(1.0, **short))
  text = beside.table(results, ONE, tiny=False)
  assert cells(text, 'decode_8')[1:4] == [f'{1000 / (8 * 64):.3g}', '', '']
  # 62 of 64 tokens in 0.6 s.
  apart = cells(text, 'decode_8, prompts apart')
  assert apart[1:4] == [f'{600 / (8 * 62):.3g}', '', '']


def test_agreement(tmp_path):
  beside = load('beside_torch')
  results = beside.Results(tmp_path / 'r.json', {})
  results.add('sft', 'ours', figures(1.0, loss=2.5))
  results.add('sft', 'theirs', figures(1.0, loss=2.25))
  wanted = np.float32([-1.0, -2.0])
  np.savez(results.beside('long_theirs.npz'), logprobs=wanted)
  np.savez(results.beside('long_ours.npz'), padded=wanted - [0.5, 0.25])
  said = list(beside.agreement(results))
  assert said[0] == 'sft: first losses 2.500000 and 2.250000'
  assert '2 log-probabilities differ by at most 0.5' in said[1]


def test_what_is_known_is_not_measured_again(model, tmp_path, monkeypatch):
  beside, started = load('beside_torch'), []

  def start(side, python, job, timeout):
    del timeout
    started.append((job['case']['part'], side, python))
    return 'it broke' if side == 'theirs' else figures(1.0)

  monkeypatch.setattr(beside, 'start', start)
  values = beside.flags.FlagValues()
  for name, value in {
    'model': str(model),
    'torch_python': 'other',
    'repeats': 1,
    'timeout': 1,
    'tiny': True,
  }.items():
    beside.flags.DEFINE_string(name, None, '', flag_values=values)
    values[name].value = value
  beside.flags.DEFINE_list('cases', ['read', 'sft_loop'], '', values)
  values.mark_as_parsed()
  setting = {'tiny': True}
  results = beside.Results(tmp_path / 'r.json', setting)
  assert not beside.measure(results, values)
  ours = [('read', 'ours', sys.executable), ('sft', 'ours', sys.executable)]
  theirs = ('read', 'theirs', 'other')
  assert started == [ours[0], theirs, ours[1]]
  # What failed is tried again.
  again = beside.Results(tmp_path / 'r.json', setting)
  beside.measure(again, values)
  assert started[3:] == [theirs]
  with pytest.raises(ValueError, match='name another file'):
    beside.Results(tmp_path / 'r.json', {'tiny': False})


def test_the_program(model, tmp_path):
  out = tmp_path / 'r.json'
  done = whole_runs.forked(
    [f'--model={model}', f'--json={out}', '--tiny', '--cases=read'],
    tmp_path,
    program=PROGRAM,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  known = json.loads(out.read_text())['results']['read']
  assert set(known) == {'ours'} and known['ours']['peak_gib'] > 0.05
  assert len(known['ours']['seconds']) == 3
  assert float(cells(done.stdout, 'read')[1]) > 0
  table = pathlib.Path(tmp_path, 'r_table.md').read_text()
  assert table in done.stdout


def test_an_unknown_case_is_refused(model, tmp_path):
  done = whole_runs.forked(
    [f'--model={model}', f'--json={tmp_path}/r.json', '--cases=reed'],
    tmp_path,
    program=PROGRAM,
  )
  assert done.returncode == 1
  assert '--cases=reed: there is none, only read,' in done.stderr
