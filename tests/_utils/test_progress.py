"""Progress without a terminal: a line at the end, and at most one in a minute."""

from pyro_bayesprune._utils import progress


def lines(capsys, monkeypatch, seconds, total=10):
    """Return the epochs that were printed, with epochs of some seconds."""
    times = iter(seconds * number for number in range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.epoch_progress("fit", total) as show:
        for _ in range(total):
            show({"loss": "0.5"})
    return capsys.readouterr().err.splitlines()


def test_a_fast_training_prints_one_line(capsys, monkeypatch):
    assert lines(capsys, monkeypatch, 0.01) == ["fit  epoch 10/10  loss 0.5"]


def test_a_slow_training_prints_a_line_a_minute(capsys, monkeypatch):
    printed = lines(capsys, monkeypatch, 35.0)
    assert 3 <= len(printed) <= 6 and printed[-1].startswith("fit  epoch 10/10")


def test_counted_yields_all_items_without_a_display(capsys):
    assert list(progress.counted(range(3), "items", "item")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
