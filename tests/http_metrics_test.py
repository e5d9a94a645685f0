# SPDX-License-Identifier: Apache-2.0
"""What the server says of itself: counts, the OpenAPI description, the page."""

import base64
import hashlib
import json
import re

import pytest


pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

# pylint: disable=g-import-not-at-top
import fake_server

from multilabel.serving import http_metrics
from multilabel.serving import http_requests
from multilabel.serving import openapi
from multilabel.serving import page


@pytest.fixture(scope="module")
def server():
  with fake_server.start() as running:
    yield running


# Counts.


def test_metrics_name_the_route_not_the_path(server):
  before = server.metric("http_requests_total",
                         path="/v1/models/{model}:predict", code="404")
  server.call("POST", "/v1/models/some%22thing%0a:predict", b"{}")
  server.call("GET", '/other"{}\\%0a')
  text = server.call("GET", "/metrics")[2].decode("utf-8")
  assert "thing" not in text
  assert server.metric("http_requests_total",
                       path="/v1/models/{model}:predict",
                       code="404") == before + 1
  assert server.metric("http_requests_total", path="other", code="404") >= 1
  assert server.metric("http_errors_total", path="other",
                       kind="bad_request") >= 1


def test_metrics_count_texts_and_batches(server):
  names = ("texts_total", "batch_texts_sum", "batch_texts_count")
  before = [server.metric(name) for name in names]
  server.call("POST", "/v1/label", {"texts": ["a", "b", "c"]})
  assert [server.metric(name) - b for name, b in zip(names, before)] == [
      3, 3, 1]
  assert server.metric("queue_texts") == 0
  assert server.metric("connections") >= 1
  assert server.metric("resident_memory_bytes") > 1e7
  assert server.metric("model_info", name="multilabel", version="7") == 1


def test_metrics_have_the_text_format(server):
  status, headers, body = server.call("GET", "/metrics")
  assert status == 200
  assert headers["content-type"] == (
      "text/plain; version=0.0.4; charset=utf-8")
  families = []
  line_form = re.compile(
      r'[a-z_]+(\{[a-z]+="(\\[\\n"]|[^"\\\n])*"'
      r'(,[a-z]+="(\\[\\n"]|[^"\\\n])*")*\})? [0-9.e+-]+')
  for line in body.decode("utf-8").rstrip("\n").split("\n"):
    if line.startswith("# TYPE "):
      families.append(line.split(" ")[2])
    elif not line.startswith("# HELP "):
      assert line_form.fullmatch(line), line
      assert line.startswith(families[-1])
  assert len(families) == len(set(families)) > 5


def test_exposition_adds_processes_up_and_escapes():
  parts = []
  for times in (2, 3):
    metrics = http_metrics.Metrics()
    for _ in range(times):
      metrics.count("http_requests_total", (("path", 'a"\\\nb'),
                                            ("code", "200")))
      metrics.observe("http_request_seconds", 0.003, (("path", "/x"),))
    parts.append(json.loads(json.dumps(metrics.snapshot(
        {"queue_texts": times, "model_info": ([["name", "m"]], 1)},
        {"1": 2, "8": 1}))))
  lines = http_metrics.exposition(parts).decode("utf-8").split("\n")
  for line in (
      'multilabel_http_requests_total{path="a\\"\\\\\\nb",code="200"} 5',
      'multilabel_http_request_seconds_bucket{path="/x",le="0.0025"} 0',
      'multilabel_http_request_seconds_bucket{path="/x",le="0.005"} 5',
      'multilabel_http_request_seconds_bucket{path="/x",le="+Inf"} 5',
      'multilabel_http_request_seconds_count{path="/x"} 5',
      'multilabel_batch_texts_bucket{le="1"} 4',
      'multilabel_batch_texts_bucket{le="8"} 6',
      "multilabel_batch_texts_sum 20", "multilabel_batch_texts_count 6",
      "multilabel_queue_texts 5", 'multilabel_model_info{name="m"} 1'):
    assert line in lines


# The description.


def test_openapi_describes_every_path(server):
  status, _, answer = server.call("GET", "/openapi.json")
  assert status == 200
  assert answer["openapi"] == "3.1.0"
  for path, operations in answer["paths"].items():
    for method in operations:
      given = server.call(method.upper(), path)[0]
      # Without a body a POST is refused, by the path it asks for.
      assert given == (400 if method == "post" else 200), path
  assert sorted(answer["paths"])[:5] == [
      "/", "/healthz", "/metrics", "/openapi.json", "/readyz"]


def test_openapi_has_the_limits():
  limits = http_requests.Limits(100, 2, 24, 2, 8, 1000)
  described = openapi.describe("m", "3", ["x"], limits, True)
  label = described["paths"]["/v1/label"]["post"]["requestBody"]["content"][
      "application/json"]["schema"]
  assert label["properties"]["texts"]["maxItems"] == 8
  assert label["properties"]["texts"]["items"]["anyOf"][0] == {
      "type": "string", "maxLength": 1000}
  forms = described["paths"]["/v1/models/m:predict"]["post"]["requestBody"][
      "content"]["application/json"]["schema"]["anyOf"]
  ids = forms[0]["properties"]["instances"]["anyOf"][0]["items"][
      "properties"]["input_ids"]
  assert ids == {"type": "array", "minItems": 1, "maxItems": 24, "items": {
      "type": "integer", "minimum": 0, "maximum": 99}}
  assert described["security"] == [{"bearer": []}, {"header": []}]
  assert described["paths"]["/healthz"]["get"]["security"] == []


# The page.


def test_the_page_may_run_its_own_script_and_no_other(server):
  status, headers, body = server.call("GET", "/")
  assert status == 200
  assert headers["content-type"] == "text/html; charset=utf-8"
  policy = dict(part.split(" ", 1) for part in headers[
      "content-security-policy"].split("; "))
  assert policy["default-src"] == "'none'"
  assert policy["connect-src"] == "'self'"
  for name, tag in (("script-src", "script"), ("style-src", "style")):
    found = re.findall("<%s>(.*?)</%s>" % (tag, tag), body.decode("utf-8"),
                       re.S)
    assert len(found) == 1
    digest = base64.b64encode(hashlib.sha256(
        found[0].encode("utf-8")).digest()).decode()
    assert policy[name] == "'sha256-%s'" % digest


def test_the_page_needs_nothing_else():
  html = page.Page().html.decode("utf-8")
  assert not re.findall(r"(?:src|href)=\"(?!data:,)", html)
  assert "http:" not in html and "https:" not in html
  for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(",
                    "document.write", "onclick="):
    assert dangerous not in html


def test_the_page_says_the_same_in_both_languages():
  script = page.Page().html.decode("utf-8")
  tables = re.search(r"const TEXTS = \{\n  en: \{(.*?)\n  \},\n  zh: \{(.*?)\n"
                     r"  \},\n\};", script, re.S).groups()
  keys = [set(re.findall(r"(\w+):", re.sub(r'"[^"]*"', '""', table)))
          for table in tables]
  assert keys[0] == keys[1]
  used = set(re.findall(r'data-text="(\w+)"', script)) | set(
      re.findall(r"say\(\)\.(\w+)", script))
  assert used - {"dataset"} <= keys[0]
