"""The report in a real browser: nothing is fetched, nothing fails, nothing sticks out at 360 pixels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dspex.distill.report import facts, write_page
from report_tools import HOSTILE, NOW, open_home, served_home

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium to open the page in")

# A page of the same origin that holds the report in a frame of a given width, and says what it finds there.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body style="margin:0">
<iframe id="frame" style="border:0;height:900px"></iframe><pre id="found"></pre><script>
const [name, width] = location.search.slice(1).split(",");
const frame = document.getElementById("frame");
frame.style.width = width + "px";
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const sticking = [...page.body.querySelectorAll("*")].filter((each) =>
    !each.closest(".scroll, svg, .skip") && each.getBoundingClientRect().right > root.clientWidth + 1);
  const table = page.querySelector("table[data-sortable]");
  const first = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
  const sorted = [];
  if (table) {
    const head = table.tHead.rows[0].cells[1];
    for (const way of ["ascending", "descending"]) {
      head.querySelector("button").click();
      sorted.push([head.getAttribute("aria-sort") === way, first()]);
    }
  }
  const search = page.querySelector("input[type=search]");
  if (search) { search.value = "CLASS_7"; search.dispatchEvent(new Event("input")); }
  document.getElementById("found").textContent = JSON.stringify({
    width: root.clientWidth, scroll: root.scrollWidth, title: page.title, sorted,
    sticking: sticking.map((each) => each.outerHTML.slice(0, 80)),
    shown: table ? [...table.tBodies[0].rows].filter((row) => !row.hidden).length : 0,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map((each) => each.name),
  });
};
frame.src = name;
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        self.server.paths.append(self.path)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder of pages behind a local server that remembers what it was asked for."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "harness.html").write_text(HARNESS, encoding="utf-8")
    homes = tmp_path_factory.mktemp("homes")
    for name, options in {"plain": {"classes": 20}, "hostile": {"text": HOSTILE, "reason": HOSTILE}}.items():
        with served_home(homes / name, **options) as store:
            write_page(folder / f"{name}.html", facts(store, now=NOW))
    with open_home(homes / "empty") as store:
        write_page(folder / "empty.html", facts(store, now=NOW))
    broken = (folder / "plain.html").read_text(encoding="utf-8")
    broken = broken.replace("</main>", '<hr width="900"><img src="/x.png"></main>')
    (folder / "broken.html").write_text(broken, encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        server.daemon_threads = True
        server.paths = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def look(server, tmp_path, name, width, dark=False):
    """What the harness found, and what the browser's console said."""
    server.paths.clear()
    address = f"http://127.0.0.1:{server.server_address[1]}/harness.html?{name}.html,{width}"
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        "--window-size=1500,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=10000",
        "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, errors="replace")
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    assert found[1], done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(found[1])), console, list(server.paths)


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("name", ["plain", "hostile", "empty"])
def test_nothing_fails_is_fetched_or_sticks_out(served, tmp_path, name, width):
    found, console, paths = look(served, tmp_path, name, width, dark=width == 360)
    assert console == []
    assert found["requests"] == []
    assert paths == [f"/harness.html?{name}.html,{width}", f"/{name}.html"]
    assert found["width"] in range(width - 20, width + 1)
    assert found["scroll"] <= found["width"]
    assert found["sticking"] == []
    assert found["title"].startswith("dspex: text -> label")


def test_the_table_of_classes_sorts_and_is_searched(served, tmp_path):
    found, _, _ = look(served, tmp_path, "plain", 1440)
    (up, rising), (down, falling) = found["sorted"]
    assert up
    assert down
    assert rising == sorted(rising, key=int)
    assert falling == rising[::-1]
    assert found["shown"] == 1


def test_the_browser_would_say_so(served, tmp_path):
    """A page that does fetch and does stick out is noticed: the checks above see what they should."""
    found, console, _ = look(served, tmp_path, "broken", 360)
    assert found["sticking"]
    assert any("Content Security Policy" in line for line in console)
