"""The built-in callbacks, one file each."""

from fncb.callbacks.accumulation_schedule import accumulation_schedule as accumulation_schedule
from fncb.callbacks.checkpoint import checkpoint as checkpoint
from fncb.callbacks.clip_grad_norm import clip_grad_norm as clip_grad_norm
from fncb.callbacks.early_stop import early_stop as early_stop
from fncb.callbacks.ema import ema as ema
from fncb.callbacks.lr_monitor import lr_monitor as lr_monitor
from fncb.callbacks.progress_bar import progress_bar as progress_bar
from fncb.callbacks.skip_nonfinite import skip_nonfinite as skip_nonfinite
from fncb.callbacks.timer import timer as timer
