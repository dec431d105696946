"""The page of failures holds what was written as text, and nothing else."""

import html
import html.parser
import re

import pytest

from awpo_jax.evaluation import items as items_lib
from awpo_jax.evaluation import results
from tests.evaluation import test_answers

EVIL = (
  '</pre><script>alert(1)</script><img src=x onerror=alert(1)>"\'\x00\u202e'
)


class Reader(html.parser.HTMLParser):
  """Tags with their attributes, and the text of each `pre`."""

  def __init__(self):
    super().__init__()
    self.tags, self.texts, self.inside = [], [], False

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == 'pre':
      self.texts.append('')
      self.inside = True

  def handle_endtag(self, tag):
    if tag == 'pre':
      self.inside = False

  def handle_data(self, data):
    if self.inside:
      self.texts[-1] += data


def scored(text, error='bad', row_id='r'):
  item = test_answers.make_item(row_id, f'asked {EVIL}')
  result = items_lib.Result(error is None, error, [{text: {}}])
  return results.Scored(item, ((text,),), (result,))


def read(*rows):
  reader = Reader()
  page = results.failures_page('a page', rows)
  reader.feed(page)
  return page, reader


def test_hostile_text_stays_text():
  answer = f'<think> thought {EVIL} </think>\nanswer {EVIL}'
  _, reader = read(scored(answer, error=EVIL, row_id=EVIL))
  names = [tag for tag, _ in reader.tags]
  assert names.count('script') == 1 and 'img' not in names
  assert not any(
    key.startswith('on') for _, attributes in reader.tags for key in attributes
  )
  shown = EVIL.replace('\x00', '\ufffd').replace('\u202e', '\ufffd')
  asked, thought, said, decoded, _ = reader.texts
  assert (asked, thought) == (f'asked {shown}', f'thought {shown}')
  assert said == f'answer {shown}' and 'alert(1)' in decoded
  (row,) = (attributes for tag, attributes in reader.tags if tag == 'details')
  assert row == {'data-category': 'c', 'data-error': shown}


@pytest.mark.parametrize(
  ('answer', 'shown'),
  [
    ('<think> a </think> b', ['a', 'b']),
    ('a </think> b', ['a', 'b']),
    (
      '<think> a </think> c <think> d </think> b',
      ['a </think> c <think> d', 'b'],
    ),
    ('<think> a', ['a', '']),
    (' b ', [' b ']),
  ],
)
def test_thought_and_answer(answer, shown):
  page, _ = read(scored(answer))
  parts = re.findall('<h3>(?:thought|answer)</h3><pre>(.*?)</pre>', page)
  assert [html.unescape(part) for part in parts] == shown


def test_the_page_forbids_itself_the_rest():
  page, reader = read(scored('a'))
  (policy,) = (
    attributes['content']
    for _, attributes in reader.tags
    if attributes.get('http-equiv') == 'Content-Security-Policy'
  )
  assert policy.startswith("default-src 'none'") and "'sha256-" in policy
  assert 'http:' not in page and 'https:' not in page


def test_only_wrong_answers_are_there():
  page, reader = read(scored('a', error=None), scored('b', row_id='wrong'))
  rows = [tag for tag, _ in reader.tags if tag == 'details']
  assert len(rows) == 1 and 'wrong' in page and '1 wrong answers' in page


def test_too_many_failures_are_said(monkeypatch):
  monkeypatch.setattr(results, 'MAX_FAILURES', 2)
  page, reader = read(*(scored('a', row_id=f'r{i}') for i in range(3)))
  assert len([tag for tag, _ in reader.tags if tag == 'details']) == 2
  assert '3 wrong answers, of which the first 2 are here' in page


@pytest.mark.parametrize('extra', [0, 7])
def test_long_text_is_cut(extra):
  _, reader = read(scored('x' * (20_000 + extra)))
  said = reader.texts[1]
  assert said.count('x') == 20_000
  assert said.endswith(f'[{extra} more characters]' if extra else 'x')
