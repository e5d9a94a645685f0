# SPDX-License-Identifier: Apache-2.0
"""What the server says of itself: counts, the OpenAPI description, the page."""

import base64
import hashlib
import re

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server

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
  assert server.metric("resident_memory_bytes") > 1e7
  assert server.metric("model_info", name="multilabel", version="7") == 1


def test_metrics_have_the_text_format(server):
  """As prometheus_client's own parser reads it."""
  from prometheus_client import parser
  server.call("GET", "/healthz")
  status, headers, body = server.call("GET", "/metrics")
  assert status == 200
  assert headers["content-type"].startswith("text/plain; version=")
  families = {family.name: family for family in
              parser.text_string_to_metric_families(body.decode("utf-8"))}
  assert {name: family.type for name, family in families.items()} == {
      "multilabel_http_requests": "counter",
      "multilabel_http_errors": "counter",
      "multilabel_http_request_seconds": "histogram",
      "multilabel_texts": "counter",
      "multilabel_batch_texts": "histogram",
      "multilabel_queue_texts": "gauge",
      "multilabel_resident_memory_bytes": "gauge",
      "multilabel_workers": "gauge",
      "multilabel_model_info": "gauge"}
  asked = [sample for sample in
           families["multilabel_http_request_seconds"].samples
           if sample.labels.get("path") == "/healthz"]
  total, = [sample.value for sample in asked if sample.name.endswith("_count")]
  assert total == server.metric("http_requests_total", path="/healthz",
                                code="200") >= 1
  assert [sample.value for sample in asked
          if sample.labels.get("le") == "+Inf"] == [total]


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


def resolve(described, schema):
  """A schema, with what it refers to in its place."""
  while "$ref" in schema:
    name = schema["$ref"]
    assert name.startswith("#/components/schemas/")
    schema = described["components"]["schemas"][name.rpartition("/")[2]]
  return schema


def test_openapi_has_the_limits():
  limits = http_requests.Limits(100, 2, 24, 2, 8, 1000)
  described = openapi.describe("m", "3", http_requests.Requests(limits), True)

  def body(path):
    return resolve(described, described["paths"][path]["post"]["requestBody"][
        "content"]["application/json"]["schema"])
  label = body("/v1/label")
  assert label["properties"]["texts"]["maxItems"] == 8
  assert label["properties"]["texts"]["items"]["anyOf"][0] == {
      "type": "string", "maxLength": 1000}
  assert label["additionalProperties"] is False
  forms = [resolve(described, form) for form in body(
      "/v1/models/m:predict")["anyOf"]]
  assert [form["properties"]["signature_name"]["enum"] for form in forms] == [
      ["serving_default"], ["ids_only"], ["predict_labels"], ["text"]]
  row = resolve(described, forms[0]["properties"]["instances"]["items"])
  assert row["properties"]["input_ids"] == {
      "type": "array", "minItems": 1, "maxItems": 24, "items": {
          "type": "integer", "minimum": 0, "maximum": 99}}
  assert described["security"] == [{"bearer": []}, {"header": []}]
  assert described["paths"]["/healthz"]["get"]["security"] == []


def test_answers_have_the_form_that_is_described(server):
  described = server.call("GET", "/openapi.json")[2]
  for path, body in (("/v1/label", {"text": "a b"}),
                     ("/v1/explain", {"text": "a b"})):
    schema = resolve(described, described["paths"][path]["post"]["responses"][
        "200"]["content"]["application/json"]["schema"])
    answer = server.call("POST", path, body)[2]
    assert sorted(answer) == sorted(schema["properties"])
    assert sorted(answer) == sorted(schema["required"])


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
