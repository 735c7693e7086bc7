"""`fncb replay`: what callbacks make of a run that is over."""

import argparse
from typing import Any

from fncb.callback import Callback
from fncb.cli.lines import HEADS, data_of, line_of, number
from fncb.cli.output import show, show_json
from fncb.cli.runs import read_run
from fncb.expressions import callback_of
from fncb.hindsight import Moment, heard_by, history, must_hold
from fncb.recording import Recording
from fncb.snapshot import state_dict


def run(asked: argparse.Namespace) -> int:
    """Prints final states, and the effects with the events at which they were asked for."""
    callbacks = {text: callback_of(text) for text in asked.expressions}
    recording = read_run(asked.run)
    outcomes = {text: _replayed(callback, recording) for text, callback in callbacks.items()}
    if asked.json:
        show_json({text: _data(*outcome) for text, outcome in outcomes.items()})
        return 0
    for text, (state, asking) in outcomes.items():
        show(text)
        for key, each in state.items() if callbacks[text].parts is not None else [(callbacks[text].key, state)]:
            show(f"  state of {key}: {number(state_dict(each)) or 'it remembers nothing'}")
        count = sum(len(moment.effects) for moment in asking)
        show(f"  effects: {count:,}")
        if asking:
            show(f"  {HEADS.rstrip()}")
        for moment in asking:
            for entry in (moment.event, *moment.effects):
                show(f"  {line_of(entry)}")
    return 0


def _replayed(callback: Callback[Any], recording: Recording) -> tuple[Any, list[Moment[Any]]]:
    """The final state, and the events at which something was asked for."""
    must_hold("replay", recording, callback, heard_by(callback))
    state, asking = callback.init(), []
    for moment in history(callback, recording):
        state = moment.state
        if moment.effects:
            asking.append(moment)
    return state, asking


def _data(state: Any, asking: list[Moment[Any]]) -> dict[str, Any]:
    effects = [data_of(effect, moment.event) for moment in asking for effect in moment.effects]
    return {"state": state_dict(state), "effects": effects}
