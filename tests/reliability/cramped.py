"""A process without room or without permission. Run as a script: it gives up what it may do."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fncb import lock, store


def attempt(folder: Path, size: int, act: Any = store.write) -> dict[str, Any]:
    """What comes of a save that there is no room or no permission for, and of the save before it."""
    error = None
    try:
        act(folder / "2.safetensors", {"step": 2, "w": torch.ones(size)})
    except OSError as raised:
        error = raised
    latest = store.latest(folder)
    return {
        "error": str(error),
        "kind": type(error).__name__,
        "code": errno.errorcode.get(error.errno or 0, "") if error else "",
        "newest": latest.path and latest.path.name,
        "rejected": len(latest.rejected),
        "left": sorted(name for name in os.listdir(folder) if name != "1.safetensors"),
    }


def limited(folder: Path) -> dict[str, Any]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        return attempt(folder, 250_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    found: dict[str, Any] = {}
    for name in ("limit", "full", "denied"):
        (root / name).mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root / "full")], stderr=subprocess.DEVNULL
        ).returncode
    )
    try:
        for name in ("limit", "full", "denied"):
            store.write(root / name / "1.safetensors", {"step": 1, "w": torch.ones(10)})
        found["limit"] = limited(root / "limit")
        if mounted:
            found["full"] = attempt(root / "full", 1_000_000)
            store.delete(root / "full" / "1.safetensors")
            store.write(root / "full" / "3.safetensors", {"step": 3, "w": torch.ones(100_000)})
            found["full"]["then"] = store.latest(root / "full").path is not None
    finally:
        if mounted:
            subprocess.run(["umount", str(root / "full")], check=True)
    os.chmod(root / "denied", 0o555)
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    found["denied"] = attempt(root / "denied", 10)
    found["lock"] = attempt(root / "denied", 10, lambda path, _: lock.take(path.parent))
    found["made"] = attempt(root / "denied", 10, lambda path, tree: store.write(path.parent / "new" / path.name, tree))
    found["delete"] = attempt(root / "denied", 10, lambda path, _: store.delete(path.with_name("1.safetensors")))
    found["user"] = os.geteuid()
    sys.stdout.write(json.dumps(found))
