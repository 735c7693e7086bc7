"""Callbacks that packages add: which, in which order, how they are turned off, and what a broken one says."""

import doctest
import logging
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from fncb import loop
from fncb.callback import Callback, compose
from fncb.callbacks import lr_monitor
from fncb.plugins import with_plugins
from fncb.recording import read
from fncb.session import Session
from fncb.task import Task

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs packages that register factories: `install("name 1.0", entry="an expression for what it returns")`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FNCB_PLUGINS", raising=False)

    def write(package, module="from fncb import Callback, compose\n", **factories):
        name, version = package.split()
        room = f"plugin_{name.replace('-', '_')}"
        monkeypatch.delitem(sys.modules, room, raising=False)
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        entries = "".join(f"{entry} = {room}:{entry}\n" for entry in factories)
        (info / "entry_points.txt").write_text(f"[fncb.callbacks]\n{entries}")
        code = "".join(f"def {entry}():\n    return {returns}\n" for entry, returns in factories.items())
        (tmp_path / f"{room}.py").write_text(module + code)

    return write


def keys(*callbacks, **settings):
    return [part.key for part in with_plugins("fit", compose(callbacks), True, **settings)[0].parts]


def mine(key):
    return Callback(key=key)


def test_without_packages_nothing_is_added_and_nothing_logged(caplog):
    own = compose(mine("a"))

    assert with_plugins("fit", own, True) == (own, {})
    assert caplog.messages == []


def test_they_come_after_the_users_own_by_package_and_entry(install):
    install("b-last 1.0", a="Callback(key='3')")
    install("a-first 2.0", z="Callback(key='2')", a="Callback(key='1')")

    assert keys(mine("own"), mine("clip")) == ["own", "clip", "1", "2", "3"]
    assert keys(mine("own"), mine("clip"), own=1) == ["own", "1", "2", "3", "clip"]


def test_one_log_line_names_them_with_their_packages(install, caplog):
    install("a-first 2.0", a="[Callback(key='1'), compose(Callback(key='2'), Callback(key='own'))]")
    caplog.set_level(logging.INFO)
    _, added = with_plugins("fit", compose(mine("own")), True)

    assert added == {"1": "a-first 2.0", "2": "a-first 2.0"}
    assert caplog.messages == [
        "fncb: callbacks added by packages: 1 (a-first 2.0), 2 (a-first 2.0); left to yours of the same key: "
        "own (a-first 2.0)"
    ]


def test_a_key_that_the_user_has_is_left_to_the_users(install):
    install("a 1.0", a="Callback(key='own', config={'from': 'a'})")
    install("b 1.0", b="Callback(key='own', config={'from': 'b'})")

    callbacks, added = with_plugins("fit", compose(mine("own")), True)

    assert (callbacks.parts, added) == ((mine("own"),), {})


def test_a_factory_may_add_nothing(install):
    install("a 1.0", a="[]")

    assert keys(mine("own")) == ["own"]


def test_two_packages_with_the_same_key_are_an_error_that_names_both(install):
    install("a-first 2.0", a="Callback(key='k')")
    install("b-last 1.0", a="Callback(key='k')")

    with pytest.raises(
        ValueError,
        match=r"fit: keys of plugins must be unique, got 'k' of package 'a-first 2\.0' and of package 'b-last 1\.0'\. "
        r"Uninstall one of them, pass a callback with this key, or pass plugins=False\.",
    ):
        keys()


@pytest.mark.parametrize(
    ("module", "returns", "said"),
    [
        ("raise OSError('no disk')\n", "None", r"be found as plugin_broken:entry, got OSError\('no disk'\)"),
        ("import sys\nsys.exit(3)\n", "None", r"be found as plugin_broken:entry, got SystemExit\(3\)"),
        ("import no_such_module\n", "None", r"be found as .*, got ModuleNotFoundError\(.*no_such_module"),
        ("", "1 / 0", r"return callbacks, got ZeroDivisionError\('division by zero'\)"),
        ("", "None", r"return a Callback or a list of them, which may be empty, got None"),
        ("", "[Callback]", r"return a Callback or a list of them, which may be empty, got \[<class"),
        ("", "[Callback(key='a'), Callback(key='a')]", r"return callbacks with a key each, got \[Callback\('a'\), "),
    ],
    ids=["raises", "exits", "imports", "fails", "nothing", "class", "twice"],
)
def test_a_broken_plugin_names_its_package_and_the_way_out(module, returns, said, install):
    install("broken 0.3", f"from fncb import Callback\n{module}", entry=returns)

    with pytest.raises(
        RuntimeError,
        match=rf"test: the plugin 'entry' of package 'broken 0\.3' must {said}.*\. "
        r"Uninstall it, or pass plugins=False\.",
    ):
        with_plugins("test", compose(), True)


def test_an_entry_that_is_no_function_says_so(install):
    install("broken 0.3", "from fncb import Callback\n", entry="1")
    file = next(Path(path) for path in sys.path if (Path(path) / "plugin_broken.py").exists()) / "plugin_broken.py"
    file.write_text("from fncb import Callback\nentry = Callback(key='a')\n")

    with pytest.raises(RuntimeError, match=r"must be a function without arguments, got Callback\('a'\)\. Uninstall"):
        keys()


