# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium, driven through ChromeDriver's own protocol.

Holds no tests. Needs Debian's packages chromium and chromium-driver.
"""

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time


CONTROL = u"\ue009"
ENTER = u"\ue007"
TAB = u"\ue004"

_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
          "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync",
          "--force-device-scale-factor=1"]


def is_there():
  return bool(shutil.which("chromium") and shutil.which("chromedriver"))


class Browser(object):
  """One window."""

  def __init__(self, port, options):
    self._port = port
    self._session = ""
    made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {
        "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
        "goog:chromeOptions": options}}})
    self._session = "/session/" + made["sessionId"]

  def _call(self, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", self._port,
                                            timeout=60)
    try:
      connection.request(
          method, self._session + path,
          json.dumps(body) if method == "POST" else None)
      value = json.loads(connection.getresponse().read().decode("utf-8"))[
          "value"]
    finally:
      connection.close()
    if isinstance(value, dict) and "error" in value:
      raise RuntimeError("%s: %s" % (value["error"], value["message"]))
    return value

  def open(self, url):
    self._call("POST", "/url", {"url": url})

  def run(self, script, *arguments):
    """What a script returns; it is a function's body."""
    return self._call("POST", "/execute/sync",
                      {"script": script, "args": list(arguments)})

  def type(self, keys):
    """Types into what has the focus."""
    actions = []
    held = []
    for key in keys:
      actions.append({"type": "keyDown", "value": key})
      if key == CONTROL:
        held.append(key)
      else:
        actions.append({"type": "keyUp", "value": key})
    actions += [{"type": "keyUp", "value": key} for key in held]
    self._call("POST", "/actions", {"actions": [
        {"type": "key", "id": "keyboard", "actions": actions}]})

  def wait(self, condition, seconds=20):
    """Waits until a JavaScript expression is true; returns its value."""
    end = time.time() + seconds
    while True:
      value = self.run("return " + condition)
      if value:
        return value
      if time.time() > end:
        raise RuntimeError("never true: " + condition)
      time.sleep(0.05)

  def command(self, name, **parameters):
    """Of the DevTools protocol."""
    return self._call("POST", "/goog/cdp/execute",
                      {"cmd": name, "params": parameters})

  def log(self):
    """Lines of the console since the last call: list of str."""
    return [entry["message"] for entry in self._call(
        "POST", "/se/log", {"type": "browser"})]

  def screenshot(self, path):
    """Writes the whole page as PNG."""
    size = self.command("Page.getLayoutMetrics")["cssContentSize"]
    made = self.command(
        "Page.captureScreenshot", captureBeyondViewport=True,
        clip={"x": 0, "y": 0, "width": size["width"],
              "height": size["height"], "scale": 1})
    with open(str(path), "wb") as writer:
      writer.write(base64.b64decode(made["data"]))

  def close(self):
    self._call("DELETE", "")


@contextlib.contextmanager
def start(language="en-US", width=900, height=700):
  """A `Browser` until the block ends."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  driver = subprocess.Popen(
      ["chromedriver", "--port=%d" % port], stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL)
  profile = tempfile.mkdtemp()
  try:
    end = time.time() + 20
    while True:
      try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        break
      except OSError:
        if time.time() > end:
          raise
        time.sleep(0.05)
    browser = Browser(port, {
        "binary": shutil.which("chromium"),
        "args": _FLAGS + ["--user-data-dir=" + profile,
                          "--window-size=%d,%d" % (width, height),
                          "--accept-lang=" + language],
        "prefs": {"intl.accept_languages": language}})
    try:
      yield browser
    finally:
      browser.close()
  finally:
    driver.terminate()
    driver.wait(10)
    shutil.rmtree(profile, ignore_errors=True)
