"""What the tests of vendors' sinks log, so that all of them are asked for the same."""

from math import inf, nan

import torch

from fncb.events import Metrics, TrainBatchEnd, ValidationEnd

GREY = torch.tensor([[[0.0, 1.0], [0.5, nan]]])  # a channel of 2 by 2
COLOURS = torch.tensor([[[1.0, 0.0]], [[0.0, 0.4]], [[-1.0, 2.0]]], dtype=torch.bfloat16)  # 3 channels of 1 by 2
VALUES = torch.tensor([[1.0, 2.0], [2.0, nan]], requires_grad=True)

GREY_BYTES = [[0, 255], [128, 0]]
COLOUR_BYTES = [[[255, 0, 0], [0, 102, 255]]]


def log_metrics(sink):
    """Two batches, whose metrics are on the device, and a validation that is not finite."""
    device = Metrics(None, ("loss", "norm/a.*"), torch.tensor([0.5, 2.0]))
    sink.log(device, TrainBatchEnd(epoch=0, step=1, seconds=0.25))
    sink.log(Metrics({"loss": 0.25}), TrainBatchEnd(epoch=1, step=2, seconds=0.5))
    sink.log(Metrics({"val_loss": nan, "val_acc": inf}), ValidationEnd(epoch=1, step=2, seconds=0.75))


def show(sink):
    """Images of one channel and of three; values with some, and with none, that are finite."""
    sink.image("images/grey", GREY, ValidationEnd(epoch=1, step=2, seconds=0.75))
    sink.image("images/colours", COLOURS, ValidationEnd(epoch=1, step=3, seconds=1.0))
    if sink.histogram is not None:
        sink.histogram("weights", VALUES, ValidationEnd(epoch=1, step=3, seconds=1.0))
        sink.histogram("weights", torch.full((3,), nan), ValidationEnd(epoch=1, step=4, seconds=1.0))
