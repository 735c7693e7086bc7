"""The examples run as they are, and say what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(example, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / example, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_main_job_stops_early_reaches_its_accuracy_goes_on_and_looks_back(tmp_path):
    shown = run("01_digits.py", "--no-compile", "--directory", tmp_path)

    assert re.search(r"Stopped after epoch \d+: val_loss has not improved on 0\.\d+ in 3 checks", shown)
    assert float(re.search(r"Test accuracy: ([\d.]+)%", shown)[1]) >= 97
    assert re.search(r"Went on from last-epoch=\d+-step=\d+.safetensors and made \d+ steps more.", shown)
    assert re.search(r"patience=1 +epoch \d+, step \d+ .* val_loss has not improved", shown)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_an_own_loop_stops_saves_and_replays(tmp_path):
    shown = run("02_own_loop.py", "--directory", tmp_path)

    assert re.search(r"Stopped: val_loss has not improved on 0\.\d+ in 2 checks", shown)
    assert "The recording replays to the same state: True" in shown
