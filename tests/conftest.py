"""One thread a process: the tests are small, and pytest runs one process a core."""

import torch

torch.set_num_threads(1)
