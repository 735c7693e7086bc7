"""The page in a real browser: what a person sees, and what they do."""

import ast
import random
import re
import time
from functools import partial
from math import inf, nan, pi

import attrs
import pytest
import torch
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from torch import nn

from fncb import compose, fit, history
from fncb import events as ev
from fncb.callback import Callback, emit
from fncb.callbacks import checkpoint, early_stop, timer
from fncb.effects import Print, Save, SetLR, Stop
from fncb.page import html
from fncb.page.curves import plot_named
from fncb.page.html import report
from fncb.page.plain import items_of
from fncb.recording import Recording, read
from fncb.task import Task
from tests.page import browser as by

CALLBACKS = (partial(early_stop, "val_loss", patience=2), partial(checkpoint, "kept", monitor="val_loss"), timer)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with by.chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run: a line that is fitted until it is stopped, and resumed once."""
    folder = tmp_path_factory.mktemp("line")
    torch.manual_seed(0)
    x = torch.randn(96, 3, generator=torch.Generator().manual_seed(1))
    batches = [(x[i : i + 8], x[i : i + 8].sum(1, keepdim=True)) for i in range(0, 96, 8)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        go_on = partial(fit, callbacks=made(), record="line/events.jsonl", compile=False, progress=False)
        go_on(task(), batches[:8], batches[8:], max_epochs=3)
        go_on(task(), batches[:8], batches[8:], max_epochs=30, resume="last")
    return folder / "line" / "events.jsonl"


def made():
    return compose(*[make() for make in CALLBACKS])


def squared_error(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def task():
    torch.manual_seed(0)
    return Task(nn.Linear(3, 1), loss=squared_error, optimizer=partial(torch.optim.SGD, lr=0.15))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return report(run, tmp_path_factory.mktemp("page") / "line.html")


@pytest.fixture(autouse=True)
def the_page_has_nothing_to_complain_about(request):
    yield
    if "browser" in request.fixturenames:
        assert by.complaints(request.getfixturevalue("browser")) == []


def at(browser):
    """The number of the event that is shown."""
    return int(by.find(browser, "body").get_attribute("data-event"))


def shown_state(browser, key):
    """A state as the page shows it: path to value."""
    rows = browser.execute_script(
        "const card = [...document.querySelectorAll('.state')].find((each) => each.dataset.key === arguments[0]);"
        "return [...card.querySelectorAll('tr')].map((row) => [row.cells[0].title || row.cells[0].textContent, "
        "row.cells[1].textContent]);",
        key,
    )
    return {path: ast.literal_eval(value) for path, value in rows}


def pairs(browser, selector):
    """Names and values of the first table in an element."""
    return browser.execute_script(
        "return [...document.querySelector(arguments[0]).querySelectorAll('tr')]"
        ".map((row) => [row.cells[0].textContent, row.cells[1].textContent])",
        selector,
    )


def leaves(state, path=()):
    """A state by path, as Python has it."""
    items = items_of(state)
    if not items:
        return {".".join(path): state if items is None else {} if isinstance(items, dict) else []}
    pairs = items.items() if isinstance(items, dict) else enumerate(items)
    return {name: value for key, each in pairs for name, value in leaves(each, (*path, str(key))).items()}


def test_the_head_tells_how_the_run_ended(browser, page, run):
    by.look_at(browser, page)

    last = read(run).events[-1]
    assert by.text(browser, "h1") == "line/events.jsonl"
    assert re.match(
        r"Stopped by early_stop\(val_loss\) at epoch \d+, step \d+: val_loss has not", by.text(browser, ".lead")
    )
    facts = dict(zip(by.texts(browser, "dt"), by.texts(browser, "dd"), strict=True))
    assert facts["Steps"] == str(last.step)
    assert facts["Resumes"] == "1"
    assert facts["Torn bytes"] == "none"
    assert facts["Versions"].startswith("fncb 0.1.0")


def test_states_are_those_that_history_gives(browser, page, run):
    moments = list(history(made(), run))
    by.look_at(browser, page)

    for i in [0, *random.Random(0).sample(range(len(moments)), 6), len(moments) - 1]:
        by.slide(browser, i)
        assert at(browser) == i
        assert by.text(browser, "#event .kind") == type(moments[i].event).__name__
        for key in ("early_stop(val_loss)", "checkpoint(val_loss)", "timer"):
            assert shown_state(browser, key) == leaves(moments[i].state[key]), (i, key)


def test_the_event_is_shown_with_its_metrics_and_what_was_asked_for(browser, page, run):
    events = read(run).events
    i = next(i for i, event in enumerate(events) if type(event) is ev.ValidationEnd and event.step)
    by.look_at(browser, page)
    by.slide(browser, i)

    assert f"epoch {events[i].epoch}, step {events[i].step}" in by.text(browser, "#where")
    rows = dict(zip(by.texts(browser, "#event th"), by.texts(browser, "#event td"), strict=True))
    assert float(rows["val_loss"]) == events[i].metrics["val_loss"]
    asked = by.text(browser, "#asked")
    assert "Save by checkpoint(val_loss)" in asked
    assert re.search(r"written to kept/epoch=0-step=8.safetensors, [\d.]+ kB in [\d.]+ s", asked)


def test_what_an_event_changed_stands_out(browser, page, run):
    moments = list(history(made(), run))
    i = next(i for i, m in enumerate(moments) if type(m.event) is ev.ValidationEnd and m.event.epoch == 1)
    before, after = (moments[k].state["early_stop(val_loss)"] for k in (i - 1, i))
    by.look_at(browser, page)
    by.slide(browser, i)

    changes = dict(pairs(browser, "#changed .change"))
    assert changes["best"] == f"{before.best} → {after.best}"
    assert {*changes} == {"best", "validated"}
    assert {*by.texts(browser, ".state[data-key='early_stop(val_loss)'] tr.changed th")} == {*changes}


def test_keys_go_from_event_to_event_and_from_change_to_change(browser, page, run):
    moments = list(history(made(), run))
    states = [made().init(), *(moment.state for moment in moments)]
    changed = [i for i in range(len(moments)) if states[i] != states[i + 1]]
    by.look_at(browser, page)

    by.find(browser, "#slider").send_keys(Keys.HOME)
    by.settle(browser)
    assert at(browser) == 0
    by.press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert at(browser) == 1
    by.press(browser, Keys.SHIFT + Keys.ARROW_RIGHT)
    assert at(browser) == next(i for i in changed if i > 1)
    by.press(browser, Keys.END)
    assert at(browser) == len(moments) - 1
    browser.execute_script("slider.blur()")
    by.press(browser, Keys.ARROW_LEFT)  # also where the focus is nowhere
    assert at(browser) == len(moments) - 2


def test_buttons_go_to_the_changes_of_one_callback_if_that_is_chosen(browser, page, run):
    moments = list(history(made(), run))
    states = [moment.state["early_stop(val_loss)"] for moment in moments]
    changed = [i for i in range(1, len(states)) if states[i] != states[i - 1]]
    by.look_at(browser, page)
    by.slide(browser, 0)
    browser.execute_script(
        "[...followed.options].find((each) => each.text === 'early_stop(val_loss)').selected = true;"
        "followed.dispatchEvent(new Event('change', {bubbles: true}))"
    )

    by.click(browser, "#next-change")
    first = at(browser)
    by.click(browser, "#next-change")
    assert [first, at(browser)] == changed[:2]
    by.click(browser, "#previous-change")
    by.click(browser, "#next-event")
    assert at(browser) == changed[0] + 1


def test_a_step_is_gone_to(browser, page, run):
    events = read(run).events
    by.look_at(browser, page)
    by.fill(browser, "#step", "11")

    assert at(browser) == next(i for i, event in enumerate(events) if event.step >= 11)
    by.fill(browser, "#step", "999999")
    assert at(browser) == len(events) - 1


def test_the_slider_moves_when_it_is_dragged(browser, page):
    by.look_at(browser, page)
    slider = by.find(browser, "#slider")
    ActionChains(browser).move_to_element(slider).click_and_hold().move_by_offset(-200, 0).release().perform()
    by.settle(browser)

    most = int(slider.get_attribute("max"))
    assert at(browser) == int(slider.get_attribute("value"))
    assert 0.2 < at(browser) / most < 0.45


def point_of(browser, plot, trace, point):
    """Where on the screen a point of a plot is."""
    browser.execute_script("document.querySelectorAll('.figure')[arguments[0]].scrollIntoView({block: 'center'})", plot)
    by.settle(browser)
    return browser.execute_script(
        "const figure = document.querySelectorAll('.figure')[arguments[0]];"
        "const {xaxis, yaxis} = figure._fullLayout, {left, top} = figure.getBoundingClientRect();"
        "const {x, y} = figure._fullData[arguments[1]];"
        "return [left + xaxis._offset + xaxis.d2p(x[arguments[2]]), top + yaxis._offset + yaxis.d2p(y[arguments[2]])]",
        *(plot, trace, point),
    )


def hover(browser, plot, trace, point):
    """Moves the mouse to a point and gives what is said of it."""
    x, y = point_of(browser, plot, trace, point)

    def said():
        for nudge in (3, 0):
            mouse = {"type": "mouseMoved", "x": x + nudge, "y": y + nudge}
            browser.execute_cdp_cmd("Input.dispatchMouseEvent", mouse)
        by.settle(browser)
        return " ".join(by.texts(browser, ".hoverlayer text"))

    return by.wait(said)


def test_a_click_on_a_curve_goes_to_its_event(browser, page, run):
    events = read(run).events
    by.look_at(browser, page)
    for other in (2, 3):  # which may lie over it
        by.click(browser, f".plot:first-child .chip:nth-child({other}) input")
    x, y = point_of(browser, 0, 0, 1)
    assert "val_loss" in hover(browser, 0, 0, 1)
    time.sleep(0.2)  # plotly looks where the mouse is every 50 ms, and forgets it if the button goes down before
    for kind in ("mousePressed", "mouseReleased"):
        mouse = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", mouse)
    second = [i for i, event in enumerate(events) if type(event) is ev.ValidationEnd and event.step][1]

    by.wait(lambda: at(browser) == second)


def line_and_event(browser):
    """Where the line is, and where the event is, in pixels of the first plot."""
    return browser.execute_script(
        "const figure = document.querySelector('.figure'), line = document.querySelector('.moment-line');"
        "const {xaxis, _size: size} = figure._fullLayout;"
        "const step = Number(document.querySelector('#step').value);"
        "return [parseFloat(line.style.left), size.l + xaxis.d2p(step)]"
    )


def test_the_line_is_where_the_event_is(browser, page):
    by.look_at(browser, page)
    for i in (30, 60):
        by.slide(browser, i)
        line, event = line_and_event(browser)
        assert line == pytest.approx(event, abs=1)


def test_a_part_of_the_axis_is_shown_in_all_plots(browser, page):
    by.look_at(browser, page)
    zoom = "const [one, two] = document.querySelectorAll('.figure'); Plotly.relayout(one, {'xaxis.range': [4, 12]});"
    browser.execute_script(zoom)
    ranges = "return [...document.querySelectorAll('.figure')].map((each) => each._fullLayout?.xaxis.range)"

    assert by.wait(lambda: browser.execute_script(ranges)[1] == [4, 12])


def axis_of(browser):
    return browser.execute_script(
        "const figure = document.querySelector('.figure');"
        "return [figure._fullLayout.xaxis.title.text, figure._fullLayout.yaxis.type, [...figure._fullData[0].x]]"
    )


def test_axes_are_switched(browser, page, run):
    checks = [event for event in read(run).events if type(event) is ev.ValidationEnd and event.step]
    by.look_at(browser, page)
    assert axis_of(browser) == ["step", "linear", [event.step for event in checks]]

    by.click(browser, "#axis input[value=seconds]")
    title, _, seconds = axis_of(browser)
    assert (title, seconds) == ("seconds", [event.seconds for event in checks])
    by.click(browser, "#axis input[value=epoch]")
    title, _, epochs = axis_of(browser)
    assert (title, epochs) == ("epoch", [event.epoch + 1 for event in checks])
    by.click(browser, "#scale input[value=log]")
    assert axis_of(browser)[1] == "log"


def traces(browser, plot=0):
    return browser.execute_script("return document.querySelectorAll('.figure')[arguments[0]]._fullData.length", plot)


def test_metrics_and_marks_are_left_out_and_come_back(browser, page):
    by.look_at(browser, page)
    everything = traces(browser)
    by.click(browser, ".plot .chip input")
    assert traces(browser) == everything - 1
    by.click(browser, "#marks .chip input")
    assert traces(browser) == everything - 2
    by.click(browser, "#marks .chip input")
    by.click(browser, ".plot .chip input")
    assert traces(browser) == everything


def test_a_mark_says_what_was_asked_by_whom_where_and_what_came_of_it(browser, page):
    by.look_at(browser, page)
    kinds = browser.execute_script("return document.querySelector('.figure')._fullData.map((each) => each.text[0])")
    save = next(i for i, text in enumerate(kinds) if "Save by" in text)
    said = browser.execute_script("return document.querySelector('.figure')._fullData[arguments[0]].text[0]", save)

    assert re.fullmatch(
        r"<b>Save by checkpoint\(val_loss\)</b><br>path: kept/epoch=0-step=8.safetensors<br>within: kept<br>"
        r"written to kept/epoch=0-step=8.safetensors, [\d.]+ kB in [\d.]+ s<br>epoch 0, step 8, [\d.]+ s",
        said,
    )


def test_marks_at_one_place_become_one_that_tells_of_all(browser, tmp_path):
    entries = (ev.TrainEnd(step=5), Stop("one", key="a"), ev.FitEnd(step=5), Stop("two", key="b"))
    by.look_at(browser, report(Recording({}, entries), tmp_path / "a.html"))
    (trace,) = browser.execute_script("return document.querySelector('.figure')._fullData.map(each => each.text)")

    assert [re.findall("reason: (\\w+)", text) for text in trace] == [["one", "two"]]


def test_what_was_recomputed_is_compared_with_the_recording(browser, page):
    by.look_at(browser, page)

    assert re.fullmatch(r"States recomputed; all \d+ effects agree with the recording.", by.text(browser, "#verdict"))
    assert "early_stop('val_loss', patience=2)" in by.text(browser, "#callbacks table")


def test_other_patience_is_in_a_table(browser, page):
    by.look_at(browser, page)

    assert by.texts(browser, "#whatif tbody th") == [
        *("patience=1", "patience=2 (as it ran)", "patience=3", "patience=5", "patience=10")
    ]
    assert "val_loss has not improved on" in by.text(browser, "#whatif table")


@pytest.fixture(scope="module")
def overlaid(run, tmp_path_factory):
    entries = [
        entry
        for i in range(6)
        for entry in (
            ev.ValidationEnd(epoch=i, step=8 * i + 8, seconds=i / 4, metrics={"val_loss": 2.0**-i}),
            SetLR(0.1 / (1 + i), key="warm_up"),
        )
    ]
    return report([run, Recording({"keys": ["warm_up"]}, tuple(entries))], tmp_path_factory.mktemp("two") / "two.html")


def test_runs_are_drawn_over_each_other(browser, overlaid):
    by.look_at(browser, overlaid)

    assert by.text(browser, "h1") == "2 runs"
    assert by.texts(browser, ".runs .chip") == ["line/events.jsonl", "run 2"]
    names = browser.execute_script("return document.querySelector('.figure')._fullData.map((each) => each.text[0])")
    titles = [name.split("</b>")[0] for name in names]
    assert [title for title in titles if title.endswith(": val_loss")] == [
        *("<b>line/events.jsonl: val_loss", "<b>run 2: val_loss")
    ]
    by.picture(browser, "two-runs")


def test_the_slider_is_that_of_the_run_that_is_chosen(browser, overlaid):
    by.look_at(browser, overlaid)
    browser.execute_script("run.value = '1'; run.dispatchEvent(new Event('change'))")
    by.settle(browser)
    by.slide(browser, 10**6)  # as far as it goes

    assert at(browser) == 5
    assert "SetLR by warm_up" in by.text(browser, "#asked")
    assert "warm_up not made again: the recording does not tell how" in by.text(browser, "#states")


def test_a_run_can_be_left_out(browser, overlaid):
    by.look_at(browser, overlaid)
    both = traces(browser)
    by.click(browser, ".runs .chip input")

    assert 0 < traces(browser) < both


def colours(browser):
    return browser.execute_script(
        "const figure = document.querySelector('.figure');"
        "return [getComputedStyle(document.body).backgroundColor, figure._fullLayout.font.color]"
    )


def test_light_and_dark_follow_the_system_while_the_page_is_open(browser, page):
    by.look_at(browser, page)
    light = colours(browser)
    by.picture(browser, "light")
    by.prefer(browser, dark=True)

    dark = by.wait(lambda: (found := colours(browser))[1] != light[1] and found)
    assert dark[0] != light[0]
    by.picture(browser, "dark")


def test_a_phone_scrolls_down_and_never_sideways(browser, page, overlaid):
    for each in (page, overlaid):
        by.look_at(browser, each, width=360, height=740)
        by.picture(browser, f"phone-{each.stem}")
        for y in (0, 1500, 100_000):
            browser.execute_script("scrollTo(0, arguments[0])", y)
            by.settle(browser)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        inside = "return [...document.querySelectorAll('.figure .main-svg')].every(e => e.clientWidth <= 360)"
        assert browser.execute_script(inside)
        dragged = browser.execute_script("return document.querySelector('.figure')._fullLayout.dragmode")
        assert dragged is False  # so that a finger on a curve scrolls the page


def test_everything_that_can_be_used_has_a_name_and_can_be_reached(browser, overlaid):
    by.look_at(browser, overlaid)
    nameless = browser.execute_script(
        "return [...document.querySelectorAll('button, input, select')].filter((each) =>"
        "!(each.labels?.length || each.getAttribute('aria-label') || each.textContent.trim())).map((each) => each.id)"
    )
    assert nameless == []

    reached = set()
    for _ in range(60):
        by.press(browser, Keys.TAB)
        reached.add(browser.execute_script("return document.activeElement.id || document.activeElement.className"))
    assert {"previous-change", "slider", "step", "followed", "run", "scroll"} <= reached


PAIRS = [(ink, on) for ink in ("ink", "faint", "accent", "was", "is") for on in ("page", "panel", "changed")]


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_told_from_what_is_behind_it(browser, page, dark):
    by.look_at(browser, page, dark=dark)
    value = "return getComputedStyle(document.documentElement).getPropertyValue('--' + arguments[0]).trim()"

    low = {
        pair: round(ratio, 2)
        for pair in PAIRS
        if (ratio := contrast(*[browser.execute_script(value, name) for name in pair])) < 4.5
    }
    assert low == {}
    lines = [browser.execute_script(value, f"{kind}{i}") for kind in "cm" for i in range(1, 8)]
    assert min(contrast(line, browser.execute_script(value, "page")) for line in lines) >= 3


def contrast(one, other):
    """The ratio of two colours' luminance, as WCAG 2 defines it."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(c * weight for c, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


