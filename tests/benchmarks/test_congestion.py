"""The machine has its own way back after a measurement, however that ended."""

import pytest

from benchmarks.suite import congestion


def test_what_was_chosen_for_a_measurement_is_gone_after_it(tmp_path, monkeypatch):
    """Catches: a machine that goes on as it was measured."""
    setting = tmp_path / "tcp_congestion_control"
    setting.write_text("bbr\n")
    monkeypatch.setattr(congestion, "_SETTING", setting)

    def measure():
        with congestion.congested_by("cubic"):
            assert congestion.congestion() == "cubic"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert congestion.congestion() == "bbr"


def test_nothing_is_written_where_nothing_was_chosen(tmp_path, monkeypatch):
    """Catches: a benchmark that only root could run."""
    setting = tmp_path / "tcp_congestion_control"
    setting.write_text("bbr\n")
    setting.chmod(0o444)
    before = setting.stat().st_mtime_ns
    monkeypatch.setattr(congestion, "_SETTING", setting)
    with congestion.congested_by(None):
        pass
    assert setting.stat().st_mtime_ns == before
