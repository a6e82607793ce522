"""Copies of the best."""

from ma_agiqa_client.cli._copies import BestFolder
from ma_agiqa_client.cli.rows import Row


def test_copies_are_named_by_rank_and_never_collide(tmp_path):
    rows = []
    for name, mos in {"x/a.png": 1.0, "y/a.png": 3.0, "b.png": 2.0}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        rows.append(Row(str(path), mos))
    rows.append(Row("absent.png", error="no"))
    for ranked, order in ((False, "y/a.png b.png x/a.png"), (True, "x/a.png y/a.png b.png")):
        target = tmp_path / f"best-{ranked}"
        folder = BestFolder(str(target), ranked=ranked)
        for row in rows:
            folder.add(row)
        assert not target.exists()  # nothing before the end
        folder.finish()
        copies = sorted(target.glob("0*"))
        assert [copy.read_text() for copy in copies] == order.split()
        assert [copy.name[:5] for copy in copies] == ["0001_", "0002_", "0003_"]
