"""One thread and one compiler cache a process: the tests are small, and pytest runs a process a core."""

import os
import tempfile
from pathlib import Path

worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"fncb-tests-{worker}")))

import torch  # noqa: E402 - after what it reads when it is imported

torch.set_num_threads(1)
