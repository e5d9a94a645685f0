# SPDX-License-Identifier: Apache-2.0
"""What the server answers, over real sockets, with a model that is none."""

import functools
import json
import types

import numpy as np
import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server

from multilabel import decisions
from multilabel.inference import predictor
from multilabel.serving import http_answers
from multilabel.serving import http_app
from multilabel.serving import http_requests
import predict_session


PREDICT = "/v1/models/multilabel:predict"
CLASSIFY = "/v1/models/multilabel:classify"
ROW = {"input_ids": [2, 5, 3], "input_mask": [1, 1, 1],
       "segment_ids": [0, 0, 1]}


@pytest.fixture(scope="module")
def server():
  with fake_server.start() as running:
    yield running


def expected(text):
  """The model's probabilities of a text or a pair, list of float."""
  return fake_server.probabilities(*fake_server.encode(text))


def same(given, wanted):
  """Whether JSON's numbers are these float32 numbers, bit for bit."""
  return np.array_equal(np.array(given, np.float32), wanted)


# TensorFlow Serving's paths.


@pytest.mark.parametrize("path", [
    PREDICT, "/v1/models/multilabel/versions/7:predict"])
def test_predict_in_rows(server, path):
  status, headers, answer = server.call(
      "POST", path, {"instances": [ROW, dict(ROW, input_ids=[2, 9, 3])]})
  assert status == 200
  assert headers["content-type"] == "application/json"
  assert list(answer) == ["predictions"]
  assert same(answer["predictions"], [
      fake_server.probabilities([2, 5, 3], [0, 0, 1]),
      fake_server.probabilities([2, 9, 3], [0, 0, 1])])


def test_predict_in_columns(server):
  status, _, answer = server.call("POST", PREDICT, {
      "inputs": {name: [value] for name, value in ROW.items()}})
  assert status == 200
  assert list(answer) == ["outputs"]
  assert same(answer["outputs"],
              [fake_server.probabilities([2, 5, 3], [0, 0, 1])])


def test_padding_does_not_change_an_answer(server):
  long = server.call("POST", PREDICT, {"instances": [{
      "input_ids": [2, 5, 3, 0, 0], "input_mask": [1, 1, 1, 0, 0],
      "segment_ids": [0, 0, 1, 0, 0]}]})
  assert long[2] == server.call("POST", PREDICT, {"instances": [ROW]})[2]


def test_predict_labels(server):
  scores = fake_server.probabilities([2, 5, 3], [0, 0, 1])
  order = sorted(range(3), key=lambda i: -scores[i])
  status, _, answer = server.call("POST", PREDICT, {
      "signature_name": "predict_labels", "instances": [ROW]})
  assert status == 200
  row, = answer["predictions"]
  assert sorted(row) == ["above_threshold", "labels", "probabilities",
                         "scores"]
  assert same(row["probabilities"], scores)
  assert row["labels"] == [fake_server.LABELS[i] for i in order]
  assert same(row["scores"], scores[order])
  assert row["above_threshold"] == [
      bool(scores[i] >= np.float32(fake_server.THRESHOLDS[i])) for i in order]
  columns = server.call("POST", PREDICT, {
      "signature_name": "predict_labels",
      "inputs": {name: [value] for name, value in ROW.items()}})[2]
  assert columns == {"outputs": {name: [row[name]] for name in row}}


def test_text(server):
  status, _, answer = server.call("POST", PREDICT, {
      "signature_name": "text", "instances": ["abc", u"\u4f60\U0001f600"]})
  assert status == 200
  assert same([row["probabilities"] for row in answer["predictions"]],
              [expected("abc"), expected(u"\u4f60\U0001f600")])


def test_ids_only(server):
  status, _, answer = server.call("POST", PREDICT, {
      "signature_name": "ids_only", "inputs": [[2, 5, 3, 0]]})
  assert (status, list(answer)) == (200, ["outputs"])
  assert same(answer["outputs"], [fake_server.probabilities([2, 5, 3])])


def test_classify(server):
  status, _, answer = server.call("POST", CLASSIFY, {
      "signature_name": "classify",
      "examples": [{"input_ids": [2, 5, 3]}, {"input_ids": [2, 7, 7, 3]}]})
  assert status == 200
  assert list(answer) == ["results"]
  assert [[label for label, _ in row] for row in answer["results"]] == [
      fake_server.LABELS] * 2
  assert same([[score for _, score in row] for row in answer["results"]],
              [fake_server.probabilities([2, 5, 3]),
               fake_server.probabilities([2, 7, 7, 3])])


