"""Reading a large file is announced; a small one is not."""

from tbptt.report.progress import LARGE, announce_reading


def test_only_large_files_are_announced(tmp_path, capsys):
    (tmp_path / "small").write_bytes(b"1")
    (tmp_path / "dangling").symlink_to("nowhere")
    announce_reading(tmp_path)
    assert capsys.readouterr().out == ""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(LARGE)  # a hole
    announce_reading(tmp_path / "large")
    announce_reading(tmp_path)
    assert capsys.readouterr().out == f"Reading {tmp_path / 'large'}\nReading {tmp_path}\n"
