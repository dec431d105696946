"""A real model: out of a GGUF file as transformers and torch have it, trained,
and written for others.

The update of 30 blocks takes half a minute to compile, so the first six of them
are trained, all their parameters, on a short prompt.
"""

import dataclasses
import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regex

from awpo_jax import types
from awpo_jax.checkpointing import policies
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.evaluation import policy_answers
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models.formats import gguf_files
from awpo_jax.rollout.rewards import scoring, toolrl
from awpo_jax.rollout.rewards.judges import rubric
from awpo_jax.rollout.text import chat_template, demonstrations
from awpo_jax.rollout.text import codec as codec_lib
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import minibatches, optimizer, train_step
from tests.golden import make_smollm2

pytest.importorskip('gguf', reason='pip install gguf')
try:
  gguf_files.find('smollm2')
except FileNotFoundError as error:
  pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope='module')
def policy():
  return policies.load('smollm2')


@pytest.fixture(scope='module')
def golden():
  return np.load(make_smollm2.FILE)


def _logits(policy, ids):
  decoder = decoder_lib.Decoder(policy.config)
  # Op by op: compiling 30 blocks would take longer than computing them.
  with jax.disable_jit():
    logits = decoder.apply({'params': policy.params}, jnp.asarray(ids)[None])
  return np.asarray(logits)[0]


def test_logits(policy, golden):
  got = _logits(policy, golden['ids'])
  step = got.shape[1] // make_smollm2.LOGITS
  np.testing.assert_allclose(
    got[:, ::step], golden['logits'], atol=1e-4 * golden['spread']
  )
  np.testing.assert_array_equal(got.argmax(-1), golden['argmax'])


@pytest.mark.parametrize('i', range(len(make_smollm2.CHATS)))
def test_every_token_of_a_greedy_answer(policy, golden, i):
  chat, answer = golden[f'chat_{i}'], golden[f'answer_{i}']
  got = _logits(policy, np.concatenate([chat, answer]))
  np.testing.assert_array_equal(got.argmax(-1)[len(chat) - 1 : -1], answer)


@pytest.mark.slow
def test_the_sampler_with_its_cache_answers_alike(policy, golden):
  chat, answer = golden['chat_0'], golden['answer_0']
  answerer = policy_answers.Answerer(
    policy.params,
    decoder_lib.Decoder(policy.config),
    policy.tokenizer,
    policy.stop_ids,
    buckets=(64,),
    batch=1,
    max_tokens=len(answer),
    temperature=0.0,
    seed=0,
  )
  found = answerer.answer([chat], np.zeros((1, 1), np.int32))
  ((text, _),) = found[0]
  assert text == policy.tokenizer.decode(answer, skip_special_tokens=True)


def _by_hand(data, text):
  """Ids by plain BPE, split as llama.cpp splits for `smollm`."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  shifted = iter(range(256, 512))
  letter = [chr(b if b in printable else next(shifted)) for b in range(256)]
  ranks = {x: i for i, x in enumerate(data['tokenizer.ggml.merges'])}
  ids = {x: i for i, x in enumerate(data['tokenizer.ggml.tokens'])}
  words = r' ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+'
  found = []
  for piece in regex.findall(r'\p{N}|\P{N}+', text):
    for word in regex.findall(rf"'(?:[stmd]|re|ve|ll)|{words}", piece):
      parts = [letter[b] for b in word.encode()]
      while pairs := [
        (ranks[pair], i)
        for i, pair in enumerate(map(' '.join, itertools.pairwise(parts)))
        if pair in ranks
      ]:
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
      found += [ids[x] for x in parts]
  return found


def test_tokens(policy):
  # transformers ignores how the file wants text split, and so joins the spaces
  # before numbers with these: no reference for this page.
  file = gguf_files.find('smollm2')
  ids = policy.tokenizer.encode(make_smollm2.TEXT, add_special_tokens=False)
  assert ids == _by_hand(gguf_files.metadata(file), make_smollm2.TEXT)
  assert policy.tokenizer.decode(ids) == make_smollm2.TEXT
  assert policy.tokenizer.convert_ids_to_tokens(policy.stop_ids) == [
    '<|im_end|>'
  ]


TASK = types.Task(
  task_id='weather',
  system='',
  user='What is the weather in Oslo?',
  tools=(types.Tool('forecast', 'Weather.', {'city': {'type': 'string'}}),),
  ground_truth="""<think> I call forecast for Oslo. </think>
