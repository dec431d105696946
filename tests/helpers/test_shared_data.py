"""Where third-party rows are required, none of their tests is skipped."""

import pytest

from tests.helpers import shared_data

# Caught together: a skip that got away would skip this test too.
STOPS = (pytest.skip.Exception, pytest.fail.Exception)


def test_absent_data_skips_or_fails(monkeypatch, tmp_path):
  monkeypatch.setenv('AWPO_SHARED', str(tmp_path))
  monkeypatch.delenv('AWPO_REQUIRE_SHARED', raising=False)
  with pytest.raises(STOPS, match='set AWPO_SHARED') as raised:
    shared_data.path('rlla')
  assert raised.type is pytest.skip.Exception
  monkeypatch.setenv('AWPO_REQUIRE_SHARED', '1')
  with pytest.raises(STOPS, match='data/rlla') as raised:
    shared_data.path('rlla')
  assert raised.type is pytest.fail.Exception
  (tmp_path / 'data' / 'rlla').mkdir(parents=True)
  assert shared_data.path('rlla') == tmp_path / 'data' / 'rlla'
