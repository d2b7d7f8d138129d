"""The pages as Chromium shows them: nothing sticks out and all can be read, at every width, by day, night and in print.

Run: python -m pytest tests/reporting/look_at_report.py. Other test runs skip it, since it needs Chromium
(apt-get install chromium). With DISTNET_PICTURES=FOLDER in the environment it saves its screenshots there.
"""

import base64
import csv
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import command

from distnet.reporting.pages.page import render_document, render_section
from distnet.reporting.pages.run import render_step_time
from distnet.reporting.pages.speedup import render_speedup
from distnet.reporting.speedup import Measurement

BROWSER = shutil.which("chromium")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars")
QUIET += ("--disable-background-networking", "--disable-component-update", "--disable-sync")
PAGES = ("images", "validation", "table", "many", "regression", "labels", "profile", "compare", "speedup")
WIDTHS = (390, 500, 800, 1280)
PAPER = 688  # what A4 has between margins of 14 mm
PHASES = ("data", "forward", "backward", "exchange", "waiting", "update", "evaluation", "checkpoint")
# What the page says of itself: how wide it is, what isn't decoded or asks for another file, and what can't be read.
LOOK = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map((c) => c * (text.startsWith("color(srgb") ? 255 : 1));
  const over = (top, below) => top.slice(0, 3).map((c, k) => c * (top[3] ?? 1) + below[k] * (1 - (top[3] ?? 1)));
  const luminance = (colour) => colour.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const style = getComputedStyle(element);
    return over(channels(style.backgroundColor), ground(element.parentElement));
  };
  const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement, box = document.createRange();
    box.selectNode(node);
    if (!node.data.trim() || !box.getBoundingClientRect().width || element.tagName === "title") continue;
    const style = getComputedStyle(element);
    const colour = channels(element.ownerSVGElement ? style.fill : style.color), below = ground(element);
    const [light, dark] = [luminance(colour), luminance(below)].sort((a, b) => b - a);
    texts.push([node.data.trim().slice(0, 30), (light + 0.05) / (dark + 0.05)]);
  }
  const wide = [...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, svg"))
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80));
  const letters = [...document.querySelectorAll("figure svg text")]
    .map((e) => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getBoundingClientRect().width
      / e.ownerSVGElement.viewBox.baseVal.width);
  const counts = [...document.querySelectorAll(".matrix td")].filter((e) => e.innerText);
  letters.push(...counts.map((e) => parseFloat(getComputedStyle(e).fontSize)));
  return {
    inner: innerWidth, scrolled: document.documentElement.scrollWidth, wide, letters: Math.min(...letters),
    hidden: [...document.querySelectorAll(".scroll:has(.reflows)")].filter((e) => e.scrollWidth > e.clientWidth).length,
    cut: counts.filter((e) => e.scrollWidth > e.offsetWidth || e.getBoundingClientRect().right > innerWidth).length,
    narrow: [...document.querySelectorAll(".track")]
      .filter((e) => e.getBoundingClientRect().width < innerWidth / 2).length,
    broken: [...document.images].filter((i) => !i.complete || !i.naturalWidth).length, images: document.images.length,
    fetched: performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith("data:")),
    texts: texts.length, faint: texts.filter(([, ratio]) => ratio < 4.5),
    background: getComputedStyle(document.body).backgroundColor,
  };
})()"""


class Tab:
    """A tab of a browser, told what to do in its DevTools protocol."""

    def __init__(self, sending, receiving):
        self.sending, self.receiving, self.number, self.session = sending, receiving, 0, None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self("Page.enable")

    def __call__(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.sending.write(json.dumps(message).encode() + b"\0")
        self.sending.flush()
        while (answer := self.read()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def read(self):
        content = bytearray()
        while (byte := self.receiving.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        return json.loads(content)

    def show(self, path):
        self("Page.navigate", url=path.as_uri())
        while self.read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script):
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"]["value"]


@contextmanager
def browser(profile):
    """A tab of a browser of its own, which reads commands from descriptor 3 and answers on 4."""
    (theirs, ours), (mine, hers) = os.pipe(), os.pipe()
    command = ["bash", "-c", f'exec "$0" "$@" 3<&{theirs} 4>&{hers}', BROWSER, *QUIET, "--remote-debugging-pipe"]
    started = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(theirs, hers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.close(hers)
    with open(ours, "wb") as sending, open(mine, "rb") as receiving:
        tab = Tab(sending, receiving)
        yield tab
        tab.session = None
        tab("Browser.close")
    started.wait(30)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with browser(tmp_path_factory.mktemp("profile")) as shown:
        yield shown


@pytest.fixture(scope="module")
def pages(digits, tmp_path_factory):
    """Pages of runs on images and on a table, of a profile, and of a comparison."""
    folder = tmp_path_factory.mktemp("pages")

    def train(name, *options):
        ended = command(
            *options, "--report", folder / f"{name}.html", "--metrics", folder / f"{name}.jsonl", timeout=300
        )
        assert (ended.status, ended.err) == (0, "")

    real = os.environ.get("DISTNET_DATA")
    data = ("--data-dir", real) if real else ("--data-dir", digits)
    train("images", *data, "--epochs", 12)
    held = 5000 if real else 100
    train("validation", *data, "--validation", held, "--epochs", 12, "--optimizer", "adam", "--learning-rate", 0.002)
    draw = np.random.default_rng(5)
    names = ["Iris setosa", "versicolor of the meadow", "virginica & <others>"]
    rows = [[*(draw.normal(size=4) + k % 3).round(2), names[k % 3]] for k in range(300)]
    with (folder / "flowers.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    train("table", "--dataset", f"csv:{folder / 'flowers.csv'}", "--epochs", 30, "--hidden", 8)
    letters = [[*(draw.normal(size=8) + k % 40), f"class {k % 40}"] for k in range(2000)]
    with (folder / "many.csv").open("w", newline="") as file:
        csv.writer(file).writerows(letters)
    train("many", "--dataset", f"csv:{folder / 'many.csv'}", "--epochs", 30, "--hidden", 20)
    X = draw.normal(size=(400, 3))
    numbers = np.column_stack([X, X[:, 0] * 1e5 - 2e5 + draw.normal(size=400) * 2e4, X[:, 1] / 1e4, *(X.T > 0.3)])
    with (folder / "targets.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "price in euros", "share", "cat", "dog", "eel"], *numbers.tolist()])
    other = ("--dataset", f"csv:{folder / 'targets.csv'}", "--epochs", 30, "--hidden", 8)
    train("regression", *other, "--target", "price in euros", "share", "--ignore", "cat", "dog", "eel")
    train("labels", *other, "--target", "cat", "dog", "eel", "--ignore", "price in euros", "share")
    phases = [
        {"rank": k, "node": k // 4, "host": f"node-{k // 4}.cluster", "steps": 7035}
        | {"seconds": dict(zip(PHASES, spent, strict=True))}
        for k, spent in enumerate(np.abs(draw.normal(1, 0.4, (8, 8))).tolist())
    ]
    (folder / "profile.html").write_text(
        render_document("A profile", [render_section("Time per step", render_step_time(phases))])
    )
    header = [
        "distnet 0.2.0: 1 rank on 1 node, 1 BLAS thread per rank; MPI: none",
        "data: mnist (data), 60,000 training and 10,000 test samples",
        "network: 784-256-128-10 relu, native float32, 235,146 parameters",
        "training: 17 epochs, mini-batches of 128, sgd, learning rate 0.3 exponential, seed 0",
    ]
    note = "note: the bits depend on the number of ranks, 32 here; with --shards S, they are the same on up to S ranks"
    measured = []
    for ranks, seconds in ((1, 92.5), (2, 47.1), (4, 26.2), (8, 15.9), (16, 11.3), (32, 10.8)):
        spent = [3, 30, 42, 0.4 * ranks**0.8, 0.9 * ranks**0.8 - 0.9, 14, 6, 0]
        times = [
            {"rank": k, "node": 0, "host": "a", "steps": 7973}
            | {
                "seconds": dict(zip(PHASES, [each * seconds / sum(spent) for each in spent], strict=True))
                | {"callbacks": 0.01}
            }
            for k in range(ranks)
        ]
        measured.append(Measurement(ranks, header, seconds, 1_020_000, seconds * 1.05 + 2, times, f"{ranks:064x}"))
    (folder / "speedup.html").write_text(render_speedup(measured, ["--arithmetic", "native", "--epochs", "17"], [note]))
    runs = [folder / f"{name}.jsonl" for name in ("images", "validation")]
    ended = command(*runs, "--output", folder / "compare.html", module="distnet.compare")
    assert (ended.status, ended.err) == (0, "")
    return folder


@pytest.mark.parametrize(
    ("width", "medium"), [*((width, medium) for width in WIDTHS for medium in ("light", "dark")), (PAPER, "print")]
)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_can_be_read(tab, pages, page, width, medium):
    scheme = {"name": "prefers-color-scheme", "value": "light" if medium == "light" else "dark"}
    tab("Emulation.setEmulatedMedia", media="print" if medium == "print" else "screen", features=[scheme])
    tab("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    tab.show(pages / f"{page}.html")
    seen = tab.evaluate(LOOK)
    keep(f"{page}-{width}-{medium}.png", tab("Page.captureScreenshot", captureBeyondViewport=True)["data"])
    assert seen["inner"] == width
    assert seen["scrolled"] <= width
    assert seen["wide"] == []
    assert seen["texts"] > 20
    assert seen["faint"] == []
    assert seen["broken"] == 0
    assert seen["narrow"] == 0
    assert seen["cut"] == seen["hidden"] == 0
    assert seen["fetched"] == []
    assert (seen["images"] > 10) == (page in ("images", "validation"))
    assert seen["letters"] is None or seen["letters"] >= 8
    assert seen["background"] == ("rgb(18, 22, 27)" if medium == "dark" else "rgb(255, 255, 255)")


@pytest.mark.parametrize("page", ["images", "table", "compare"])
def test_a_page_prints_on_few_sheets_with_all_its_words(tab, pages, page, tmp_path):
    tab("Emulation.clearDeviceMetricsOverride")
    tab("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.show(pages / f"{page}.html")
    printed = tab("Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69)["data"]
    keep(f"{page}.pdf", printed)
    content = base64.b64decode(printed)
    assert content.startswith(b"%PDF-")
    assert 1 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 8


def keep(name, content):
    """What was seen, for people."""
    if folder := os.environ.get("DISTNET_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, name).write_bytes(base64.b64decode(content))
