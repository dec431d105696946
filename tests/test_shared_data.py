"""Where third-party rows are required, none of their tests is skipped."""

import pytest

from tests import shared_data


def test_absent_data_skips_or_fails(monkeypatch, tmp_path):
  monkeypatch.setenv('AWPO_SHARED', str(tmp_path))
  monkeypatch.delenv('AWPO_REQUIRE_SHARED', raising=False)
  with pytest.raises(pytest.skip.Exception, match='set AWPO_SHARED'):
    shared_data.path('rlla')
  monkeypatch.setenv('AWPO_REQUIRE_SHARED', '1')
  with pytest.raises(pytest.fail.Exception, match='data/rlla'):
    shared_data.path('rlla')
  (tmp_path / 'data' / 'rlla').mkdir(parents=True)
  assert shared_data.path('rlla') == tmp_path / 'data' / 'rlla'
