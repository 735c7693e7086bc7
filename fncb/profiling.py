"""Profiles of a stretch of a run, written as traces."""

import logging
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, supported_activities

from fncb.disk import make_directories
from fncb.effects import Effect, StartProfiler, StopProfiler
from fncb.events import Event
from fncb.handling import Handler
from fncb.naming import free_name

log: logging.Logger = logging.getLogger("fncb")


class Profiler:
    """Carries out `StartProfiler` and `StopProfiler`."""

    def __init__(self) -> None:
        self._running: Any = None
        self._path = Path()

    def carries_out(self) -> dict[type[Effect], Handler]:
        """Effects and the functions that carry them out."""
        return {StartProfiler: self.start, StopProfiler: self.stop}

    def start(self, effect: StartProfiler, _: Event) -> None:
        """Begins a profile; one that is under way is ended first."""
        self.close()
        self._path = Path(effect.path)
        activities = [each for each in (ProfilerActivity.CPU, ProfilerActivity.CUDA) if each in supported_activities()]
        settings = {name: getattr(effect, name) for name in ("record_shapes", "profile_memory", "with_stack")}
        self._running = profile(activities=activities, **settings)
        self._running.start()

    def stop(self, _: StopProfiler, __: Event) -> None:
        """Ends the profile, if there is one, and writes it down; waits for the device."""
        self.close()

    def close(self) -> None:
        """Does what `stop` does, at the end of the run."""
        running, self._running = self._running, None
        if running is None:
            return
        running.stop()
        make_directories(self._path.parent)
        path = free_name(self._path)
        running.export_chrome_trace(str(path))
        log.info("fncb: the trace of the profile is %s", path)
