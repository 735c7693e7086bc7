"""R14: of two runs one gets the directory, and a dead one's lock is free."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
N = 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork, and the children are forked")
def test_one_of_six_gets_the_lock_and_a_dead_holders_is_taken_over(tmp_path, record_property):
    made = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("locking.py")), str(tmp_path), str(N)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(made.stdout)

    assert found["races"] == [[1, 5]] * N
    assert found["taken over"] == ["taken over"] * N
    record_property("count", f"R14: {N} races of 6 processes, 1 winner each; {N} locks of killed holders taken over")
