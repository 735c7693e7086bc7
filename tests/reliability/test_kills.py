"""R1: a kill -9 at any moment loses no acknowledged save and leaves no file that cannot be loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")
ROOT = Path(__file__).parent.parent.parent


def killed(folder: Path, n: int, seed: int, **environment: str) -> list[dict]:
    made = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(n), str(seed)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return [json.loads(line) for line in made.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork, and the children are forked")
@pytest.mark.parametrize(("n", "elsewhere"), [(500, False), (200, True)], ids=["here", "temp directory elsewhere"])
def test_no_kill_loses_an_acknowledged_save(n, elsewhere, tmp_path, record_property):
    if elsewhere and not (os.path.isdir("/dev/shm") and os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev):
        pytest.skip("needs a second filesystem, as Linux has in /dev/shm; without one R1 counts the first part only")
    kills = killed(tmp_path, n, seed=n, **({"TMPDIR": "/dev/shm"} if elsewhere else {}))

    assert [kill for kill in kills if kill["faults"]] == []
    assert len(kills) == n
    inside = sum(kill["inside"] for kill in kills)
    assert inside >= n // 5
    saves = sum(len(kill["saved"]) for kill in kills)
    where = ", temp directory elsewhere" * elsewhere
    bound = f"under {100 * 3 / n:.1f}% a kill at 95%"
    record_property(
        "count", f"R1: {n} kills{where}, {inside} inside a write, {saves} acknowledged saves, 0 lost, 0 bad ({bound})"
    )