def test_plugins_false_loads_nothing_even_if_it_is_broken(install):
    install("broken 0.3", "raise OSError\n", entry="None")

    assert with_plugins("fit", compose(), False)[1] == {}


def test_the_environment_turns_them_off_and_plugins_false_cannot_be_overruled(install, monkeypatch):
    install("a 1.0", a="Callback(key='a')")
    for said, found in {"0": [], "1": ["a"]}.items():
        monkeypatch.setenv("FNCB_PLUGINS", said)
        assert keys() == found
        assert with_plugins("fit", compose(), False)[1] == {}


@pytest.mark.parametrize("said", ["", "yes", "2", "false"])
def test_the_environment_must_be_clear(said, monkeypatch):
    monkeypatch.setenv("FNCB_PLUGINS", said)

    with pytest.raises(ValueError, match=f"fit: the environment variable FNCB_PLUGINS must be 0 or 1, got '{said}'"):
        keys()


def test_plugins_must_be_a_bool():
    with pytest.raises(TypeError, match=r"fit: plugins must be True or False, got 'epoch_time'\."):
        with_plugins("fit", compose(), "epoch_time")


def task():
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return Task(torch.nn.Linear(2, 1), loss=lambda model, batch: model(batch).square().mean(), optimizer=optimizer)


STAGES = {
    "fit": partial(loop.fit, compile=False, max_epochs=1),
    "validate": loop.validate,
    "test": loop.test,
    "predict": loop.predict,
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_adds_them_and_its_recording_says_so(stage, install, tmp_path):
    install("a 1.0", a="Callback(key='a', init=int, setup=lambda state, event: state + 1)")
    go = partial(STAGES[stage], task(), [torch.ones(4, 2)], progress=False)
    run, without = go(record=tmp_path / "with"), go(record=tmp_path / "without", plugins=False)

    assert run.state == {"a": 1}
    assert read(run.recording).header["plugins"] == {"a": "a 1.0"}
    assert without.state == {}
    assert read(without.recording).header["plugins"] == {}


@pytest.mark.parametrize("stage", STAGES)
def test_a_broken_plugin_stops_a_stage_before_anything_is_seeded_moved_or_recorded(stage, install, tmp_path):
    install("broken 0.3", entry="1 / 0")
    before = torch.get_rng_state()
    seed = {"seed": 7} if stage == "fit" else {}

    with pytest.raises(RuntimeError, match=rf"{stage}: the plugin 'entry' of package 'broken 0\.3' must"):
        STAGES[stage](task, [torch.ones(4, 2)], progress=False, record=tmp_path / "none", **seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert not (tmp_path / "none").exists()


def test_what_settings_stand_for_is_the_users_own_and_clipping_stays_last(install):
    module = "from fncb import Callback\nfrom fncb.callbacks import clip_grad_norm\n"
    install("a 1.0", module, a="[clip_grad_norm(9.0), Callback(key='a')]")
    run = STAGES["fit"](task(), [torch.ones(4, 2)], progress=False, callbacks=lr_monitor(), gradient_clip_val=1.0)

    assert list(run.state) == ["lr_monitor", "a", "clip_grad_norm"]


def test_a_session_is_what_the_user_makes_of_it(install, tmp_path):
    install("a 1.0", a="Callback(key='a')")

    assert Session(mine("own")).state.keys() == {"own"}


RUN = """
import logging, sys, torch, fncb
logging.basicConfig(level=logging.INFO, format="%(message)s")
task = fncb.Task(torch.nn.Linear(2, 1), loss=lambda model, batch: model(batch).square().mean(),
                 optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
data = [torch.ones(4, 2)]
fncb.fit(task, data, max_epochs=2, compile=False, progress=False, record=sys.argv[1], **eval(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the package of the example is installed by pip."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", folder, EXAMPLE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("environment", "settings", "heard"),
    [({}, {}, True), ({}, {"plugins": False}, False), ({"FNCB_PLUGINS": "0"}, {}, False)],
    ids=["installed", "plugins=False", "FNCB_PLUGINS=0"],
)
def test_the_example_is_a_package_that_is_heard_where_it_is_installed(
    environment, settings, heard, installed, tmp_path
):
    paths = os.pathsep.join([str(installed), str(EXAMPLE.parent.parent)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, tmp_path / "events.jsonl", repr(settings)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        check=False,
    )
    header = read(tmp_path / "events.jsonl").header

    assert done.returncode == 0, done.stderr
    assert re.findall(r"epoch (\d) took \d+\.\d s", done.stdout) == (["0", "1"] if heard else [])
    line = "fncb: callbacks added by packages: epoch_time (fncb-epoch-time 0.1.0)\n"
    assert (line in done.stderr) == heard
    assert header["plugins"] == ({"epoch_time": "fncb-epoch-time 0.1.0"} if heard else {})
    assert header["keys"] == ["epoch_time"] * heard


def test_the_example_shows_what_it_does(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    import fncb_epoch_time

    result = doctest.testmod(fncb_epoch_time)
    assert result.attempted > 0
    assert result.failed == 0


def test_importing_fncb_looks_for_no_packages():
    code = "import sys, fncb, fncb.callbacks\nsys.exit('fncb.plugins' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
