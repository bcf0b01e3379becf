"""A headless Chromium, driven over its debugging pipe with the standard library alone.

`--remote-debugging-pipe` speaks the DevTools protocol as NUL-terminated JSON on file
descriptors 3 (to the browser) and 4 (from it): no port, no websocket, no driver.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)


def find_browser() -> str:
    """The browser's path; these tests never skip, so its absence is a failure."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    raise AssertionError(
        f"no browser: none of {', '.join(NAMES)} is installed; run: apt-get install chromium"
    )


READY = """location.protocol === 'file:' && document.readyState === 'complete' && (
  document.documentElement.dataset.done || !document.querySelector('.plot')
  || (window.homotopy && window.homotopy.errors.length > 0))"""


class Browser:
    """One Chromium process."""

    def __init__(self, profile: str) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # Descriptors 3 and 4 are Chromium's; a shell moves ours there.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        argv = [find_browser(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", *argv],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        wanted = self._id
        deadline = time.monotonic() + 60
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == wanted:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer.get("result", {})
            self.events.append(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._read], [], [], max(0.0, left))
            if not ready:
                raise AssertionError("the browser did not answer within 60 s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise AssertionError(f"the browser ended with {self.process.poll()}")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Page:
    """One tab showing a local file."""

    def __init__(
        self,
        browser: Browser,
        path: Path,
        *,
        width: int = 1440,
        height: int = 1000,
        dark: bool = False,
        scripts: bool = True,
        mobile: bool = False,
        media: str = "",
        before: str = "",
    ) -> None:
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self.target, self.session = target, attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        if mobile:
            self.send("Emulation.setTouchEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        if not scripts:
            self.send("Emulation.setScriptExecutionDisabled", value=True)
        if before:
            self.send("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.send("Page.navigate", url=path.resolve().as_uri())
        self._await_load()
        if scripts:
            self.wait_for(READY)

    def _await_load(self) -> None:
        deadline = time.monotonic() + 45
        while not any(event["method"] == "Page.loadEventFired" for event in self._mine()):
            assert time.monotonic() < deadline, "the page did not load within 45 s"
            self.browser.call("Browser.getVersion")  # an answer brings the events before it
            time.sleep(0.05)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript, awaiting a promise; returns the JSON value."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 45) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if value := self.run(expression):
                    return value
            except AssertionError as error:
                if "navigated" not in str(error):  # a page that reloads itself: ask the new one
                    raise
            time.sleep(0.05)
        raise AssertionError(f"never became true: {expression}")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, x0: float, x1: float, y: float) -> None:
        self.mouse("mouseMoved", x0, y)
        self.mouse("mousePressed", x0, y, button="left", buttons=1, clickCount=1)
        for i in range(1, 6):
            self.mouse("mouseMoved", x0 + (x1 - x0) * i / 5, y, button="left", buttons=1)
        self.mouse("mouseReleased", x1, y, button="left", clickCount=1)

    def box(self, selector: str) -> dict[str, float]:
        """An element's box after it was scrolled into view."""
        return self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect();"
            "return {x: b.x, y: b.y, width: b.width, height: b.height}; })()"
        )

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(shot["data"]))

    def faults(self) -> list[str]:
        """Console errors, exceptions and policy violations until now."""
        self.run("1")  # events that are under way arrive before this answer
        found = []
        for event in self._mine():
            kind, params = event["method"], event["params"]
            if kind == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(str(params["args"]))
            elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """URLs that were asked for, the file itself and in-memory ones left out."""
        urls = [
            event["params"]["request"]["url"]
            for event in self._mine()
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("file:", "blob:", "data:"))]

    def file_requests(self) -> list[str]:
        """Local files that were loaded."""
        return [
            event["params"]["request"]["url"]
            for event in self._mine()
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["request"]["url"].startswith("file:")
        ]

    def _mine(self) -> Iterator[dict[str, Any]]:
        return (
            event
            for event in self.browser.events
            if event.get("sessionId") == self.session and "method" in event
        )

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)


@contextmanager
def running_browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            yield browser
        finally:
            browser.close()
