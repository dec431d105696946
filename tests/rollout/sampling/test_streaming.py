"""Text that grows: the sampler's own tokens, no broken characters, in order."""

import functools
import io

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.sampling import sampler, streaming
from awpo_jax.rollout.text import tokenizers
from tests.helpers import sampling_cases as cases

PROMPT = np.int32([4, 8, 15, 16])


def run(settings, params=None):
  decoder, random_params = cases.model()
  return list(
    streaming.snapshots(
      random_params if params is None else params,
      PROMPT,
      settings,
      decoder=decoder,
      stop_ids=cases.STOP_IDS,
      pad_id=cases.PAD_ID,
    )
  )


@functools.cache
def sampled(temperature):
  """Three answers of the training sampler, its prompt padded otherwise."""
  decoder, params = cases.model()
  prompts = types.Prompts(
    tokens=np.pad(PROMPT, (3, 0))[None],
    mask=np.arange(7)[None] >= 3,
    ids=np.zeros(1, np.int32),
  )
  got = jax.jit(
    functools.partial(
      sampler.sample,
      decoding=sampler.Decoding(
        decoder, 12, cases.STOP_IDS, cases.PAD_ID, temperature
      ),
    )
  )(
    params,
    prompts,
    np.arange(3, dtype=np.int32)[None],
    sampler.fact_key(sampler.facts(5, 'generate')),
  )
  got = jax.device_get(got)
  return [
    tokens[mask]
    for tokens, mask in zip(got.tokens[0], got.mask[0], strict=True)
  ]


@pytest.mark.parametrize(('chunk', 'temperature'), [(1, 1.0), (5, 1.0), (5, 0)])
def test_tokens_are_those_of_the_training_sampler(chunk, temperature):
  settings = streaming.Settings(
    samples=3, max_tokens=12, temperature=temperature, seed=5, chunk=chunk
  )
  want = sampled(temperature)
  got = run(settings)
  longest = max(map(len, want))
  # One sample at least goes through several chunks.
  assert len(got) == -(-longest // chunk) > 1
  for number, snapshot in enumerate(got, start=1):
    for (tokens, done), row in zip(snapshot, want, strict=True):
      np.testing.assert_array_equal(tokens, row[: number * chunk])
      assert done == (len(row) <= number * chunk)


def test_nothing_compiles_between_the_chunks():
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: (
      compiled.append(event)
      if event.endswith('backend_compile_duration')
      else None
    )
  )
  decoder, _ = cases.model()
  steps = streaming.snapshots(
    cases.chain(),
    np.int32([1, 40]),
    streaming.Settings(samples=2, max_tokens=14, chunk=2),
    decoder=decoder,
    stop_ids=cases.STOP_IDS,
    pad_id=cases.PAD_ID,
  )
  next(steps)
  before = len(compiled)
  assert before
  rest = list(steps)
  assert len(rest) == 6 and len(compiled) == before
  # Token v is followed by v + 1: 41 to 54, cut by the limit.
  for tokens, done in rest[-1]:
    np.testing.assert_array_equal(tokens, np.arange(41, 55))
    assert done


def test_a_prompt_is_padded_and_masked():
  prompts = streaming._padded(np.arange(70), pad_id=9)
  assert prompts.tokens.shape == prompts.mask.shape == (1, 128)
  np.testing.assert_array_equal(prompts.tokens[0], [9] * 58 + list(range(70)))
  np.testing.assert_array_equal(prompts.mask[0], [False] * 58 + [True] * 70)
  assert streaming._padded(np.arange(64), pad_id=9).tokens.shape == (1, 64)


@pytest.mark.parametrize(
  ('settings', 'prompt', 'problem'),
  [
    ({'samples': 0}, 5, '--samples=0: at least 1'),
    ({'max_tokens': 0}, 5, '--max_tokens=0: at least 1'),
    ({'temperature': -0.5}, 5, '--temperature=-0.5'),
    ({'temperature': float('nan')}, 5, '--temperature=nan'),
    ({'seed': 2**31}, 5, '--seed=2147483648'),
    ({}, 0, 'no tokens'),
    (
      {'max_tokens': 96},
      5,
      'prompt of 5 tokens and --max_tokens=96 .*max_position_embeddings=100',
    ),
  ],
)
def test_what_cannot_be_sampled_is_refused(settings, prompt, problem):
  streaming.check_settings(streaming.Settings(max_tokens=95), 5, 100)
  with pytest.raises(ValueError, match=problem):
    streaming.check_settings(
      streaming.Settings(**{'max_tokens': 8, **settings}), prompt, 100
    )


