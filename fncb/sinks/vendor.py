"""What the sinks of vendors have in common: a package that may not be there, runs, images and values for numpy."""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

from fncb.events import Event, Metrics
from fncb.sinks.bulk import Row, in_bulk
from fncb.sinks.sink import Sink

Show = Callable[[Any, str, Any, Row], None]
"""Given a vendor's run, a name, an image or values as a numpy array, and a row with the counters and no metrics."""


def package(name: str, extra: str) -> Any:
    """A vendor's package, or an error that says how it is installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{extra}: its package must be installed, got {error}. Run `pip install 'fncb[{extra}]'`."
        ) from error


def sink_of_runs(
    begin: Callable[[], Any],
    write: Callable[[Any, list[Row]], None],
    end: Callable[[Any, bool], None],
    image: Show | None = None,
    histogram: Show | None = None,
) -> Sink:
    """A sink that keeps a vendor's run for each of ours.

    The vendor's begins when ours does, or with the first thing that is logged, and ends with it. Images and histograms
    come after all metrics that were logged before them.

    Args:
      begin: gives the vendor's run.
      write: given it and rows in order.
      end: given it and whether ours has failed.
      image: given images of bytes, (height, width) or, if there are more than one, (height, width, channels).
      histogram: given finite values, one at least.
    """
    run = cache(begin)
    bulk = in_bulk(lambda rows: write(run(), rows))

    def finish(failed: bool) -> None:
        try:
            bulk.close()
        finally:
            if run.cache_info().currsize:  # has begun
                begun = run()
                run.cache_clear()
                end(begun, failed)

    def shown(show: Show, convert: Callable[[Any], Any], name: str, tensor: Any, event: Event) -> None:
        bulk.close()
        array = convert(tensor)
        if array.size:
            show(run(), name, array, Row(Metrics(), event.epoch, event.step, event.seconds))

    return Sink(
        log=bulk.log,
        close=partial(finish, False),
        image=image and partial(shown, image, _pixels),
        histogram=histogram and partial(shown, histogram, _finite),
        start=run,
        fail=partial(finish, True),
    )


def _pixels(image: Any) -> Any:
    bytes_ = image.detach().float().nan_to_num(0.0).clamp(0.0, 1.0).mul(255).round().byte()
    return bytes_[0].cpu().numpy() if len(image) == 1 else bytes_.permute(1, 2, 0).cpu().numpy()  # waits for the device


def _finite(values: Any) -> Any:
    flat = values.detach().float().flatten()
    return flat[flat.isfinite()].cpu().numpy()  # waits for the device
