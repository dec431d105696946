"""Every verdict of upstream's checker that is at hand."""

import gzip
import json

from awpo_jax.evaluation.bfcl import checker, literals, values
from awpo_jax.rollout.datasets.bfcl import rows
from tests.helpers import shared_data


def test_verdict_and_error_type_of_every_vector():
  known = {row.row_id: row for row in rows.read(str(shared_data.path('bfcl')))}
  path = shared_data.path('bfcl', 'ast_checker_vectors.jsonl.gz')
  count = 0
  with gzip.open(path, 'rt') as lines:
    for line in lines:
      vector = json.loads(line)
      row = known[vector['id']]
      got = checker.check_calls(
        vector['calls'], row.functions, row.ground_truth, row.category
      )
      assert got == (vector['valid'], vector['error_type']), vector
      count += 1
  assert count == 3891


def _vectors():
  path = shared_data.path('bfcl', 'type_conversion_vectors.json')
  return json.loads(path.read_text())


def test_every_conversion():
  convert = {
    'java': literals.convert_java,
    'javascript': literals.convert_javascript,
  }
  vectors = _vectors()
  for vector in vectors:
    if vector['language'] == 'standardize_string':
      got = values.normalize(vector['value'])
    else:
      got = convert[vector['language']](
        vector['value'], vector['type'], vector['nested']
      )
    # Their types, too: 1 is not 1.0.
    assert repr(got) == repr(vector['result']), vector
  assert len(vectors) == 66
