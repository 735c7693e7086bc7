"""Ctrl-C and SIGTERM: noted when they come, acted on where the run can be left."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Terminated(SystemExit):
    """SIGTERM came; the process exits with 128 + its number."""


class Signals:
    """Notes Ctrl-C and SIGTERM while its `with` block runs; elsewhere than in the main thread it does nothing.

    What has not been acted on when the block ends is acted on then.

    The second Ctrl-C is not held up: it raises `KeyboardInterrupt` where it comes, as without this.

    Attributes:
      acted_on: the signal's name once it has been, such as `SIGTERM`; None before.
    """

    def __init__(self) -> None:
        self.acted_on: str | None = None
        self._came: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: one that is not Python's
        self._before.clear()
        if error is None:
            self.act()

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._came == signal.SIGINT:
            raise KeyboardInterrupt
        self._came = number

    def act(self) -> None:
        """Raises what the signal that came asks for, once. To be called where a run can be left.

        Raises:
          KeyboardInterrupt: after Ctrl-C.
          Terminated: after SIGTERM.
        """
        if self._came is None:
            return
        came, self._came = self._came, None
        self.acted_on = signal.Signals(came).name
        if came == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(128 + came)