@pytest.mark.parametrize("path", [
    "/v1/models/multilabel", "/v1/models/multilabel/versions/7"])
def test_status(server, path):
  assert server.call("GET", path)[2] == {"model_version_status": [{
      "version": "7", "state": "AVAILABLE",
      "status": {"error_code": "OK", "error_message": ""}}]}


def test_metadata(server):
  answer = server.call("GET", "/v1/models/multilabel/metadata")[2]
  assert answer["model_spec"] == {
      "name": "multilabel", "signature_name": "", "version": "7"}
  signatures = answer["metadata"]["signature_def"]["signature_def"]
  assert sorted(signatures) == [
      "classify", "ids_only", "predict_labels", "serving_default", "text"]
  assert signatures["ids_only"] == {
      "inputs": {"input_ids": {
          "dtype": "DT_INT32",
          "tensor_shape": {"dim": [{"size": "-1", "name": ""},
                                   {"size": "-1", "name": ""}],
                           "unknown_rank": False},
          "name": "ids_only/input_ids:0"}},
      "outputs": {"probabilities": {
          "dtype": "DT_FLOAT",
          "tensor_shape": {"dim": [{"size": "-1", "name": ""},
                                   {"size": "3", "name": ""}],
                           "unknown_rank": False},
          "name": "ids_only/probabilities:0"}},
      "method_name": "tensorflow/serving/predict"}


# This server's own paths.


def test_labels(server):
  assert server.call("GET", "/v1/labels")[2] == {
      "model": "multilabel", "version": "7", "labels": fake_server.LABELS,
      "example": "an example"}


def test_label(server):
  status, _, answer = server.call("POST", "/v1/label", {
      "texts": ["abc", ["ab", "cd"]]})
  assert status == 200
  assert answer["model"] == "multilabel"
  assert answer["version"] == "7"
  assert answer["thresholds"] == dict(zip(fake_server.LABELS,
                                          fake_server.THRESHOLDS))
  for result, text in zip(answer["results"], ["abc", ("ab", "cd")]):
    scores = expected(text)
    assert list(result["probabilities"]) == fake_server.LABELS
    assert same(list(result["probabilities"].values()), scores)
    assert result["labels"] == [
        fake_server.LABELS[i] for i in sorted(
            range(3), key=lambda i: -scores[i])
        if scores[i] >= fake_server.THRESHOLDS[i]]
  assert [len(result["labels"]) for result in answer["results"]] == [2, 2]


def test_one_text_needs_no_list(server):
  for text in ("abc", ["ab", "cd"]):
    assert server.call("POST", "/v1/label", {"text": text})[2] == server.call(
        "POST", "/v1/label", {"texts": [text]})[2]


def test_label_by_another_rule(server):
  def labels(**rule):
    return [result["labels"] for result in server.call(
        "POST", "/v1/label", dict(rule, texts=["abc"]))[2]["results"]]
  assert labels(threshold=0) == [["fruit", u"\u52a8\u7269", 'a "quoted" one']]
  assert labels(threshold=0, top_k=1) == [["fruit"]]
  assert labels(threshold=1) == [[]]
  assert labels(threshold=1, always_one_label=True) == [["fruit"]]
  assert server.call("POST", "/v1/label", {
      "texts": ["abc"], "threshold": 0.25})[2]["thresholds"] == dict.fromkeys(
          fake_server.LABELS, 0.25)


def test_label_with_few_probabilities(server):
  every = server.call("POST", "/v1/label", {"texts": ["abc"]})[2]
  scores = every["results"][0]["probabilities"]
  best = sorted(scores.items(), key=lambda item: -item[1])
  for which, names in (
      ("all", fake_server.LABELS), ("labels", every["results"][0]["labels"]),
      (1, [best[0][0]])):
    status, _, answer = server.call("POST", "/v1/label", {
        "texts": ["abc"], "probabilities": which})
    assert status == 200
    assert list(answer["results"][0]["probabilities"]) == list(names)
    assert answer["results"][0]["labels"] == every["results"][0]["labels"]
    # Two labels are given, so one of them may have no probability here.
    named = set(names) | set(every["results"][0]["labels"])
    assert answer["thresholds"] == {
        label: threshold for label, threshold in every["thresholds"].items()
        if label in named}
  assert server.call("POST", "/v1/label", {
      "texts": ["abc"], "probabilities": "labels", "threshold": 1})[2][
          "thresholds"] == {}


