"""A foreign checkpoint is read once: by the check before the run directory is made, and not again by the run."""

from tbptt.launch.world import World
from tbptt.tasks import check, import_model
from tests.helpers import composed
from tests.interop.foreign_files import original_file


def test_a_foreign_checkpoint_is_read_once(tmp_path, monkeypatch):
    source, reads, read = original_file(tmp_path / "weights.npz", "a_plain"), [], import_model.read
    monkeypatch.setattr(import_model, "read", lambda config: reads.append(config) or read(config))
    words = ["import.format=original", f"import.path={source.path}", f"import.config={source.config}"]
    config = composed("task=import", *words)
    check(config)
    check(config)
    (tmp_path / "run").mkdir()
    import_model.run(config, tmp_path / "run", World())
    assert len(reads) == 1 and (tmp_path / "run/checkpoints/last").exists()
