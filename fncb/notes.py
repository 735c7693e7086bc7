"""What an exception prints below its text: whose hook it came from, and where in the run that was."""

from contextlib import suppress

from fncb.events import Event, known_fields


def note(error: BaseException, text: str) -> None:
    """Adds a line to what an exception prints. `BaseException.add_note` does the same, but only since Python 3.11."""
    error.__dict__.setdefault("__notes__", []).append(text)


def note_hook(error: BaseException, key: str, hook: str, event: Event) -> None:
    r"""Notes whose hook failed and where in the run; if it asked for a field that its event has not, those that it has.

    Example:
      >>> event = Event(epoch=2, step=7)
      >>> try:
      ...     event.metrics
      ... except AttributeError as error:
      ...     note_hook(error, "mine", "on_epoch_end", event)
      ...     print(*error.__notes__, sep="\n")
      mine: on_epoch_end failed at epoch 2, step 7.
      Event: there is no 'metrics'. It has ['epoch', 'step', 'seconds'].
    """
    note(error, f"{key}: {hook} failed {_where(event)}.")
    if isinstance(error, AttributeError) and isinstance(error.obj, Event):
        note(error, f"{type(error.obj).__name__}: there is no {error.name!r}. It has {known_fields(error.obj)}.")


def _where(event: Event) -> str:
    counters = (event.epoch, event.step)
    if {type(each).__name__ for each in counters} <= {"int", "Tensor"}:  # and no stand-in for a tensor without a value
        with suppress(Exception):  # a device that has failed gives no numbers
            epoch, step = map(int, counters)  # waits for the device; the run is over
            return f"at epoch {epoch}, step {step}"
    return "while the step was traced"
