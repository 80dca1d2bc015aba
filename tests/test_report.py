"""The page of all runs: what is read, what a browser shows of it, and who is served."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from runs.catalogue import find
from runs.cli import run as snail
from runs.config.serialization import to_dict
from runs.dashboard.collect import Collector, Curves, Found, Run, thinned
from runs.dashboard.page import CURVE_BYTES, Report, page
from runs.dashboard.serve import Live, Server
from runs.results.folder import RunFolder, run_path

STEPS = 40
BANDIT, OTHER = "bandit/n10-k5", "bandit/n10-k10"


def returns(agent: str, seed: int, step: int) -> float:
    """What the runs below log: straight lines, so that what lies between two steps is known."""
    return {"snail": 5.0, "gru": 4.0}.get(agent, 3.0) + (0.02 + 0.004 * seed) * step


def leave(
    results: Path, experiment=BANDIT, agent="snail", seed=0, budget="full", finished=True, steps=STEPS, **settings
) -> Path:
    """The folder of a run as training leaves it; of each seed other steps are logged."""
    config = find(experiment).config(agent if agent in ("snail", "gru") else "lstm", seed, budget)
    config = dataclasses.replace(
        config, agent=agent, training=dataclasses.replace(config.training, steps=STEPS, **settings)
    )
    folder = RunFolder(run_path(results, config) if agent.isalnum() else results / experiment / f"odd-{seed}")
    folder.path.mkdir(parents=True)
    folder.claim(config, overwrite=False)
    for step in range(1 + seed, steps + 1, 1 + seed):
        line = {
            "update": step,
            "time/seconds": 2.0 * step,
            "time/env_steps_per_second": 50.0,
            "train/loss": 100.0 / step,
        }
        line["train/return"] = returns(agent, seed, step)
        folder.append_metrics(line | ({"look": step / 10} if step % 10 == 0 else {}))
    if finished:
        folder.write_result(record(config, mean=returns(agent, seed, STEPS)))
    return folder.path


def record(config, mean: float) -> dict:
    key = {"experiment": config.experiment, "agent": config.agent, "seed": config.seed}
    return {
        "results": [{**key, "metric": "return", "mean": mean, "ci95": 0.02, "n": 60000, "task_set": "abc"}],
        "budget": config.budget,
        "as_catalogued": True,
        "steps": STEPS,
        "env_steps": 4100,
        "train_seconds": 80.0,
        "parameters": 1234,
        "device": "a processor",
        "threads": 1,
        "finished": f"2026-01-01T00:00:0{config.seed}+00:00",
        "config": to_dict(config),
    }


@pytest.fixture
def results(tmp_path) -> Path:
    """Two experiments; of SNAIL on the first three seeds."""
    for seed in range(3):
        leave(tmp_path, seed=seed)
    leave(tmp_path, agent="gru", finished=False, steps=STEPS // 2)
    leave(tmp_path, OTHER, agent="gru", learning_rate=0.5)
    return tmp_path


def named(found: Found, name: str) -> Run:
    return next(run for run in found.runs if run.name == name)


# ---------------------------------------------------------------- reading


def test_runs_are_read_finished_or_not(results):
    found = Collector([results]).collect()
    assert len(found.runs) == 5 and not found.warnings
    snail_run = next(run for run in found.runs if (run.agent, run.seed) == ("snail", 1))
    assert snail_run.finished and snail_run.results[0]["mean"] == returns("snail", 1, STEPS)
    assert snail_run.config["training"]["steps"] == STEPS and snail_run.unit == "env_steps"
    dense = next(c for c in snail_run.curves if "train/return" in c.metrics)
    assert dense.steps.tolist() == [*range(2, STEPS + 1, 2)]
    looks = next(c for c in snail_run.curves if "look" in c.metrics)
    assert looks.steps.tolist() == [10, 20, 30, 40] and looks.metrics["look"].tolist() == [1, 2, 3, 4]
    # throughput times time says 4000 in the end, the record 4100
    assert dense.units is not None and dense.units[-1] == 4100 and dense.units[0] == pytest.approx(205)
    assert [run.agent for run in found.runs if not run.finished] == ["gru"]


def test_published_records_have_no_configuration_beside_them_and_a_copy_is_shown_once(results, tmp_path_factory):
    published = tmp_path_factory.mktemp("published")
    own = leave(results, seed=7)
    shutil.copytree(own, published / "copied")
    other = leave(published, agent="gru", seed=9)
    rerun = leave(published, seed=1)
    record = json.loads((rerun / "result.json").read_text())
    (rerun / "result.json").write_text(json.dumps(record | {"finished": "2025-01-01T00:00:00+00:00"}))
    for folder in (published / "copied", other, rerun):
        (folder / "config.json").unlink()
    found = Collector([results, published], published).collect()
    assert [(run.seed, run.published) for run in found.runs if run.seed in (7, 9)] == [(7, False), (9, True)]
    assert len({run.name for run in found.runs}) == len(found.runs)


def test_a_damaged_run_costs_a_warning_and_no_other_run(results):
    no_record, no_metrics, nothing, cut = (leave(results, seed=seed) for seed in (3, 4, 5, 6))
    (no_record / "result.json").write_text('{"results": [')
    lines = (no_metrics / "metrics.jsonl").read_text().splitlines()
    (no_metrics / "metrics.jsonl").write_text("\n".join([lines[0], "{garbage", *lines[1:]]))
    (nothing / "config.json").write_text('{"agent": 3}')
    (nothing / "result.json").write_text('{"results": [{"mean": "much"}], "config": {"agent": 3}}')
    with open(cut / "metrics.jsonl", "a") as file:
        file.write('{"update": 41, "time')
    odd = leave(results, OTHER, seed=8)
    with open(odd / "metrics.jsonl", "a") as file:
        file.write('[1]\n{"update": 3, "time/seconds": 9}\n')
        file.write('{"update": 50, "time/seconds": 100, "train/return": "high", "train/loss": NaN}\n')
    found = Collector([results]).collect()
    runs = {run.folder: run for run in found.runs}
    assert len(runs) == 9 and nothing not in runs
    assert not runs[no_record].finished and runs[no_record].curves
    assert runs[no_metrics].finished and not runs[no_metrics].curves
    assert len(runs[cut].curves[0].steps) == len(range(7, STEPS + 1, 7))
    for folder in (no_record, no_metrics, nothing, odd):
        assert any(str(folder) in line for line in found.warnings), found.warnings
    text = page(Report([results]).data(found, results))
    assert json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S)[1])["warnings"] == found.warnings


def test_only_what_has_changed_is_read_again(results):
    collector = Collector([results])
    found = collector.collect()
    assert collector.collect() is found
    with open(run_of(results, "gru") / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"update": 30, "time/seconds": 60.0, "train/return": 4.5}) + "\n")
    later = collector.collect()
    assert later is not found
    changed = [new for new in later.runs if not any(new is old for old in found.runs)]
    assert [run.agent for run in changed] == ["gru"]
    shutil.rmtree(run_of(results, "gru"))
    assert len(collector.collect().runs) == 4


def run_of(results: Path, agent: str) -> Path:
    (folder,) = [path.parent for path in results.rglob(f"{BANDIT}/{agent}/*/config.json")]
    return folder


def test_fewer_points_are_means_over_the_same_updates():
    steps = np.cumsum(np.random.default_rng(0).integers(1, 5, 1003)).astype(float)
    curves = Curves(steps, 2 * steps, 3 * steps, {"loss": np.random.default_rng(1).normal(size=1003)})
    few = thinned(curves, 100)
    assert len(few.steps) == 100 and few.steps[-1] == steps[-1] and few.seconds[-1] == 2 * steps[-1]
    whole = np.average(curves.metrics["loss"], weights=np.diff(steps, prepend=0))
    assert np.average(few.metrics["loss"], weights=np.diff(few.steps, prepend=0)) == pytest.approx(whole)
    assert thinned(curves, 1003) is curves


@pytest.mark.parametrize(("runs", "points"), [(50, 2000), (300, 3000)])
def test_the_page_stays_small(runs, points):
    steps = np.arange(1.0, points + 1)
    metrics = {name: np.random.default_rng(0).normal(size=points) for name in "abcdefgh"}
    curves = [Curves(steps, 2 * steps, 3 * steps, metrics)]
    config = to_dict(find(BANDIT).config("snail"))
    run = Run(Path("r"), "r", False, BANDIT, "snail", "full", 0, config, {}, [], curves, "steps", [], datetime.now(UTC))
    found = Found([dataclasses.replace(run, name=f"r{seed}", seed=seed) for seed in range(runs)], [])
    data = Report([]).data(found, Path())
    drawn = len(base64.b64decode(data["runs"][0]["curves"][0]["metrics"]["a"])) // 4
    assert drawn == points if runs == 50 else 100 < drawn < points
    assert CURVE_BYTES / 2 < len(page(data)) < 10_000_000


def picture(path: Path, width: int, height: int) -> None:
    Image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def test_pictures_are_scaled_down_and_those_beyond_the_limit_are_only_named(results, monkeypatch):
    monkeypatch.setattr("runs.dashboard.page.PICTURE_BYTES", 300_000)
    folder = run_of(results, "gru")
    for n in range(3):
        picture(folder / "attention" / f"layer-{n}.png", 1800, 600)
    (folder / "attention" / "damaged.png").write_bytes(b"no picture")
    bomb = bytearray((folder / "attention" / "layer-0.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 40_000, 40_000)  # a size that nothing should be unpacked to
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (folder / "attention" / "bomb.png").write_bytes(bomb)
    report = Report([results])
    shown = next(run["pictures"] for run in report.data(report.find(), results)["runs"] if run["pictures"])
    sources = {p["name"]: p["source"] for p in shown}
    assert list(sources) == ["bomb", "damaged", "layer-0", "layer-1", "layer-2"]
    assert sources["bomb"] is None and sources["damaged"] is None and sources["layer-2"] is None
    Image = pytest.importorskip("PIL.Image")
    png = base64.b64decode(sources["layer-0"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(png)).size == (900, 300) and len(png) < 300_000


# ---------------------------------------------------------------- the command and the server


def test_the_command_writes_the_page(results, capsys):
    assert snail(["dashboard", "--results", str(results), "--no-published", "--no-serve"]) == 0
    out = capsys.readouterr().out
    assert f"report: {results / 'report.html'} (5 runs" in out
    assert (results / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--results", "nowhere"], "there is no folder nowhere"),
        (["--results", "empty", "--no-published"], "there are no runs below empty"),
        (["--results", "{results}", "--output", "empty"], "empty is a folder; give a file: --output empty/report.html"),
        (["--results", "{results}", "--port", "{port}"], "cannot serve on port"),
        (["--results", "{results}", "--port", "99999"], "cannot serve on port"),
    ],
)
def test_user_errors_are_one_line(results, served, options, says, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    Path("empty").mkdir()
    options = [word.format(results=results, port=served.server_port) for word in options]
    assert snail(["dashboard", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {says}") and len(err.splitlines()) == 1, err


@pytest.fixture
def served(results):
    """A server of the results, with a poll to be quick."""
    with Server(Live(Report([results]), results), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    return connection.getresponse()


def test_the_server_gives_the_page_and_its_data_and_nothing_else(served):
    assert served.server_address[0] == "127.0.0.1"
    assert ask(served, "/").read().startswith(b"<!doctype html>")
    answer = ask(served, "/data.json")
    data = json.loads(answer.read())
    assert len(data["runs"]) == 5 and data["live"]
    again = ask(served, "/data.json", If_None_Match=answer.getheader("ETag"))
    assert again.status == 304 and again.read() == b""
    for path in ("/report.html", "/../pyproject.toml", "/bandit/n10-k5", "//etc/passwd", "/data.jsonx"):
        assert ask(served, path).status == 404
    assert ask(served, "/", method="POST").status == 501
    assert answer.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "0.0.0.0", ""])
def test_a_name_that_merely_leads_here_gets_nothing(served, host):
    answer = ask(served, "/data.json", Host=host)
    assert answer.status == 403 and b"runs" not in answer.read()


def test_localhost_is_served(served):
    assert ask(served, "/", Host=f"localhost:{served.server_port}").status == 200
    assert ask(served, "/", Host="localhost").status == 200


MIRROR = """
import trackio
trackio.init(project="snail", name="a run", config={})
trackio.log({"loss": 1.0})
trackio.finish()
"""


def answers(address: str) -> int:
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=20)
    connection.request("GET", "/")
    return connection.getresponse().status


@pytest.mark.slow
def test_both_dashboards_are_served_to_this_machine_until_ctrl_c(results):
    mirrored = importlib.util.find_spec("trackio") is not None
    if mirrored:
        place = {"TRACKIO_DIR": str(results / "trackio")}
        subprocess.run([sys.executable, "-c", MIRROR], env=os.environ | place, check=True, capture_output=True)
    words = ["dashboard", "--results", str(results), "--no-published", "--port", "0"]
    command = [sys.executable, "-m", "runs.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = {}
        while "Ctrl-C ends" not in said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            name, _, rest = line.strip().partition(": ")
            said[name] = rest.strip()
        addresses = [said["live"], *([said["trackio"]] if mirrored else [])]
        assert all(address.startswith("http://127.0.0.1:") and answers(address) == 200 for address in addresses)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and not err


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, driven by playwright."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a browser, and all that it said and asked for meanwhile."""

    def __init__(self, browser, address: str, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.page.set_default_timeout(20_000)
        self.page.locator("main section").first.wait_for()

    def tick(self, facet: str, value: str):
        self.page.locator(f"fieldset[data-facet={facet}] input[value='{value}']").click()

    def panel(self, name: str):
        return self.page.locator(f".panel[data-name='{name}']")

    def legend(self, name: str) -> list[str]:
        return [text.strip() for text in self.panel(name).locator(".legend button").all_inner_texts()]

    def hover(self, name: str, across: float, down: float = 0.5) -> str:
        """What the tooltip says at a place of a panel, given in parts of its width and height."""
        over = self.panel(name).locator(".u-over")
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        self.page.mouse.move(0, 0)  # staying where it is would be no move
        over.hover(position={"x": across * box["width"], "y": down * box["height"]})
        tip = self.panel(name).locator(".tip")
        tip.wait_for(state="visible")
        return tip.inner_text()

    def pixels(self, name: str, colour: tuple[int, int, int]) -> int:
        """How many pixels of a panel have just this colour."""
        count = """(canvas, colour) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let found = 0;
            for (let i = 0; i < data.length; i += 4)
                found += colour.every((part, k) => data[i + k] === part) && data[i + 3] === 255;
            return found;
        }"""
        return self.panel(name).locator("canvas").evaluate(count, colour)

    def sections(self) -> list[str]:
        return self.page.locator("main h2").all_inner_texts()


@pytest.fixture
def open_page(browser, results):
    """Opens the results' page; nothing may be said on the console, and nothing asked of any network."""
    report = Report([results])
    (results / "report.html").write_text(page(report.data(report.find(), results)))
    address = (results / "report.html").as_uri()
    visits = []

    def visit(fragment: str = "", **options) -> Visit:
        visits.append(Visit(browser, address + fragment, **options))
        return visits[-1]

    yield visit
    for v in visits:
        assert not v.said
        assert {url.split("#")[0] for url in v.asked if not url.startswith("data:")} == {address}
        v.context.close()


def test_a_person_filters_hides_and_shares(open_page):
    visit = open_page()
    assert visit.legend(BANDIT) == ["gru", "snail (3 seeds)"]
    assert visit.page.get_by_role("heading", name="Runs (5)").is_visible()
    visit.tick("experiment", BANDIT)
    assert visit.panel(OTHER).count() == 0 and "Runs (4)" in visit.sections()
    visit.tick("agent", "snail")
    visit.page.keyboard.press("Space")  # the keyboard is where the mouse was: off, and on again
    assert visit.legend(BANDIT) == ["gru", "snail (3 seeds)"]
    visit.page.keyboard.press("Space")
    assert visit.legend(BANDIT) == ["snail (3 seeds)"]
    visit.tick("seed", "0")
    visit.tick("seed", "1")
    assert visit.legend(BANDIT) == ["snail (2 seeds)"] and "Runs (2)" in visit.sections()
    visit.page.locator("#metric").select_option("train/loss")
    visit.page.locator("#axis").select_option("seconds")
    visit.panel(BANDIT).locator(".legend button").click()
    assert visit.panel(BANDIT).locator(".legend button").get_attribute("aria-pressed") == "false"

    shared = open_page("#" + visit.page.url.partition("#")[2])
    assert shared.legend(BANDIT) == ["snail (2 seeds)"] and "Runs (2)" in shared.sections()
    assert shared.page.locator("#metric").input_value() == "train/loss"
    assert shared.page.locator("#axis").input_value() == "seconds"
    assert shared.panel(BANDIT).locator(".legend button").get_attribute("aria-pressed") == "false"
    assert shared.page.locator("input:checked").count() == 4


def number(text: str, name: str) -> float:
    return float(re.search(rf"{name}: ([\d.,]+)", text)[1].replace(",", ""))


def test_hovering_tells_the_mean_and_its_interval_over_seeds(open_page):
    visit = open_page("#agent=snail")
    text = visit.hover(BANDIT, 0.6)
    step = int(number(text, "updates"))
    values = [returns("snail", seed, step) for seed in range(3)]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert 20 <= step <= 28
    assert text.splitlines()[0].strip() == "snail"
    assert number(text, "train/return") == pytest.approx(np.mean(values), abs=6e-4)
    assert float(re.search(r"± ([\d.]+)", text)[1]) == pytest.approx(half, rel=0.05)
    assert "95% over 3 seeds: 0, 1, 2" in text


def test_bands_of_two_seeds_are_their_range(open_page):
    visit = open_page("#agent=snail&seed=0&seed=1")
    text = visit.hover(BANDIT, 0.6)
    step = int(number(text, "updates"))
    values = [returns("snail", seed, step) for seed in range(2)]
    assert float(re.search(r"± ([\d.]+)", text)[1]) == pytest.approx(abs(values[0] - values[1]) / 2, rel=0.05)
    assert "range over 2 seeds: 0, 1" in text


def test_smoothing_is_a_choice_that_can_be_shared(open_page):
    visit = open_page("#agent=gru&seed=0")
    visit.page.locator("#metric").select_option("train/loss")
    before = number(visit.hover(BANDIT, 0.9), "train/loss")
    visit.page.locator("#smooth").select_option("0.98")
    after = number(visit.hover(BANDIT, 0.9), "train/loss")
    assert after > 1.5 * before  # of a falling curve: the past weighs in
    assert "smooth=0.98" in visit.page.url
    assert open_page("#" + visit.page.url.partition("#")[2]).page.locator("#smooth").input_value() == "0.98"


def test_runs_are_filtered_by_settings_and_told_apart(browser, tmp_path):
    """Every line has its own colour and dashes, and a name by what differs; published and own runs are apart."""
    for i, rate in enumerate((0.1, 0.2, 0.3)):
        leave(tmp_path / "mine", agent="gru", learning_rate=rate, seed=i % 2)
    leave(tmp_path / "published", agent="snail")
    report = Report([tmp_path / "mine", tmp_path / "published"], tmp_path / "published")
    (tmp_path / "page.html").write_text(page(report.data(report.find(), tmp_path)))
    visit = Visit(browser, (tmp_path / "page.html").as_uri())
    names = visit.legend(BANDIT)
    assert len(names) == 4 and {f"gru, learning_rate {rate}" for rate in ("0.1", "0.2", "0.3")} <= set(names)
    looks = (
        visit.panel(BANDIT)
        .locator(".legend line")
        .evaluate_all("all => all.map(x => [x.getAttribute('stroke'), x.getAttribute('stroke-dasharray')])")
    )
    assert len({colour for colour, _ in looks}) == 4 and sum(not dash for _, dash in looks) == 2
    assert looks[names.index("snail")] == ["rgb(0 114 178)", ""]  # which is its own everywhere
    visit.tick("setting", "training.learning_rate=0.2")
    assert visit.legend(BANDIT) == ["gru, learning_rate 0.2"] or visit.legend(BANDIT) == ["gru"]
    visit.tick("setting", "training.learning_rate=0.1")
    assert len(visit.legend(BANDIT)) == 2
    visit.tick("setting", "training.learning_rate=0.1")
    visit.tick("setting", "training.learning_rate=0.2")
    visit.tick("source", "published")
    assert visit.legend(BANDIT) == ["snail"]
    assert not visit.said
    visit.context.close()


def test_another_metric_another_axis_and_what_is_hidden_is_not_found(open_page):
    visit = open_page(f"#experiment={BANDIT}")
    visit.page.locator("#metric").select_option("train/loss")
    text = visit.hover(BANDIT, 0.5)
    assert "loss" in text and "return" not in text
    visit.page.locator("#axis").select_option("units")
    visit.page.locator("#metric").select_option("train/return")
    assert "env steps: " in visit.hover(BANDIT, 0.5)
    visit.page.locator("#axis").select_option("seconds")
    low = visit.hover(BANDIT, 0.3, 0.95)
    assert low.splitlines()[0].strip() == "gru" and number(low, "seconds of training") < 40
    visit.panel(BANDIT).get_by_role("button", name="gru").click()
    assert visit.hover(BANDIT, 0.3, 0.95).splitlines()[0].strip() == "snail"
    assert set(visit.page.locator("#metric option").all_inner_texts()) >= {"train/return", "train/loss", "look"}


BLUE = (0, 0x72, 0xB2)


def test_a_part_is_looked_at_closely_and_all_again(open_page):
    visit = open_page("#agent=snail")
    assert visit.pixels(BANDIT, BLUE) > 200
    over = visit.panel(BANDIT).locator(".u-over")
    box = over.bounding_box()
    across = [box["x"] + part * box["width"] for part in (0.25, 0.5)]
    visit.page.mouse.move(across[0], box["y"] + 40)
    visit.page.mouse.down()
    visit.page.mouse.move(across[1], box["y"] + 60, steps=4)
    visit.page.mouse.up()
    for metric in ("main", "train/return"):  # what is looked at stays
        visit.page.locator("#metric").select_option(metric)
        assert 17 < number(visit.hover(BANDIT, 0.99), "updates") <= 20
        assert visit.pixels(BANDIT, BLUE) > 200
    over.dblclick()
    assert number(visit.hover(BANDIT, 0.99), "updates") > 35
    visit.panel(BANDIT).locator(".legend button").click()
    assert visit.pixels(BANDIT, BLUE) == 0


def test_following_a_run_shows_it_alone(open_page, results):
    picture(run_of(results, "gru") / "attention" / "layer-1.png", 60, 40)
    report = Report([results])
    (results / "report.html").write_text(page(report.data(report.find(), results)))
    visit = open_page()
    name = f"{BANDIT} gru, full, seed 0"
    visit.page.locator("#runs").get_by_role("button", name=name).click()
    assert visit.sections() == [name, "Curves", "Attention", "Settings"]
    text = visit.page.locator("main").inner_text()
    assert "unfinished, 20 of 40 updates" in text and "training.learning_rate" in text
    assert visit.page.locator("figure img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 60
    href = visit.page.locator("#run a").evaluate("a => a.href")
    assert href == run_of(results, "gru").as_uri()
    assert number(visit.hover("train/return", 0.9), "train/return") == pytest.approx(returns("gru", 0, 18), abs=0.03)
    visit.page.get_by_role("button", name="all runs").click()
    assert "Final numbers" in visit.sections()
    visit.page.go_back()
    assert visit.sections()[0] == name


def test_final_numbers_keep_the_two_intervals_apart(open_page):
    visit = open_page("#agent=snail")
    head = visit.page.locator("#numbers th").all_inner_texts()
    row = dict(zip(head, visit.page.locator("#numbers tbody tr").first.locator("td").all_inner_texts(), strict=True))
    values = [returns("snail", seed, STEPS) for seed in range(3)]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert float(row["mean"]) == pytest.approx(np.mean(values), abs=6e-4)
    assert row["± over tasks"] == "0.020" and row["seeds"] == "0, 1, 2"
    assert float(row["± over seeds"]) == pytest.approx(half, rel=0.05)


def test_tables_settings_and_throughput_are_there(open_page):
    visit = open_page("#agent=gru")
    visit.page.locator("summary", has_text="Table 3").click()
    table = visit.page.locator("#tables details", has_text="Table 3")
    assert "thompson" in table.inner_text() and "4.800" in table.inner_text()  # GRU's number on the second experiment
    assert "verdict" in table.locator("th").all_inner_texts() and "below" in table.inner_text()
    settings = visit.page.locator("#settings")
    assert "training.learning_rate" in settings.inner_text() and "task.arms" in settings.inner_text()
    assert "training.batch_size" not in settings.inner_text()
    assert "51.3 env steps/s" in visit.page.locator("#throughput").inner_text()  # 4100 in 80 seconds


def test_seeds_are_averaged_over_their_common_range(open_page):
    visit = open_page()
    rng = np.random.default_rng(0)
    curves = []
    for length in (50, 80, 65):
        x = np.sort(rng.uniform(0, 100, length))
        curves.append({"x": x.tolist(), "y": rng.normal(size=length).tolist()})
    t = [float(stats.t.ppf(0.975, n)) for n in range(1, 5)]
    took = "([c, t]) => { const a = average(c, t); return [a.x, a.mean, a.half].map((v) => [...v]); }"
    x, mean, half = map(np.array, visit.page.evaluate(took, [curves, t]))
    low, high = max(c["x"][0] for c in curves), min(c["x"][-1] for c in curves)
    assert x.tolist() == sorted(v for c in curves for v in c["x"] if low <= v <= high)
    values = np.array([np.interp(x, c["x"], c["y"]) for c in curves])
    np.testing.assert_allclose(mean, values.mean(0), atol=1e-12)
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 2) * values.std(0, ddof=1) / 3**0.5, atol=1e-12)
    apart = [{"x": [0, 1], "y": [0, 1]}, {"x": [2, 3], "y": [0, 1]}]
    assert visit.page.evaluate("([c, t]) => average(c, t)", [apart, t]) is None


