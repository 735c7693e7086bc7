"""Which events of a long run a page shows."""

from collections.abc import Collection, Sequence

from fncb import events as ev
from fncb.events import Event

MOST_EVENTS = 200_000


def shown_of(
    events: Sequence[Event], always: Collection[int], eventful: Collection[int], most: int = MOST_EVENTS
) -> list[int]:
    """The numbers of the events that are shown, in order: all, or what matters most of them.

    First come those in `always`, the first and the last, however many they are; then what is no event of a batch; then
    the `eventful`; then the others. Of the first of these groups that does not fit, some are shown,
    as far apart as the others.

    Example:
      >>> batches = [ev.TrainBatchEnd(step=i) for i in range(8)]
      >>> shown_of([*batches, ev.ValidationEnd()], always=[], eventful=[5], most=5)
      [0, 1, 4, 5, 8]
    """
    if len(events) <= most:
        return list(range(len(events)))
    kept = {0, len(events) - 1, *always}
    whole = [i for i, event in enumerate(events) if not isinstance(event, ev._Batch)]
    for group in (whole, sorted(eventful), range(len(events))):
        more = [i for i in group if i not in kept]
        room = most - len(kept)
        if len(more) > room:
            kept |= {more[k * len(more) // room] for k in range(max(room, 0))}
            break
        kept |= {*more}
    return sorted(kept)
