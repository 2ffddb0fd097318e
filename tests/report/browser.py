"""A page in headless Chromium, over its debugging protocol."""

import asyncio
import base64
import importlib.util
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = importlib.util.find_spec("axe_core_python")  # carries the script axe-core; no Python of it runs
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page. widths: of the page and of its window; messages: errors and warnings; violations:
    what axe finds to hinder people, None where axe is not installed.
    """

    png: bytes
    scroll_width: int
    inner_width: int
    background: str
    requests: list[str]
    messages: list[str]
    violations: list[str] | None


def look(page: Path, width: int, scheme: Literal["light", "dark"]) -> Seen:
    """Open a file in a window of this width."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
        )
        try:
            return asyncio.run(asyncio.wait_for(_look(Path(profile), page.resolve().as_uri(), width, scheme), 90))
        finally:
            process.kill()
            process.wait()


async def _look(profile: Path, url: str, width: int, scheme: str) -> Seen:
    while not (told := profile / "DevToolsActivePort").exists() or len(told.read_text().splitlines()) < 2:
        await asyncio.sleep(0.1)
    port = told.read_text().splitlines()[0]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(one for one in await answer.json() if one["type"] == "page")
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Network", "Log", "Runtime"):
                await tab.call(f"{domain}.enable")
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            await tab.call("Emulation.setEmulatedMedia", features=media)
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            await tab.call("Emulation.setDeviceMetricsOverride", **size)
            await tab.call("Page.navigate", url=url)
            await tab.until("Page.loadEventFired")
            widths = [await tab.value(f"document.documentElement.{name}") for name in ("scrollWidth", "clientWidth")]
            background = await tab.value("getComputedStyle(document.body).backgroundColor")
            shot = await tab.call("Page.captureScreenshot", captureBeyondViewport=True)
            requests = [one["request"]["url"] for one in tab.told("Network.requestWillBeSent")]
            messages = [one["entry"]["text"] for one in tab.told("Log.entryAdded")]
            messages += [str(one["args"]) for one in tab.told("Runtime.consoleAPICalled")]
            violations = await _violations(tab) if AXE else None
    return Seen(base64.b64decode(shot["data"]), *widths, background, requests, messages, violations)


async def _violations(tab: "Tab") -> list[str]:
    """Every rule of axe that the page breaks, with the elements."""
    assert AXE is not None
    assert AXE.submodule_search_locations is not None
    script = Path(AXE.submodule_search_locations[0]) / "axe.min.js"
    await tab.call("Runtime.evaluate", expression=script.read_text())
    found = await tab.value("axe.run().then(found => JSON.stringify(found.violations))", awaitPromise=True)
    return [
        f"{broken['id']}: {broken['help']}: {[node['html'][:200] for node in broken['nodes'][:5]]}"
        for broken in json.loads(found)
    ]


class Tab:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket, self._calls, self._events = socket, 0, []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while (answer := await self._socket.receive_json()).get("id") != self._calls:
            self._events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    async def value(self, expression: str, **options: Any) -> Any:
        return (await self.call("Runtime.evaluate", expression=expression, **options))["result"]["value"]

    async def until(self, event: str) -> None:
        while not self.told(event):
            self._events.append(await self._socket.receive_json())

    def told(self, event: str) -> list[dict[str, Any]]:
        return [one["params"] for one in self._events if one["method"] == event]
