"""The command paper makes the table and the figures of a store."""

from pyro_bayesprune.cli import app


def test_the_commands(store, tmp_path, capsys):
    assert app.main(["paper", "table1", str(store), "--out", str(tmp_path / "t.md")]) == 0
    assert "paper 0.9779" in (tmp_path / "t.md").read_text()
    assert app.main(["paper", "table1", str(store), "--format", "csv"]) == 0
    assert "mnist,fcn,magnitude,0.75,0.91" in capsys.readouterr().out
    assert app.main(["paper", "table1", str(store), "--format", "png"]) == 2
    assert (
        app.main(["paper", "figures", str(store), "--format", "svg", "--out", str(tmp_path)]) == 0
    )
    streams = capsys.readouterr()
    assert "figure-04-mnist-fcn-75.svg" in streams.out
    assert "not made: Paper's figure 5" in streams.err
    assert app.main(["paper", "figures", str(tmp_path / "nothing")]) == 2