NAMES = [
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "<b>bold</b>",
    '<a href="javascript:window.hacked=1">x</a>',
    "%{x}",
    "$\\frac{a}{b}$ &lt;b&gt; &amp;",
    "a\u2028b\u2029c\u0000d\u001b[2J",
    "__proto__",
    "constructor",
    "\ud800",
    "n" * 100_000,
    "",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Everything that a recording says is a name from `NAMES`."""

    def on_validation_end(state, event):
        return emit({**state, NAMES[event.epoch]: NAMES[event.epoch]}, Stop(NAMES[event.epoch]))

    callbacks = [
        Callback(key=name or "empty", init=dict, on_validation_end=on_validation_end)
        for name in NAMES
        if name != "\ud800"
    ]
    entries = []
    for i, name in enumerate(NAMES):
        metrics = {each: float(i) for each in NAMES}
        entries += [
            ev.ValidationEnd(epoch=i, step=i, metrics=metrics),
            *[Stop(name, key=callback.key) for callback in callbacks],
            Save(name, key=name),
            ev.Saved(epoch=i, step=i, path=name, requested=name),
            Print(name, key=name),
        ]
    entries.append(ev.ExceptionRaised(error=NAMES[0], message=NAMES[1]))
    header = {"fncb": NAMES[0], "keys": NAMES, "callbacks": dict.fromkeys(NAMES)}
    run = Recording(header, tuple(entries))
    whatif = dict.fromkeys(NAMES, callbacks[0])
    return report(run, tmp_path_factory.mktemp("hostile") / "hostile.html", callbacks=callbacks, whatif=whatif)


MARKUP = "return document.querySelectorAll('img, b b, iframe, object, [onerror], a:not([href^=\"#\"])').length"


def test_names_are_shown_as_they_are_and_never_become_markup(browser, hostile):
    by.look_at(browser, hostile, height=4000)
    for i in (0, 4, 30):
        by.slide(browser, i)
        assert browser.execute_script("return [window.hacked, document.title]") == [None, "run 1"]
        assert browser.execute_script(MARKUP) == 0
        assert browser.execute_script("return document.querySelectorAll('script').length") == 2

    page = browser.execute_script("return document.body.textContent")
    assert [name for name in NAMES[:6] if name not in page] == []
    assert f"{'n' * 15}…{'n' * 15}" in page
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1400
    assert ast.literal_eval(dict(pairs(browser, ".state"))["__proto__"]) == "__proto__"


def test_names_are_shown_as_they_are_where_the_mouse_is(browser, hostile):
    by.look_at(browser, hostile, height=4000)
    titles = by.texts(browser, ".plot h3")

    for name in NAMES[:6]:
        plot = titles.index(plot_named(name))
        said = hover(browser, plot, 0, 3)
        assert name[:20] in said.replace("\u00a0", " "), (name, said)
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script(MARKUP) == 0


def test_a_script_that_came_in_would_not_run(browser, page):
    by.look_at(browser, page)
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.hacked = 1';"
        "document.body.append(script);"
        "const image = document.createElement('div'); image.innerHTML = '<img src=x onerror=window.hacked=1>';"
        "document.body.append(image)"
    )
    by.settle(browser)

    assert browser.execute_script("return window.hacked") is None
    assert by.wait(lambda: len(by.complaints(browser)) >= 2)


def test_nothing_is_asked_of_a_network(browser, page):
    by.look_at(browser, page)
    by.slide(browser, 10)
    by.click(browser, "#axis input[value=epoch]")
    asked = [
        entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    urls = [url for message in asked for url in re.findall(r'"url":"([^"]*)"', message)]

    assert {re.sub("^(file|data|blob|about):.*", r"\1", url) for url in urls} <= {"file", "data", "blob", "about"}
    assert sum(url.startswith("file:") and url.endswith(page.name) for url in urls) == len(
        [u for u in urls if u[:5] == "file:"]
    )


ODD = {
    "nothing": Recording({}, ()),
    "no-metrics": Recording({}, (ev.TrainStart(), ev.FitEnd(step=3))),
    "events-and-effects": Recording({}, (ev.TrainStart(), Stop("enough", key="a"), ev.FitEnd(step=3))),
    "torn": Recording({}, (ev.ValidationEnd(step=1, metrics={"val_loss": 0.5}),), torn=17),
    "not-finite": Recording(
        {}, tuple(ev.ValidationEnd(epoch=i, step=i, metrics={"a": x}) for i, x in enumerate((1.0, nan, inf, -inf, 2.0)))
    ),
    "only-nan": Recording({}, tuple(ev.ValidationEnd(step=i, seconds=nan, metrics={"a": nan}) for i in range(3))),
    "no-steps": Recording({}, tuple(ev.TrainBatchEnd(metrics={"loss": float(i)}) for i in range(3))),
    "no-clock": Recording({}, (ev.Setup(time=nan), ev.Setup(time=-5e10), ev.FitEnd(seconds=inf))),
}


@pytest.mark.parametrize("name", ODD)
def test_a_page_of_an_odd_recording_is_drawn(browser, name, tmp_path):
    by.look_at(browser, report(ODD[name], tmp_path / f"{name}.html"))
    for value in ("epoch", "seconds", "step"):
        if by.find(browser, "#curves").is_displayed():
            by.click(browser, f"#axis input[value={value}]")
            by.click(browser, "#scale input[value=log]")
            by.click(browser, "#scale input[value=linear]")

    assert by.text(browser, "#problem") == ""
    by.picture(browser, f"odd-{name}")


def test_what_is_missing_from_a_recording_is_said(browser, tmp_path):
    by.look_at(browser, report(ODD["torn"], tmp_path / "a.html"))
    facts = dict(zip(by.texts(browser, "dt"), by.texts(browser, "dd"), strict=True))
    assert facts["Torn bytes"] == "17, not read"

    by.look_at(browser, report(ODD["not-finite"], tmp_path / "b.html"))
    assert by.text(browser, ".plot .note").strip() == "a is not finite 3 times, first at step 1."
    by.click(browser, ".plot .note button")
    assert at(browser) == 1

    by.look_at(browser, report(ODD["no-metrics"], tmp_path / "c.html"))
    assert by.text(browser, "#curves-note") == "No metrics were recorded."


@attrs.frozen
class Window:
    last: tuple[float, ...] = ()
    batches: int = 0
    of: dict[str, float] = attrs.field(factory=dict)


def watching(of_steps=3):
    """A state that changes at each batch in all the ways that a state can."""

    def on_train_batch_end(state, event):
        last = (*state.last, event.metrics["loss"])[-of_steps:]
        of = {**state.of, f"e{event.epoch}": event.metrics["loss"]}
        return Window(last, state.batches + 1, {k: v for k, v in of.items() if k != f"e{event.epoch - 2}"})

    return Callback(key="watching", init=Window, on_train_batch_end=on_train_batch_end)


def long_run(n):
    return [
        ev.TrainBatchEnd(epoch=i // 100, step=i + 1, batch_idx=i % 100, metrics={"loss": 0.1 + (i * pi) % 1})
        for i in range(n)
    ]


def test_states_far_into_a_long_run_are_right_whichever_way_one_comes(browser, tmp_path):
    events = long_run(3000)
    moments = list(history(watching(), events))
    by.look_at(browser, report(Recording({}, tuple(events)), tmp_path / "a.html", callbacks=watching()))

    for i in (2999, 5, 1500, 1499, 1436, 64, 63, 2998):
        by.slide(browser, i)
        shown = shown_state(browser, "watching")
        state = moments[i].state
        assert shown == {
            "last": [*state.last],
            "batches": state.batches,
            **{f"of.{key}": value for key, value in state.of.items()},
        }
    assert "1,000 stretches are drawn, and the first and the last: loss (3,000)" in by.text(browser, "#curves-note")


def test_a_page_that_leaves_events_out_says_so_and_numbers_them_all(browser, tmp_path, monkeypatch):
    events = [*long_run(6000), ev.ValidationEnd(epoch=59, step=6000, metrics={"val_loss": 0.5})]
    monkeypatch.setattr(html, "story_of", partial(html.story_of, most=2500))
    by.look_at(browser, report(Recording({}, tuple(events)), tmp_path / "a.html", callbacks=watching()))
    assert "Of 6,001 events 2,5" in by.text(browser, "#curves-note")
    by.slide(browser, 10**6)  # as far as it goes

    assert "Event 6,001 of 6,001" in by.text(browser, "#event")
    assert shown_state(browser, "watching")["batches"] == 6000
    by.press(browser, Keys.ARROW_LEFT)
    number = int(re.search(r"Event ([\d,]+) of", by.text(browser, "#event"))[1].replace(",", ""))
    assert shown_state(browser, "watching")["batches"] == number


def test_an_event_is_shown_with_what_it_has_and_not_with_what_those_before_it_had(browser, tmp_path):
    metrics = [{"a": 1.5}, {"b": 2.5}, {"a": 3.5, "b": 0.1}]
    run = Recording({}, tuple(ev.ValidationEnd(step=i, metrics=each) for i, each in enumerate(metrics)))
    by.look_at(browser, report(run, tmp_path / "a.html"))

    for i, each in enumerate(metrics):
        by.slide(browser, i)
        rows = zip(by.texts(browser, "#event th"), by.texts(browser, "#event td"), strict=True)
        assert {name: float(value) for name, value in rows} == each


def test_a_callback_that_cannot_be_replayed_is_named_and_the_others_go_on(browser, tmp_path):
    def on_train_batch_end(state, event):
        return event.batch if event.step == 3 else state

    looks = Callback(key="looks", init=int, on_train_batch_end=on_train_batch_end)
    by.look_at(browser, report(Recording({}, tuple(long_run(5))), tmp_path / "a.html", callbacks=[looks, watching()]))
    by.slide(browser, 1)
    assert by.texts(browser, "#states .state h5") == ["looks", "watching"]
    assert by.texts(browser, "#states .notes li") == []

    by.slide(browser, 2)
    (said,) = by.texts(browser, "#states .notes li")
    assert said.startswith(
        "looks not replayable from here on: LiveFieldError: TrainBatchEnd at step 3: `batch` is a live"
    )
    assert shown_state(browser, "watching")["batches"] == 3
    assert "not replayable from event 3 on" in by.text(browser, "#callbacks table")
    assert "1 callback is not known throughout" in by.text(browser, "#verdict")


def test_effects_that_are_others_than_the_recorded_ones_are_told(browser, tmp_path):
    run = Recording({}, (ev.TrainEnd(), Print("recorded", key="says")))
    says = Callback(key="says", on_train_end=lambda state, event: emit(state, Print("folded")))
    by.look_at(browser, report(run, tmp_path / "a.html", callbacks=says))

    assert by.text(browser, "#verdict").startswith("States recomputed; 1 callback asks for other effects than")
    told = "differs from event 1 on: recorded Print(text='recorded'), folding gives Print(text='folded')"
    assert told in by.text(browser, "#callbacks table")
