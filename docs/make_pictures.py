# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of the README: the report of the demo, and the page.

  python docs/make_pictures.py --model_dir=demo_work/output

needs Chromium and ChromeDriver on PATH, and what serve_http.py needs. Only the
two pictures are written; pngquant makes them smaller where it is installed.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(ROOT, "tests"))

import web_driver  # noqa: E402  pylint: disable=wrong-import-position

TEXT = ("It dumps LSASS memory to steal password hashes and then moves to file "
        "servers over SMB.")

# What a Chromium without a user needs, and what keeps it off the network.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         "--virtual-time-budget=8000"]


def take(address, path, width, height):
  """Writes a screenshot of a page as a PNG file."""
  with tempfile.TemporaryDirectory() as profile:
    subprocess.check_call(
        ["chromium"] + FLAGS + [
            "--user-data-dir=" + profile, "--screenshot=" + path,
            "--window-size=%d,%d" % (width, height), address],
        stderr=subprocess.DEVNULL)
  shrink(path)


def shrink(path):
  """Makes a PNG file smaller, with 256 colors, and says how large it is."""
  if shutil.which("pngquant"):
    subprocess.check_call(["pngquant", "--force", "--ext=.png", "256", path])
  print("%s: %d bytes" % (path, os.path.getsize(path)))


def free_port():
  with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    return one.getsockname()[1]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model_dir", required=True)
  options = parser.parse_args()
  docs = os.path.join(ROOT, "docs")
  report = os.path.abspath(os.path.join(options.model_dir, "report.html"))
  take("file://" + report, os.path.join(docs, "report.png"), 985, 1490)
  port = free_port()
  server = subprocess.Popen(
      [sys.executable, os.path.join(ROOT, "serve_http.py"),
       "--model_dir=" + options.model_dir, "--port=%d" % port], cwd=ROOT)
  try:
    address = "http://127.0.0.1:%d/" % port
    for _ in range(120):
      try:
        urllib.request.urlopen(address).close()
        break
      except OSError:
        time.sleep(0.5)
    path = os.path.join(docs, "page.png")
    with web_driver.start(width=1000, height=840) as browser:
      browser.open(address)
      browser.run("document.getElementById('text').value = arguments[0]",
                  TEXT)
      browser.run("document.getElementById('submit').click()")
      time.sleep(3)
      browser.screenshot(path)
    shrink(path)
  finally:
    server.send_signal(signal.SIGTERM)
    server.wait()


if __name__ == "__main__":
  main()