<tool_call>
{"name": "forecast", "parameters": {"city": "Oslo"}}
</tool_call>""",
  kind='single',
)
RIGHT = TASK.ground_truth
ANSWERS = [RIGHT, RIGHT.replace('Oslo"', 'Rome"'), RIGHT[9:], 'It rains.']
CONFIG = config_lib.parse(
  [
    *('--model=smollm2', '--output_dir=x', '--sft_steps=2', '--rl_steps=2'),
    *('--prompt_buckets=128', '--response_buckets=48', '--sft_batch=1'),
    *('--sft_micro=1', '--sft_warmup=0', '--sft_learning_rate=1e-4'),
    *('--prompts_per_step=1', f'--samples={len(ANSWERS)}', '--minibatches=1'),
    *('--learning_rate=1e-4', '--logprob_chunk=48'),
  ]
)
BLOCKS = 6
MESH = sharding.data_mesh(jax.devices()[:1])


@pytest.fixture(scope='module')
def short(policy):
  """The first blocks, as a policy."""
  left_out = {f'layers_{i}' for i in range(BLOCKS, policy.config.layers)}
  return dataclasses.replace(
    policy,
    config=dataclasses.replace(policy.config, layers=BLOCKS),
    params={k: x for k, x in policy.params.items() if k not in left_out},
  )


@pytest.fixture(scope='module')
def batches(short):
  """A batch to imitate and one of AWPO, as a run makes them."""
  style = chat_template.Style('short')
  codec = codec_lib.make_codec(short.tokenizer, short.generation, style)
  data = CONFIG.data
  prompts, answers = demonstrations.batch(
    codec,
    [types.Demonstration(TASK, text) for text in ANSWERS],
    range(len(ANSWERS)),
    prompt_buckets=data.prompt_buckets,
    response_buckets=data.response_buckets,
  )
  first, rest = (
    jax.tree.map(lambda x, n=n: x[:n], (prompts, answers)) for n in (1, 4)
  )
  rewards, _ = scoring.score(
    [ANSWERS], [TASK], reward=toolrl.toolrl, judge=rubric.rubric
  )
  rollout = types.Rollout(
    prompts=first[0],
    completions=jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rest[1]),
    rewards=rewards,
    sample_ids=np.arange(4, dtype=np.int32)[None],
  )
  dealer = minibatches.Dealer(CONFIG, MESH)
  decoder = decoder_lib.Decoder(short.config)
  prepare = compile_lib.make_preparer(CONFIG, decoder, MESH)
  prepared = prepare(short.params, dealer.place(rollout))
  cut = jax.jit(functools.partial(sharding.cut, minibatches=1, micro=1))
  return {
    'sft': minibatches.of_demonstrations(*first, CONFIG, MESH),
    'rl': next(iter(dealer.cut(prepared.batch, cut))),
  }, jax.device_get(prepared.batch.advantages)[0, 0]


def test_advantages_follow_the_rewards(batches):
  right, value, layout, words = batches[1]
  assert right > value > words and right > layout > words
  np.testing.assert_allclose(batches[1].sum(), 0, atol=1e-5)


@pytest.fixture(scope='module')
def trained(short, batches):
  """Losses of two updates of each phase, and what has come of it."""
  decoder, found = decoder_lib.Decoder(short.config), {}
  params = jax.tree.map(jnp.copy, short.params)  # An update takes its state.
  for phase, tx in optimizer.make_optimizers(CONFIG).items():
    state = sharding.place_state(train_step.init_state(params, tx), MESH)
    update = compile_lib.make_update(CONFIG, decoder, MESH, phase, tx)
    found[phase] = []
    for _ in range(2):
      state, metrics = update(state, batches[0][phase])
      assert metrics.finite and metrics.grad_norm > 0
      found[phase].append(float(metrics.sums['loss']))
    params = state.params
  return found, params


def test_an_update_of_each_phase_lowers_the_loss_on_its_batch(trained):
  (first, then), (before, after) = trained[0]['sft'], trained[0]['rl']
  assert then < first - 0.1
  assert after < before - 0.01


def test_export_is_what_was_trained_and_readable_by_others(
  short, trained, tmp_path
):
  changed = dataclasses.replace(short, params=trained[1])
  policies.save_hf(changed, tmp_path / 'out')
  files = list(pathlib.Path(tmp_path / 'out').iterdir())
  assert {oct(x.stat().st_mode & 0o777) for x in files} == {'0o644'}
  again = policies.load(tmp_path / 'out')
  jax.tree.map(np.testing.assert_array_equal, again.params, trained[1])
  for new, old in zip(
    *map(jax.tree.leaves, (again.params, short.params)), strict=True
  ):
    assert (new != old).any()
  text = make_smollm2.TEXT
  assert again.tokenizer.encode(text) == short.tokenizer.encode(text)
  assert again.stop_ids == short.stop_ids
