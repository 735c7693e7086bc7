"""Processes that want one directory. Run as a script, needs no torch."""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fncb import lock

WAIT = 20  # seconds: processes wait to be killed, and so long at most if the test has died before


@contextmanager
def leaving() -> Iterator[None]:
    """A child does what is inside, and nothing after it."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def heard(pipe: int) -> bytes:
    if not select.select([pipe], [], [], WAIT)[0]:
        raise TimeoutError(f"a child said nothing for {WAIT} seconds")
    return os.read(pipe, 100)


def race(folder: Path, children: int) -> tuple[int, int]:
    """How many of so many processes get the lock at once, and how many are told that another has it."""
    go, results, done = os.pipe(), os.pipe(), os.pipe()
    pids = []
    for _ in range(children):
        pids.append(os.fork())
        if pids[-1] == 0:
            with leaving():
                os.close(go[1])
                os.close(done[1])
                os.read(go[0], 1)  # until all are there
                try:
                    held = lock.take(folder)
                    os.write(results[1], b"1")
                except lock.DirectoryTaken:
                    held = None
                    os.write(results[1], b"0")
                os.read(done[0], 1)  # until all have tried
                if held:
                    held.close()
    os.close(go[1])
    got = b""
    while len(got) < children:
        got += heard(results[0])
    os.close(done[1])
    for pid in pids:
        os.waitpid(pid, 0)
    for end in (go[0], *results, done[0]):
        os.close(end)
    return got.count(b"1"), got.count(b"0")


def take_over(folder: Path) -> str:
    """What happens when a holder with a worker that it forked is killed, and the worker lives on."""
    reports, report = os.pipe()
    holder = os.fork()
    if holder == 0:
        with leaving():
            held = lock.take(folder)
            (folder / ".fncb-0123456789abcdef.tmp").write_text("half a checkpoint")
            if os.fork() == 0:
                with leaving():
                    held.close()  # as a worker's clean-up may: it has nothing to let go of
                    os.write(report, b"%d\n" % os.getpid())
                    time.sleep(WAIT)
            time.sleep(WAIT)
    worker = int(heard(reports))
    os.close(reports)
    os.close(report)
    try:
        lock.take(folder).close()
        return "a live holder's lock was taken"
    except lock.DirectoryTaken as error:
        if f"process {holder} on host" not in str(error):
            return f"unclear: {error}"
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        os.kill(worker, 0)  # is alive
        with lock.take(folder):
            return "taken over" if sorted(os.listdir(folder)) == [lock.HOLDER, lock.LOCK] else "leftovers"
    except lock.DirectoryTaken as error:
        return f"not taken over: {error}"
    finally:
        os.kill(worker, signal.SIGKILL)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    races = [race(root / "race", 6) for _ in range(int(sys.argv[2]))]
    sys.stdout.write(
        json.dumps({"races": races, "taken over": [take_over(root / "over") for _ in range(int(sys.argv[2]))]})
    )
