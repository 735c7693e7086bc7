from pathlib import Path

import pytest

from fncb.naming import free_name, numbered, stem_and_suffix


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("events.jsonl", ("events", ".jsonl")),
        ("events.jsonl.gz", ("events", ".jsonl.gz")),
        ("a.b.jsonl.zst", ("a.b", ".jsonl.zst")),
        ("events.gz", ("events", ".gz")),
        ("events", ("events", "")),
    ],
)
def test_what_compresses_belongs_to_the_suffix(name, parts):
    assert stem_and_suffix(Path("runs", name)) == parts
    assert numbered(Path("runs", name), 2) == Path("runs", "-v2".join(parts))


def test_a_free_name_gets_the_next_version_before_its_suffix(tmp_path):
    path = tmp_path / "epoch=1-loss=0.5.safetensors"
    names = []
    for _ in range(3):
        names.append(free_name(path).name)
        free_name(path).touch()

    assert names == [
        "epoch=1-loss=0.5.safetensors",
        "epoch=1-loss=0.5-v1.safetensors",
        "epoch=1-loss=0.5-v2.safetensors",
    ]


def test_the_first_version_of_a_name_can_be_chosen(tmp_path):
    path = tmp_path / "test.safetensors"
    for name in ("test", "test-v9", "test-v10"):
        assert free_name(path, first=9) == tmp_path / f"{name}.safetensors"
        free_name(path, first=9).touch()


def test_a_link_that_leads_nowhere_takes_its_name(tmp_path):
    path = tmp_path / "last.safetensors"
    path.symlink_to(tmp_path / "gone")

    assert free_name(path).name == "last-v1.safetensors"
