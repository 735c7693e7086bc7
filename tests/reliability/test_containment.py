"""No path leads out of the folder that it has to stay in."""

from fncb import store
from tests.reliability.containment import escapes


def test_no_path_leads_out_of_its_folder(tmp_path, record_property):
    tried, open_ways = escapes(tmp_path)

    assert open_ways == []
    record_property("count", f"containment: {tried} ways out, also by links, all refused")


def test_paths_inside_are_free_to_use_links_and_dots(tmp_path, monkeypatch):
    (tmp_path / "run" / "real").mkdir(parents=True)
    (tmp_path / "run" / "link").symlink_to("real")
    (tmp_path / "alias").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    for i, (path, within) in enumerate(
        [
            ("run/a.safetensors", "run"),
            ("run/link/b.safetensors", tmp_path / "run"),
            ("alias/c.safetensors", "run"),
            ("run/d.safetensors", "alias"),
            ("run/new/e.safetensors", "run"),
            ("other/../run/f.safetensors", "run"),
            ("run/..g.safetensors", "run"),
        ]
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        store.write(path, {"step": i}, within=within)
        assert store.read_header(path)["step"] == i

        store.delete(path, within=within)
    assert list(tmp_path.rglob("*.safetensors")) == []