def test_what_records_say_is_never_markup(open_page, results):
    agent = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    leave(results, agent=agent, seed=4)
    report = Report([results])
    text = page(report.data(report.find(), results))
    assert text.count("<script") == 2 and "<img" not in text
    (results / "report.html").write_text(text)
    visit = open_page()
    assert agent in visit.legend(BANDIT)
    visit.page.locator("#runs").get_by_role("button", name="onerror").click()
    assert agent in visit.sections()[0]
    assert visit.page.evaluate("window.broken") is None and visit.page.locator("main img").count() == 0


def test_the_page_fits_narrow_windows_and_dark_rooms(open_page):
    narrow = open_page(viewport={"width": 400, "height": 800})
    assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert not narrow.page.locator("fieldset").first.is_visible()
    narrow.page.locator("summary", has_text="Filters").click()
    assert narrow.page.locator("fieldset").first.is_visible()
    assert "return" in narrow.hover(BANDIT, 0.5)
    colours = [
        open_page(color_scheme=scheme).page.evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 28)"]


def test_a_running_run_is_followed_live(browser, served, results):
    visit = Visit(browser, served.address + "#agent=gru&experiment=bandit%2Fn10-k5")
    assert "unfinished, 20 of 40 updates" in visit.page.locator("#runs").inner_text()
    visit.page.evaluate("scrollTo(0, 300)")
    folder = RunFolder(run_of(results, "gru"))
    for step in range(21, STEPS + 1):
        folder.append_metrics({"update": step, "time/seconds": 2.0 * step, "train/return": returns("gru", 0, step)})
    visit.page.locator("#runs", has_text="unfinished, 40 of 40 updates").wait_for()
    folder.write_result(record(folder.config(), mean=4.8))
    visit.page.locator("#runs", has_text="return 4.800 ± 0.020").wait_for()
    assert visit.page.locator("input:checked").count() == 2 and visit.legend(BANDIT) == ["gru"]
    assert visit.page.evaluate("scrollY") == 300
    assert number(visit.hover(BANDIT, 0.99), "updates") == STEPS
    assert not visit.said
    assert {url.split("#")[0] for url in visit.asked if not url.startswith("data:")} == {
        served.address,
        served.address + "data.json",
    }
    visit.context.close()
