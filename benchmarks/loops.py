"""The contenders: each makes a loop that trains a problem's model once on every batch of an iterable."""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import fncb
from fncb.callbacks import checkpoint, clip_grad_norm, early_stop, ema, skip_nonfinite
from problems import Problem, loss

Run = Callable[[Iterable[Any]], object]

adamw = partial(torch.optim.AdamW, lr=1e-3)


def by_hand(problem: Problem, **settings: Any) -> Run:
    def run(batches: Iterable[Any]) -> None:
        model = problem.model()
        optimizer = adamw(model.parameters(), **settings)
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()

    return run


def by_hand_compiled(problem: Problem) -> Run:
    """Model and optimizer compiled as PyTorch's tutorials show."""

    def run(batches: Iterable[Any]) -> None:
        model = torch.compile(problem.model())
        optimizer = adamw(model.parameters())

        @torch.compile(fullgraph=False)
        def step() -> None:
            optimizer.step()

        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            step()

    return run


def with_fncb(problem: Problem, *, callbacks: bool = True, averaged: bool = True, compile: bool = True) -> Run:
    def run(batches: Iterable[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            chosen = [
                clip_grad_norm(1.0),
                *([ema(0.999)] if averaged else []),
                skip_nonfinite(),
                early_stop("val_loss"),
                checkpoint(folder, monitor="val_loss"),
            ]
            fncb.fit(
                fncb.Task(problem.model(), loss=loss, optimizer=adamw),
                batches,
                [problem.batch],
                callbacks=chosen if callbacks else [],
                record=f"{folder}/events.jsonl" if callbacks else None,
                max_epochs=1,
                num_sanity_val_steps=0,
                compile=compile,
                progress=False,
            )

    return run


def with_lightning(problem: Problem) -> Run:
    """The same set where Lightning has it. Its finite guard looks at the loss only, and nothing is recorded."""
    from lightning import pytorch as pl
    from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = problem.model()

        def training_step(self, batch: Any, _: int) -> Tensor | None:
            value = loss(self.model, batch)
            self.log("loss", value, on_step=False, on_epoch=True, batch_size=len(batch[0]))
            return value if torch.isfinite(value) else None

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", loss(self.model, batch), batch_size=len(batch[0]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self.model.parameters())

    def run(batches: Iterable[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                accelerator="cpu",
                max_epochs=1,
                gradient_clip_val=1.0,
                callbacks=[
                    EMAWeightAveraging(decay=0.999),
                    EarlyStopping("val_loss"),
                    ModelCheckpoint(folder, monitor="val_loss"),
                ],
                logger=False,
                num_sanity_val_steps=0,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Module(), batches, DataLoader([problem.batch], batch_size=None))

    return run


COMPILED, SET, LIGHTNING = "by hand, model and optimizer compiled", "fncb, the set", "Lightning, the set"


def contenders(problem: Problem) -> dict[str, Run]:
    chosen = {
        "by hand, eager": by_hand(problem),
        "by hand, eager, fused AdamW": by_hand(problem, fused=True),
        COMPILED: by_hand_compiled(problem),
        "fncb, no callbacks": with_fncb(problem, callbacks=False),
        SET: with_fncb(problem),
        "fncb, the set, eager": with_fncb(problem, compile=False),
    }
    if importlib.util.find_spec("lightning"):
        chosen[LIGHTNING] = with_lightning(problem)
    return chosen