@pytest.mark.parametrize("num_labels,expected_size", [
    (1000, 1000), (1001, 100), (30000, 100)])
def test_very_many_labels_are_not_all_answered(num_labels, expected_size):
  names = ["label %d" % i for i in range(num_labels)]
  predictor = types.SimpleNamespace(
      labels=names, decision=decisions.DecisionRule(0.999),
      step=7)
  predictor.decision_for = lambda *unused_args: predictor.decision
  predictor.describe = functools.partial(
      predict_session.SessionPredictor.describe, predictor)
  app = types.SimpleNamespace(_settings=types.SimpleNamespace(name="m"))
  served = http_app.Served(predictor, None, None, "7")
  rows = np.random.RandomState(3).rand(2, num_labels).astype(np.float32)
  asked = http_requests.LabelRequest(["a", "b"], None, None, None, None)
  answer = http_app.Application._labelled(app, served, asked, rows)
  for row, result in zip(rows, answer.results):
    assert len(result.probabilities) == expected_size
    assert max(result.probabilities.values()) == float("%.9g" % row.max())
    assert len(result.labels) == (row >= np.float32(0.999)).sum()
  assert len(answer.thresholds) <= 2 * expected_size
  full = http_app.Application._labelled(
      app, served, asked._replace(probabilities="all"), rows)
  assert list(full.results[1].probabilities) == names


def test_explain(server):
  status, _, answer = server.call("POST", "/v1/explain", {
      "text": u"ab \U0001f600 c", "label": "fruit"})
  assert status == 200
  assert (answer["model"], answer["version"]) == ("multilabel", "7")
  assert answer["label"] == "fruit"
  assert np.float32(answer["probability"]) == expected(u"ab \U0001f600 c")[0]
  assert [(word["start"], word["end"]) for word in answer["words"]] == [
      (0, 2), (3, 4), (5, 6)]

  def odds(text):
    p = float(expected(text)[0])
    return np.log(p / (1 - p))
  for word, without in zip(answer["words"], (
      u"  \U0001f600 c", u"ab   c", u"ab \U0001f600  ")):
    assert abs(word["weight"] - (
        odds(u"ab \U0001f600 c") - odds(without))) < 1e-3


def test_explain_takes_the_most_probable_label(server):
  answer = server.call("POST", "/v1/explain", {"text": "abc"})[2]
  assert answer["label"] == fake_server.LABELS[int(expected("abc").argmax())]


def test_many_words_are_explained_in_groups(server):
  text = " ".join("abcdefghij" * 5)
  words = server.call("POST", "/v1/explain", {"text": text})[2]["words"]
  assert len(words) == 17  # 50 words, 20 runs at most: three a run
  assert words[0]["start"] == 0
  assert words[-1]["end"] == len(text)


def test_health(server):
  assert server.call("GET", "/healthz")[::2] == (200, {"status": "alive"})
  assert server.call("GET", "/readyz")[::2] == (200, {"status": "ready"})


def test_head_has_no_body(server):
  status, headers, body = server.call("HEAD", "/")
  assert (status, body) == (200, b"")
  assert int(headers["content-length"]) > 1000


# Errors.


@pytest.mark.parametrize("method,path,status,sentence", [
    ("GET", "/nothing", 404,
     "there is nothing here; GET /openapi.json lists all paths."),
    ("GET", "/../../etc/passwd", 404,
     "there is nothing here; GET /openapi.json lists all paths."),
    ("GET", "/%2e%2e/%00%ff", 404,
     "there is nothing here; GET /openapi.json lists all paths."),
    ("GET", "/healthz/", 404,
     "there is nothing here; GET /openapi.json lists all paths."),
    ("GET", "/v1/label", 405, "this path supports POST."),
    ("DELETE", PREDICT, 405, "this path supports POST."),
    ("POST", "/v1/models/other:predict", 404, "there is no such model or "
     "version; this server has multilabel, version 7."),
    ("POST", "/v1/models/multilabel/versions/8:predict", 404, "there is no "
     "such model or version; this server has multilabel, version 7."),
    ("GET", "/v1/models/multilabel/versions/07", 404, "there is no such model "
     "or version; this server has multilabel, version 7."),
    ("POST", "/v1/models/multilabel:regress", 404,
     "a model supports :predict and :classify."),
])
def test_paths_and_methods_that_there_are_not(server, method, path, status,
                                              sentence):
  given, headers, answer = server.call(method, path)
  assert (given, answer) == (status, {"error": sentence})
  if status == 405:
    assert headers["allow"] == "POST"


