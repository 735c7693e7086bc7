"""One thread and one compiler cache a process, as pytest runs one a core; and what was counted is printed."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings

worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"fncb-tests-{worker}")))

import torch  # noqa: E402 - after what it reads when it is imported

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")  # `--hypothesis-profile=default` looks for new examples
torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """Prints what the reliability tests counted, under the names that docs/reliability.md gives them."""
    reports = [report for status in terminalreporter.stats.values() for report in status]
    counts = {value for each in reports for name, value in getattr(each, "user_properties", ()) if name == "count"}
    if counts:
        terminalreporter.section("counted")
        for line in sorted(counts, key=lambda line: int("0" + "".join(filter(str.isdigit, line.split(":")[0])))):
            terminalreporter.line(line)
