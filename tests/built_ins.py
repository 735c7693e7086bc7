"""Every built-in callback as a strategy: the table of the laws. Whoever adds a callback adds a row."""

from functools import partial
from math import inf

import hypothesis.strategies as st

from fncb import callbacks as cb
from fncb.callbacks import after
from fncb.effects import Log

MODES = st.sampled_from(["min", "max"])
METRICS = ("val_loss", "acc")
FEW = st.integers(1, 3)


def seconds(most):
    return st.floats(0, most).map(lambda n: {"seconds": n})


def now_and_then(step_idx=None, epoch_idx=None):
    return epoch_idx == 1 if step_idx is None else step_idx % 2 == 0


def thaws_in_epoch_1(epoch):
    return "a.*" if epoch == 1 else None


BUILT_INS = {
    "accumulation_schedule": st.builds(
        cb.accumulation_schedule, st.dictionaries(st.integers(0, 3), st.integers(1, 4), min_size=1)
    ),
    "activation_stats": st.builds(cb.activation_stats, st.just("*")),
    "adaptive_clip": st.builds(cb.adaptive_clip, st.sampled_from([0.01, 1.0])),
    "backbone_finetuning": st.builds(
        cb.backbone_finetuning,
        st.integers(0, 2),
        backbone_initial_lr=st.none() | st.just(0.25),
        should_align=st.booleans(),
        verbose=st.booleans(),
    ),
    "batch_gradient_verification": st.builds(cb.batch_gradient_verification, st.none() | st.just([[0.0]])),
    "byol_ma_update": st.builds(cb.byol_ma_update, st.integers(1, 9)),
    "checkpoint": st.builds(
        cb.checkpoint,
        st.just("runs/a"),
        monitor=st.none() | st.just("val_loss") | st.just("step"),
        mode=MODES,
        save_top_k=st.sampled_from([-1, 0, 1]),
        save_last=st.booleans(),
        save_weights_only=st.booleans(),
        every_n_train_steps=st.none() | st.integers(0, 3),
        save=st.sampled_from(["sync", "async"]),
        save_on_exception=st.booleans(),
        save_on_signal=st.booleans(),
        verbose=st.booleans(),
        key=st.sampled_from(["keep a", "keep b"]),
    )
    | st.builds(
        cb.checkpoint,
        st.just("runs/a"),
        monitor=st.none() | st.just("val_loss"),
        save_last=st.sampled_from([False, True, "link"]),
        train_time_interval=seconds(5),
        key=st.just("keep by time"),
    ),
    "clip_grad_norm": st.builds(cb.clip_grad_norm, st.sampled_from([0.5, inf])),
    "clip_grad_value": st.builds(cb.clip_grad_value, st.sampled_from([0.5, inf])),
    "confused_logit": st.builds(cb.confused_logit, st.integers(1, 2), logging_batch_interval=FEW),
    "cutmix": st.builds(cb.cutmix, num_classes=st.just(3)),
    "data_monitor": st.builds(cb.data_monitor, log_every_n_steps=FEW),
    "data_wait": st.builds(cb.data_wait, log_every_n_steps=st.none() | FEW),
    "deadline": st.builds(cb.deadline, st.floats(0, 20), margin=st.none() | st.just({"seconds": 2})),
    "device_stats_monitor": st.builds(
        cb.device_stats_monitor, st.just(False), st.none() | st.just(["acc", "nowhere"]), log_every_n_steps=FEW
    ),
    "early_stop": st.builds(
        partial(cb.early_stop, strict=False),
        st.sampled_from(METRICS),
        patience=st.integers(0, 3),
        min_delta=st.sampled_from([0.0, 0.5]),
        mode=MODES,
        check_finite=st.booleans(),
        stopping_threshold=st.none() | st.floats(-1, 1),
        divergence_threshold=st.none() | st.floats(-1, 1),
        check_on_train_epoch_end=st.none() | st.booleans(),
        verbose=st.booleans(),
        key=st.sampled_from(["stop a", "stop b"]),
    ),
    "ema": st.builds(
        cb.ema,
        st.sampled_from([0.0, 0.5]),
        update_every_n_steps=st.integers(0, 2),
        update_starting_at_epoch=st.none() | st.integers(0, 2),
    ),
    "finetuning": st.builds(
        cb.finetuning,
        st.sampled_from(["a.*", ("a.*", "b.*")]),
        st.just(thaws_in_epoch_1),
        lr=st.none() | st.just(0.5),
        train_bn=st.booleans(),
    ),
    "garbage_collect": st.builds(cb.garbage_collect, every_n_steps=FEW, generation=st.integers(0, 2)),
    "grad_noise": st.builds(cb.grad_noise, st.sampled_from([0.0, 0.3])),
    "grad_norms": st.builds(
        cb.grad_norms, st.sampled_from([1.0, 2.0, inf]), per=st.sampled_from(["layer", "parameter"])
    ),
    "history": st.builds(cb.history),
    "image_sampler": st.builds(cb.image_sampler, st.just(2)),
    "knn_online_evaluator": st.builds(cb.knn_online_evaluator, st.just([]), st.just([]), k=FEW),
    "label_smoothing": st.builds(cb.label_smoothing, st.just(0.1), num_classes=st.just(3)),
    "latent_dim_interpolator": st.builds(cb.latent_dim_interpolator, st.just(2), interpolate_epoch_interval=FEW),
    "lookahead": st.builds(cb.lookahead, st.integers(1, 4)),
    "lr_monitor": st.builds(
        cb.lr_monitor,
        logging_interval=st.sampled_from([None, "step", "epoch"]),
        log_momentum=st.booleans(),
        log_every_n_steps=st.integers(1, 2),
    ),
    "mixup": st.builds(cb.mixup, st.just(0.2), num_classes=st.just(3)),
    "model_summary": st.builds(cb.model_summary, st.sampled_from([-1, 0, 1])),
    "module_data_monitor": st.builds(
        cb.module_data_monitor, st.sampled_from([None, True, ["a"]]), log_every_n_steps=FEW
    ),
    "notify": st.builds(
        cb.notify,
        st.just("runs/a/notes.jsonl") | st.just(print),
        on=st.sampled_from([["exception"], ["train_batch_end", "saved"]]),
        metrics=st.just(METRICS),
    ),
    "on": st.builds(partial(cb.on, init=int, train_batch_end=lambda state, event: state + 1), key=st.just("on"))
    | st.just(cb.on(train_epoch_end=lambda event: Log({"own": 0.5}), key="on")),
    "on_exception_checkpoint": st.builds(
        cb.on_exception_checkpoint, st.just("runs/a"), filename=st.sampled_from(["on_exception", "cut-{step}"])
    ),
    "prediction_writer": st.builds(
        cb.prediction_writer,
        st.just(print),
        st.just(print),
        write_interval=st.sampled_from(["batch", "epoch", "batch_and_epoch"]),
    ),
    "print_table_metrics": st.builds(cb.print_table_metrics),
    "profile": st.builds(
        cb.profile,
        st.just("runs/a/{step}.json"),
        skip_first=st.integers(0, 2),
        wait=st.integers(0, 2),
        active=st.integers(1, 2),
        repeat=st.integers(0, 2),
    ),
    "progress_bar": st.builds(cb.progress_bar, refresh_rate=st.sampled_from([0.0, 1.0, 1e6])),
    "prune": st.builds(
        cb.prune,
        st.sampled_from(["l1_unstructured", "random_unstructured"]),
        apply_pruning=st.just(True) | st.just(lambda epoch: epoch % 2 == 0),
        use_lottery_ticket_hypothesis=st.just(False),  # else it is a composition
        verbose=st.integers(0, 2),
        prune_on_train_epoch_end=st.booleans(),
    ),
    "quantization_aware_training": st.builds(
        cb.quantization_aware_training,
        collect_quantization=st.none() | st.integers(0, 3) | st.just(after(steps=2)),
        quantize_on_fit_end=st.booleans(),
    ),
    "recompile_monitor": st.builds(
        cb.recompile_monitor, max_recompilations=st.integers(0, 2), stop=st.booleans(), verbose=st.booleans()
    ),
    "reduce_on_plateau": st.builds(
        partial(cb.reduce_on_plateau, strict=False),
        st.sampled_from(METRICS),
        patience=st.integers(0, 2),
        mode=MODES,
        threshold=st.sampled_from([0.0, 0.5, 1.5]),
        threshold_mode=st.sampled_from(["rel", "abs"]),
        cooldown=st.integers(0, 2),
        check_on_train_epoch_end=st.booleans(),
        key=st.just("plateau"),
    ),
    "restore_best": st.builds(
        cb.restore_best, st.sampled_from(METRICS), mode=MODES, min_delta=st.sampled_from([0.0, 0.5])
    ),
    "rich_model_summary": st.builds(cb.rich_model_summary, st.sampled_from([-1, 0, 1]), key=st.just("rich")),
    "rich_progress_bar": st.builds(
        cb.rich_progress_bar,
        refresh_rate=st.sampled_from([0.0, 1.0, 1e6]),
        leave=st.booleans(),
        theme=st.just({"metrics": "italic"}),
    ),
    "rollback_on_spike": st.builds(
        cb.rollback_on_spike,
        st.sampled_from(METRICS),
        window=st.integers(1, 2),
        every_n_steps=FEW,
        look_every_n_steps=st.integers(1, 2),
        budget=st.integers(0, 2),
    ),
    "sam": st.builds(cb.sam, st.just(0.05), adaptive=st.booleans()),
    "schedule": st.builds(
        cb.schedule,
        st.sampled_from(["lr", "model.p", "optimizer.momentum"]),
        st.just(float),
        interval=st.sampled_from(["epoch", "step"]),
        key=st.just("schedule"),
    ),
    "skip_large_updates": st.builds(cb.skip_large_updates, st.just(10.0), factor=st.none() | st.just(3.0)),
    "skip_nonfinite": st.builds(cb.skip_nonfinite),
    "spike_detection": st.builds(
        cb.spike_detection,
        monitor=st.sampled_from(METRICS),
        mode=MODES,
        window=FEW,
        warmup=st.integers(0, 2),
        atol=st.none() | st.floats(0, 2),
        rtol=st.none() | st.floats(0, 2),
        exclude_batches_path=st.none() | st.just("runs/spikes.jsonl"),
        finite_only=st.booleans(),
    ),
    "ssl_online_evaluator": st.builds(
        cb.ssl_online_evaluator, st.just(2), st.just(2), hidden_dim=st.none() | st.just(3)
    ),
    "stop_file": st.builds(cb.stop_file, st.just("runs/STOP"), every_n_steps=FEW),
    "swa": st.builds(
        cb.swa,
        st.sampled_from([0.25, (0.5,)]),
        swa_epoch_start=FEW,
        annealing_epochs=st.integers(0, 2),
        annealing_strategy=st.sampled_from(["cos", "linear"]),
    ),
    "threshold_stop": st.builds(cb.threshold_stop, st.sampled_from(METRICS), st.floats(-1, 1), mode=MODES),
    "throughput_monitor": st.builds(
        cb.throughput_monitor,
        window_size=st.integers(2, 4),
        length=st.none() | st.just(4),
        log_every_n_steps=FEW,
        count_flops=st.booleans(),
    ),
    "timer": st.builds(cb.timer, st.none() | seconds(20), interval=st.sampled_from(["step", "epoch"])),
    "tqdm_progress_bar": st.builds(
        cb.tqdm_progress_bar, refresh_rate=st.integers(0, 3), process_position=st.integers(0, 1)
    ),
    "weight_averaging": st.builds(cb.weight_averaging, st.none() | st.just(now_and_then), use_buffers=st.booleans()),
}