@pytest.mark.parametrize("body", [
    b"", b"nonsense", b"\xff", b"[" * 90000, b'{"a":' * 15000,
    b'{"texts": ["\\ud800"]}', b'{"texts": NaN}', b'{"texts": []}',
    b'{"texts": ["a"], "texts": ["b"]}', b'{"texts": ["a"], "top_k": 1e999}',
    b'{"texts": [' + b"1" * 50000 + b"]}",
    json.dumps({"texts": ["a" * 1001]}).encode(),
    json.dumps({"texts": ["a" * 90000]}).encode()])
def test_bad_bodies(server, body):
  for path in ("/v1/label", "/v1/explain", PREDICT, CLASSIFY):
    status, headers, answer = server.call("POST", path, body)
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert list(answer) == ["error"]
    assert "Traceback" not in answer["error"]


def test_ids_outside_the_vocabulary_do_not_reach_the_model(server):
  """The fake model aborts its process if one does."""
  for bad in (1000, -1, 2 ** 31, -2 ** 63, 10 ** 1000):
    for path, body in (
        (PREDICT, {"instances": [dict(ROW, input_ids=[2, bad, 3])]}),
        (PREDICT, {"signature_name": "ids_only", "inputs": [[bad]]}),
        (CLASSIFY, {"examples": [{"input_ids": [bad]}]})):
      status, _, answer = server.call("POST", path, body)
      assert status == 400
      assert answer["error"].endswith(("expected int <= 999.",
                                       "expected int >= 0."))
  assert server.call("POST", PREDICT, {"instances": [ROW]})[0] == 200


@pytest.mark.parametrize("headers,sentence", [
    ({"Content-Type": "multipart/form-data; boundary=x"},
     "the Content-Type must be application/json."),
    ({"Content-Type": "application/xml"},
     "the Content-Type must be application/json."),
    ({"Content-Type": "application/json; charset=utf-16"},
     "the charset must be UTF-8."),
    ({"Content-Encoding": "gzip"},
     "Content-Encoding is not supported."),
])
def test_other_types(server, headers, sentence):
  status, _, answer = server.call(
      "POST", "/v1/label", {"texts": ["a"]}, headers)
  assert (status, answer) == (415, {"error": sentence})


@pytest.mark.parametrize("content_type", [
    "application/json", "application/json; charset=utf-8", "text/plain",
    'Application/JSON; Charset="UTF-8"', "application/vnd.api+json",
    "application/x-www-form-urlencoded"])  # of `curl -d`
def test_types_that_are_taken(server, content_type):
  assert server.call("POST", "/v1/label", {"texts": ["a"]},
                     {"Content-Type": content_type})[0] == 200


def test_a_failure_inside_stays_inside(server):
  status, _, answer = server.call("POST", "/v1/label", {"texts": ["fail"]})
  assert (status, answer) == (500, {
      "error": "the server failed; see its log."})
  assert server.call("POST", "/v1/label", {"texts": ["abc"]})[0] == 200


def test_above_threshold_is_the_whole_decision():
  """As in the export: at most `top_k` labels, the best where none passes."""
  asked = types.SimpleNamespace(signature="predict_labels", rows=True)
  rows = np.array([[.9, .8, .7], [.1, .3, .2]], np.float32)
  decision = decisions.DecisionRule([.5, .5, .5], 2, True)
  answer = http_answers.predict(asked, rows, ["a", "b", "c"], decision)
  assert [row["labels"] for row in answer["predictions"]] == [
      ["a", "b", "c"], ["b", "c", "a"]]
  assert [row["above_threshold"] for row in answer["predictions"]] == [
      [True, True, False], [True, False, False]]


def test_labels_by_expected_f1():
  asked = types.SimpleNamespace(signature="predict_labels", rows=True)
  rows = np.array([[.4, .4, .3], [.1, .01, .02]], np.float32)
  decision = decisions.DecisionRule(decisions.EXPECTED_F1)
  answer = http_answers.predict(asked, rows, ["a", "b", "c"], decision)
  assert [row["above_threshold"] for row in answer["predictions"]] == [
      [True, True, True], [False, False, False]]
  answer = http_answers.label("m", "1", [predictor.Described(
      [("a", .4)], {"a": .4})], ["a", "b", "c"], decision)
  assert answer.thresholds == {} and answer.results[0].labels == ["a"]
