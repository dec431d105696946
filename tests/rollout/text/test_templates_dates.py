"""No chat template reads a clock: prompts are the same every day."""

import datetime
import re

import pytest
from transformers.utils import chat_template_utils

from awpo_jax import types
from awpo_jax.rollout.text import chat_template, prompts, templates
from tests.helpers import opened_thoughts

TASK = types.Task('t', 'Sys', 'Call f with 1.', (), 'x', 'single')
USER = {'role': 'user', 'content': 'x'}


@pytest.fixture
def clock(monkeypatch):
  """The clock that transformers gives to templates, at any day."""

  def at(day):
    class Clock(datetime.datetime):
      @classmethod
      def now(cls, tz=None):
        return cls(2031, 1, day)

    monkeypatch.setattr(chat_template_utils, 'datetime', Clock)

  return at


LLAMA_3_2 = """\
{%- if not date_string is defined %}
  {%- if strftime_now is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
  {%- else %}
    {%- set date_string = '26 Jul 2024' %}
  {%- endif %}
{%- endif %}
{{- 'Today Date: ' + date_string }}"""


@pytest.mark.parametrize(
  ('template', 'wanted'),
  [
    ("{{ strftime_now('%Y-%m-%d') }}", '2025-02-05'),
    (
      '{%- macro day(form) %}{{ strftime_now(form) }}{% endmacro %}'
      "{{ day('%A, %-d %B %Y') }}",
      'Wednesday, 5 February 2025',
    ),
    ("{% set now = strftime_now %}{{ now(format='%H:%M') }}", '00:00'),
    ("{{ strftime_now('100%% on %d/%m') }}", '100% on 05/02'),
    ("{{ strftime_now('%d') | int - 1 }}", '4'),
    (LLAMA_3_2, 'Today Date: 05 Feb 2025'),
    (LLAMA_3_2.replace('date_string', 'today'), 'Today Date: 05 Feb 2025'),
  ],
)
def test_every_clock_of_a_template_is_pinned(clock, template, wanted):
  tokenizer = opened_thoughts.opening('')
  tokenizer.chat_template = (
    template + "{{ messages[-1].content + '<|im_end|>' }}"
  )
  style = chat_template.Style(date='2025-02-05')
  for day in (1, 2):
    clock(day)
    text = tokenizer.decode(prompts.encode_prompt(tokenizer, TASK, style))
    assert text == f'{wanted}{TASK.user}<|im_end|>'
  assert '2025' not in chat_template.render(
    tokenizer, [USER]
  )  # Not where none is named.


def test_a_pinned_clock_reads_as_python_would():
  tokenizer = opened_thoughts.opening('')
  day = datetime.datetime(2025, 2, 5)
  known = [f'%{x}' for x in 'aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ%'] + [
    '%-d'
  ]
  form = '|'.join(known) + '|%%d|%%%d|plain'
  tokenizer.chat_template = '{{ strftime_now(form) }}'
  got = templates.apply(
    tokenizer, [USER], tokenize=False, date='2025-02-05', form=form
  )
  assert got == day.strftime(form)


@pytest.mark.parametrize('start', ['\n\n', '  a\n', '{% if 1 %}\nb{% endif %}'])
def test_a_template_with_a_clock_keeps_its_first_line(start):
  tokenizer = opened_thoughts.opening('')
  tokenizer.chat_template = f"{start}{{{{ strftime_now('') }}}}z\n"
  theirs = tokenizer.apply_chat_template([USER], tokenize=False)
  assert chat_template.render(tokenizer, [USER]) == theirs


def test_templates_are_given_what_they_were(monkeypatch):
  """Without a clock the text itself, for the tools and for none."""
  tokenizer = opened_thoughts.opening('')
  seen = []
  monkeypatch.setattr(
    tokenizer,
    'apply_chat_template',
    lambda messages, **options: seen.append(options) or '',
  )
  tokenizer.chat_template = {'default': 'a', 'tool_use': 'b'}
  for tools in (None, [{'type': 'function'}]):
    templates.apply(tokenizer, [USER], tools=tools, tokenize=False)
  assert [each['chat_template'] for each in seen] == ['a', 'b']
  assert {each['date_string'] for each in seen} == {'26 Jul 2024'}


@pytest.mark.parametrize(
  'date', ['', 'x', '2025-02-30', '20250205', '2025-W06']
)
def test_what_is_no_day_is_refused(date):
  match = re.escape(f'--template_date={date}: expected a day')
  with pytest.raises(ValueError, match=match):
    chat_template.render(opened_thoughts.opening(''), [USER], date=date)
