# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: keys, languages, colours, nothing injected.

Screenshots go to the folder of $PAGE_SCREENSHOTS if it is set.
"""

import json
import os
import shlex
import subprocess

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server
import web_driver


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not web_driver.is_there(),
                       reason="needs chromium and chromium-driver")]

KEY = "k" * 20
EVIL = (u"It's <img src=x onerror=\"document.title='!'\"> "
        u"</script><script>document.title='!'</script> \u4f60\u597d \U0001f600")


@pytest.fixture(scope="module")
def server():
  with fake_server.start() as running:
    yield running


def open_page(browser, server, dark=False):
  browser.command("Emulation.setEmulatedMedia", features=[
      {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
  browser.open("http://127.0.0.1:%d/" % server.port)


def text_of(browser, name):
  return browser.run("return document.getElementById(arguments[0]).textContent",
                     name)


def keep(browser, name):
  folder = os.environ.get("PAGE_SCREENSHOTS")
  if folder:
    browser.screenshot(os.path.join(folder, name + ".png"))


def label_by_keyboard(browser, text):
  browser.wait("document.getElementById('text').value === 'an example'")
  browser.run("document.getElementById('text').select()")
  browser.type(text)
  browser.type(web_driver.CONTROL + web_driver.ENTER)
  browser.wait("document.querySelector('#words span') !== null")


def test_with_the_keyboard_alone(server):
  with web_driver.start() as browser:
    open_page(browser, server)
    assert browser.run("return document.activeElement.id") == "text"
    label_by_keyboard(browser, EVIL)
    answer = server.call("POST", "/v1/label", {"texts": [EVIL]})[2]
    ranked = sorted(answer["results"][0]["probabilities"].items(),
                    key=lambda item: -item[1])
    # The bars: order, lengths and thresholds are those of the answer.
    rows = browser.run("""
        return Array.from(document.querySelectorAll(".label")).map(row => [
            row.dataset.label, row.querySelector(".fill").style.width,
            row.querySelector(".mark").style.left,
            row.getAttribute("aria-pressed"), row.getAttribute("aria-label")])
    """)
    assert [row[0] for row in rows] == [label for label, _ in ranked]
    for row, (label, probability) in zip(rows, ranked):
      assert abs(float(row[1].rstrip("%")) - 100 * probability) < 0.01
      assert float(row[2].rstrip("%")) == 100 * answer["thresholds"][label]
      assert "threshold" in row[4]
    assert [row[3] for row in rows] == ["true", "false", "false"]
    # Another label is chosen with Tab and Enter, and stays focused.
    for _ in range(3):
      browser.type(web_driver.TAB)
    assert browser.run(
        "return document.activeElement.dataset.label") == ranked[1][0]
    browser.type(web_driver.ENTER)
    browser.wait("document.querySelectorAll('.label')[1].getAttribute("
                 "'aria-pressed') === 'true'")
    assert browser.run(
        "return document.activeElement.dataset.label") == ranked[1][0]
    assert ranked[1][0] in text_of(browser, "words-title")
    keep(browser, "light_english")


def test_it_starts_with_the_model_its_labels_and_an_example(server):
  with web_driver.start() as browser:
    open_page(browser, server)
    browser.wait("!document.getElementById('about').hidden")
    assert text_of(browser, "title") == "multilabel"
    assert text_of(browser, "about") == "This model has 3 labels: %s." % (
        ", ".join(fake_server.LABELS))
    assert browser.run(
        "return document.getElementById('text').value") == "an example"
    browser.run("document.getElementById('submit').click()")
    browser.wait("document.querySelector('#words span') !== null")


def test_bars_on_a_phone(server):
  with web_driver.start() as browser:
    browser.command("Emulation.setDeviceMetricsOverride", width=360, height=740,
                    deviceScaleFactor=2, mobile=True)
    open_page(browser, server)
    label_by_keyboard(browser, u"abc")
    for width in browser.run("""
        return Array.from(document.querySelectorAll(".track")).map(
            track => track.getBoundingClientRect().width)"""):
      assert width > 200
    assert browser.run(
        "return document.documentElement.scrollWidth") <= 360
    keep(browser, "phone")


def test_nothing_of_a_text_is_run(server):
  with web_driver.start() as browser:
    open_page(browser, server)
    label_by_keyboard(browser, EVIL)
    assert text_of(browser, "words") == EVIL
    assert browser.run("return document.title") == "multilabel"
    assert browser.run(
        "return document.querySelectorAll('img, main script').length") == 0
    # Neither its policy nor its script has complained.
    assert browser.log() == []


def test_the_curl_line_does_the_same(server):
  with web_driver.start() as browser:
    open_page(browser, server)
    label_by_keyboard(browser, EVIL)
    line = text_of(browser, "curl")
  words = shlex.split(line)
  assert words[:2] == ["curl", "http://127.0.0.1:%d/v1/label" % server.port]
  assert json.loads(words[words.index("-d") + 1]) == {"text": EVIL}
  answer = subprocess.check_output(["sh", "-c", line],
                                   stderr=subprocess.DEVNULL)
  assert json.loads(answer.decode("utf-8")) == server.call(
      "POST", "/v1/label", {"texts": [EVIL]})[2]


def test_chinese_and_dark(server):
  with web_driver.start("zh-CN") as browser:
    open_page(browser, server, dark=True)
    assert browser.run("return document.documentElement.lang") == "zh"
    label_by_keyboard(browser, u"\u732b\u548c\u72d7 \U0001f600 ok")
    assert u"\u6807\u7b7e" in text_of(browser, "labels-title")
    background = browser.run(
        "return getComputedStyle(document.body).backgroundColor")
    assert max(map(int, background[4:-1].split(","))) < 60
    keep(browser, "dark_chinese")
    browser.run("document.getElementById('language').click()")
    assert browser.run("return document.documentElement.lang") == "en"
    assert text_of(browser, "labels-title") == "Labels"
    assert u"\u732b" in text_of(browser, "words")


def test_errors_are_said(server):
  with web_driver.start() as browser:
    open_page(browser, server)
    browser.run("document.getElementById('text').value = 'a'.repeat(2000)")
    browser.type(web_driver.CONTROL + web_driver.ENTER)
    browser.wait("document.getElementById('status').className === 'error'")
    assert text_of(browser, "status") == (
        "text: expected str of length <= 1000.")


def test_a_key_is_asked_for(tmp_path):
  path = tmp_path / "keys"
  path.write_text(KEY)
  with fake_server.start(key_file=str(path)) as closed, (
      web_driver.start()) as browser:
    open_page(browser, closed)
    browser.wait("!document.getElementById('key-row').hidden")
    assert browser.run("return document.activeElement.id") == "key"
    assert text_of(browser, "about") == ""  # nothing is told without a key
    browser.type(KEY + web_driver.ENTER)
    browser.wait("document.querySelector('#words span') !== null")
    assert KEY not in text_of(browser, "curl")
    assert "$API_KEY" in text_of(browser, "curl")
