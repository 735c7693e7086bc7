"""The examples run as they are, and say what they promise."""

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

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


def test_a_recording_answers_why_what_if_and_where_two_runs_part(tmp_path):
    shown = run("03_replay_whatif.py", "--no-compile", "--directory", tmp_path)

    assert re.search(r"stopped by early_stop\(val_loss\) at epoch \d+, step \d+: val_loss has not improved on", shown)
    assert re.search(r"best checkpoint of checkpoint\(val_loss\): .*, the least of \d+ checks", shown)
    assert len(re.findall(r"^patience=\d, min_delta=0\.\d+ +(epoch \d+, step \d+|never) ", shown, re.MULTILINE)) == 8
    assert "it would have gone on, and nobody knows how" in shown
    assert "it ends with the state that it had live: True" in shown
    assert "metrics.lr-AdamW 0.01 against 0.02" in shown


def test_a_run_that_is_cut_off_ends_as_one_that_was_not(tmp_path):
    shown = run("04_survive.py", "--directory", tmp_path, "--max-epochs", "6")

    assert re.search(r"SIGTERM at step 7\d\n  SIGKILL at step 1[34]\d\n  ended at step 174\n", shown)
    assert "The weights are the same, bit for bit: True" in shown
    assert re.search(r"epoch 5, step \d+, seconds .*, event ", shown)


def drawn_digits(file):
    """The pictures of a GAN, by row, class and pixel, from a greyscale PNG whose rows are not filtered."""
    encoded = file.read_bytes()
    start = encoded.index(b"IDAT") + 4
    length = int.from_bytes(encoded[start - 8 : start - 4], "big")
    rows = np.frombuffer(zlib.decompress(encoded[start : start + length]), np.uint8).reshape(800, 1 + 640)
    assert not rows[:, 0].any()  # no filter
    small = rows[::8, 1::8].reshape(10, 10, 10, 8)  # row, line, class, column
    return small[:, 1:-1].transpose(0, 2, 1, 3).reshape(10, 10, 64) / 255


def test_a_gan_draws_digits_of_each_class_unlike_noise_and_unlike_each_other(tmp_path):
    shown = run("05_gan.py", "--no-compile", "--max-epochs", "25", "--directory", tmp_path)
    drawn, (images, labels) = drawn_digits(tmp_path / "samples.png"), load_digits(return_X_y=True)
    nearest = KNeighborsClassifier(1).fit(images / 16, labels)

    def distance(pictures):
        return nearest.kneighbors(pictures)[0].mean()

    def spread(pictures):
        return torch.pdist(torch.tensor(pictures)).mean().item()

    noise = np.random.default_rng(0).permuted(drawn.reshape(100, 64), axis=1)  # the same pixels, elsewhere
    told = nearest.predict(drawn.reshape(100, 64)).reshape(10, 10)
    assert (told == np.arange(10)).mean() > 0.75
    assert distance(drawn.reshape(100, 64)) < 0.6 * distance(noise)
    assert min(spread(drawn[:, i]) / spread(images[labels == i] / 16) for i in range(10)) > 0.5  # of one class
    assert len([line for line in shown.splitlines() if len(line) == 80 and set(line) <= set(" ▄▀█")]) == 10
