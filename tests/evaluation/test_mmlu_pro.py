"""Which letter a reply chooses, and the prompt."""

import collections
import time

import pytest

from awpo_jax.evaluation import mmlu_pro
from awpo_jax.rollout.datasets import mmlu_pro as rows

ROW = rows.Row('mmlu_pro_1', 'law', 'Why?', ('x', 'y', 'z'), 'B')


@pytest.mark.parametrize(
  ('text', 'letter'),
  [
    ('the answer is (C). Or the answer is D', 'C'),
    ('the answer is J', 'J'),
    ('the answer is K, not A', 'A'),
    # Any capital A to J after it counts, as upstream has it.
    ('the answer is Incorrect', 'I'),
    ('answer: A, Answer:  B\nanswer: C', 'B'),
    ('Answer:\n\nD', 'D'),
    ('B, or rather C.', 'C'),
    ('I', 'I'),
    ('CAB', None),
    ('a b c', None),
    ('', None),
    ('C\nQuestion: another? The answer is (D)', 'C'),
    # What a thought weighs is no answer.
    ('<think> The answer is (A)? No. </think>\nThe answer is (B).', 'B'),
    ('The answer is (A)? No. </think>\nThe answer is (B).', 'B'),
    ('<think> A </think> A? <think> Or B? </think> The answer is (C).', 'C'),
    ('<think> Question: is it so? The answer is (A) </think> B', 'B'),
    ('<think> The answer is (A) </think> So it is.', None),
    ('<think> The answer is (A)', None),
  ],
)
def test_extraction(text, letter):
  assert mmlu_pro.extract(text) == letter


@pytest.mark.parametrize(
  'text', ['answer: ' * 40000, 'answer:' + ' ' * 300000, 'answer is (' * 30000]
)
def test_hostile_output_takes_no_time(text):
  begun = time.process_time()
  assert mmlu_pro.extract(text) is None
  assert time.process_time() - begun < 2


def test_no_choice_draws_every_option_alike_and_the_same_again():
  drawn = [mmlu_pro.drawn_option(ROW, sample) for sample in range(3000)]
  assert drawn == [mmlu_pro.drawn_option(ROW, sample) for sample in range(3000)]
  counts = collections.Counter(drawn)
  # 1000 each, standard deviation 26.
  assert set(counts) == set('ABC') and all(
    870 < count < 1130 for count in counts.values()
  )


def test_the_prompt():
  worked = rows.Row(
    'mmlu_pro_2',
    'law',
    'Who?',
    ('u', 'v'),
    'A',
    "A: Let's think step by step. It is u. The answer is (A).",
  )
  other = rows.Row('mmlu_pro_3', 'math', '1?', ('u', 'v'), 'A', 'x')
  assert mmlu_pro.prompt(ROW, [other, worked]) == (
    'The following are multiple choice questions (with answers) about law. '
    'Think step by step and then finish your answer with "the answer is (X)" '
    'where X is the correct letter choice.\n\n'
    "Question:\nWho?\nOptions:\nA. u\nB. v\nAnswer: Let's think step by step. "
    'It is u. The answer is (A).\n\n'
    "Question:\nWhy?\nOptions:\nA. x\nB. y\nC. z\nAnswer: Let's think step by "
    'step.'
  )