@pytest.fixture(scope='module')
def tokenizer():
  """A token a byte, and the special ones."""
  return tokenizers.train_tokenizer(['a'], vocab_size=289)


def token_steps(*rows):
  """Snapshots in which every row has one token more than in the one before."""
  steps = max(map(len, rows))
  return [
    [(np.array(row[:count]), count >= len(row)) for row in rows]
    for count in range(1, steps + 1)
  ]


def byte_tokens(tokenizer, data):
  """A token for each byte."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  letters = {b: chr(b) for b in printable}
  letters |= {b: chr(256 + i) for i, b in enumerate(others)}
  return tokenizer.convert_tokens_to_ids([letters[b] for b in data])


def pieces(tokenizer, *rows, stop_ids=()):
  return list(streaming.stream(tokenizer, token_steps(*rows), stop_ids, ''))


def test_characters_are_written_whole(tokenizer):
  text = 'a\u00e9\u4e2d\U0001f600z'  # 1, 2, 3, 4 and 1 bytes.
  row = byte_tokens(tokenizer, text.encode())
  assert len(row) == 11
  got = pieces(tokenizer, row)
  assert [piece for _, piece in got] == list(text)


@pytest.mark.parametrize(
  'data',
  [
    b'a\xf0\x9f\x98',  # Ends within a character.
    b'a\xff\xfe\xfd\xfc\xfbz',  # Never characters.
    b'\xe4\xb8z\xe4\xb8\xad\x80\x80',  # Broken off, whole, stray bytes.
    '\ufffd\ufffdx\ufffd'.encode(),  # The sign itself.
  ],
)
def test_bytes_that_are_no_characters_come_out_at_last(tokenizer, data):
  row = byte_tokens(tokenizer, data)
  got = pieces(tokenizer, row)
  # As Python reads the bytes, all of them, once.
  assert ''.join(piece for _, piece in got) == data.decode(errors='replace')


def test_no_more_than_a_character_is_held_back(tokenizer):
  row = byte_tokens(tokenizer, b'a\xff\xff\xff\xff\xffz')
  # The first three bytes might all belong to a character yet to come.
  assert [piece for _, piece in pieces(tokenizer, row)] == [
    'a',
    '\ufffd',
    '\ufffd',
    '\ufffd\ufffd\ufffdz',
  ]


def test_the_stop_token_is_not_written_and_others_are(tokenizer):
  stop, other = tokenizer.convert_tokens_to_ids(['<|im_end|>', '<|im_start|>'])
  q = byte_tokens(tokenizer, b'q')
  got = pieces(tokenizer, [*q, other, stop], stop_ids=(stop,))
  assert ''.join(piece for _, piece in got) == 'q<|im_start|>'
  # An answer may be nothing but its end.
  assert pieces(tokenizer, [stop], stop_ids=(stop,)) == [(0, '')]


def test_one_answer_after_the_other(tokenizer):
  rows = [byte_tokens(tokenizer, x) for x in (b'abc', b'de', b'fghij')]
  got = pieces(tokenizer, *rows)
  # The second was complete, the third three tokens long at its turn.
  assert got == [
    *((0, 'a'), (0, 'b'), (0, 'c')),
    (1, 'de'),
    *((2, 'fgh'), (2, 'i'), (2, 'j')),
  ]


def test_answers_are_printed_under_headings():
  out = io.StringIO()
  streaming.write([(0, 'a'), (0, 'b\n'), (1, ''), (2, 'c')], 3, out)
  assert out.getvalue() == (
    '--- answer 1 of 3\nab\n\n--- answer 2 of 3\n\n--- answer 3 of 3\nc\n'
  )
  out = io.StringIO()
  streaming.write([(0, 'a'), (0, 'b')], 1, out)
  assert out.getvalue() == 'ab\n'


def test_text_is_printed_as_it_comes():
  seen = []

  class Out(io.StringIO):
    def flush(self):
      seen.append(self.getvalue())

  def slow():
    for letter in 'ab':
      yield 0, letter
      # Printed before the next one is sampled.
      assert seen[-1].endswith(letter)

  streaming.write(slow(), 1, Out())
  assert seen[:2] == ['a', 'ab']
