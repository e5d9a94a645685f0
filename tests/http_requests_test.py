# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests: what is taken, and the sentence about what is not."""

import base64
import json

import pytest


pytest.importorskip("msgspec")

# pylint: disable=g-import-not-at-top
from multilabel.serving import http_errors
from multilabel.serving import http_json
from multilabel.serving import http_requests


LIMITS = http_requests.Limits(
    vocab_size=100, type_vocab_size=2, max_position_embeddings=6, cls_id=2,
    max_texts=3, max_characters=10)
REQUESTS = http_requests.Requests(LIMITS)
MOST = http_json.Most(strings=1000, containers=100, commas=1000)

GOOD = {"input_ids": [2, 5, 3, 0], "input_mask": [1, 1, 1, 0],
        "segment_ids": [0, 0, 1, 0]}


def refused(parse, body, *arguments):
  """The sentence about a body (an object, or bytes)."""
  if not isinstance(body, bytes):
    body = json.dumps(body).encode("ascii")
  with pytest.raises(http_errors.Refused) as caught:
    parse(body, *arguments)
  assert caught.value.status == 400
  assert "\n" not in caught.value.sentence
  assert caught.value.sentence.endswith(".")
  caught.value.sentence.encode("ascii")
  return caught.value.sentence


def predict(**body):
  return REQUESTS.parse_predict(json.dumps(body).encode("ascii"))


# JSON.


def test_json():
  assert http_json.parse(
      u'{"a": [1, -2.5e3, "\u4f60\U0001f600", null, true]}'.encode("utf-8"),
      MOST) == {
                             "a": [1, -2500.0, u"\u4f60\U0001f600", None, True]}


@pytest.mark.parametrize("body,sentence", [
    (b"", "the body is empty; it must be JSON."),
    (b"x=1", "the body cannot be read at line 1, column 1: Expecting value."),
    (b'{"a": 1,\n "b" 2}',
     "the body cannot be read at line 2, column 6: Expecting ':' delimiter."),
    (b'{"a": 1} {}',
     "the body cannot be read at line 1, column 10: Extra data."),
    (b'{"a": "\x00"}',
     "the body cannot be read at line 1, column 8: Invalid control "
     "character at."),
    (b'{"a": "\xff"}',
     "the body cannot be read: byte 0xff at position 7 is not UTF-8."),
    (b'{"a": "\xed\xa0\x80"}',
     "the body cannot be read: byte 0xed at position 7 is not UTF-8."),
    (u'{"a": 1}'.encode("utf-16"),
     "the body cannot be read: byte 0xff at position 0 is not UTF-8."),
    (b'{"a": NaN}', "the body cannot be read: NaN is not JSON."),
    (b'{"a": [-Infinity]}', "the body cannot be read: -Infinity is not JSON."),
    (b'{"a": 1, "b": {"c": 2, "c": 2}}',
     "the body cannot be read: key 'c' stands twice in one object."),
    (b'{"\\ud800": 1, "\\ud800": 2}',
     "the body cannot be read: key '\\ud800' stands twice in one object."),
    (b"[1]", "the body cannot be read: it holds a list, not an object."),
    (b'"texts"', "the body cannot be read: it holds a string, not an object."),
    (b'{"a": ' + b"[" * 200000,
     "the body has too many lists, objects or values."),
    (b'{"a": ' + b"[" * 100000 + b"]" * 100000 + b"}",
     "the body has too many lists, objects or values."),
    (b'{"a":' * 100000 + b"1" + b"}" * 100000,
     "the body has too many lists, objects or values."),
])
def test_broken_json(body, sentence):
  assert refused(http_json.parse, body, MOST) == sentence


def test_numbers_of_too_many_digits():
  assert refused(
      http_json.parse, b'{"a": ' + b"9" * 1000000 + b"}", MOST) == (
          "the body cannot be read: a number has 1000000 digits.")


def test_a_name_is_shown_on_one_line_and_cut():
  assert http_json.shown(u"a\nb\ud800") == "a\\nb\\ud800"
  assert http_json.shown("x" * 1000) == "x" * 80 + "..."


@pytest.mark.parametrize("body", [
    b"[]," * 1000000, b'{"texts": [' + b"0," * 1000000 + b"0]}",
    b'{"texts": [' + b'"",' * 1000000 + b'""]}', b'{"a":' * 1000000,
    b'{"texts": ["\\\\", ' + b"[]," * 1000000 + b"[]]}"])
def test_more_tokens_than_any_request_needs_are_not_parsed(body, monkeypatch):
  monkeypatch.setattr(http_json.strict_json, "read_object", None)
  assert refused(REQUESTS.parse_label, body) == (
      "the body has too many lists, objects or values.")


def test_brackets_and_commas_in_texts_do_not_count():
  limits = LIMITS._replace(max_characters=10 ** 6)
  text = '[{",\\' * 10 ** 5
  for made in (text, text + "\\", '"' * 1000 + text):
    body = json.dumps({"texts": [made]}).encode("ascii")
    assert http_requests.Requests(limits).parse_label(body).texts == [made]


def test_the_largest_request_has_not_too_many_tokens():
  limits = http_requests.Limits(30522, 2, 512, 101, 128, 20000)
  row = {name: [1] * 512 for name in GOOD}
  requests = http_requests.Requests(limits)
  for body in ({"instances": [row] * 128},
               {"inputs": {name: [[1] * 512] * 128 for name in GOOD}}):
    assert len(requests.parse_predict(
        json.dumps(body).encode("ascii")).features) == 128
  assert len(requests.parse_classify(json.dumps(
      {"examples": [row] * 128}).encode("ascii"))) == 128
  assert len(requests.parse_label(json.dumps(
      {"texts": [["a", "b"]] * 128}).encode("ascii")).texts) == 128


# :predict.


def test_rows():
  request = predict(instances=[GOOD, dict(GOOD, input_ids=[2, 9, 9, 3],
                                          input_mask=[1, 1, 1, 1])])
  assert request == http_requests.PredictRequest(
      "serving_default", True, None, [
          http_requests.Features([2, 5, 3], [1, 1, 1], [0, 0, 1], []),
          http_requests.Features([2, 9, 9, 3], [1, 1, 1, 1], [0, 0, 1, 0],
                                 [])])


def test_columns():
  request = predict(signature_name="predict_labels", inputs={
      name: [value] for name, value in GOOD.items()})
  assert request == http_requests.PredictRequest(
      "predict_labels", False, None, [
          http_requests.Features([2, 5, 3], [1, 1, 1], [0, 0, 1], [])])


@pytest.mark.parametrize("body", [
    {"instances": [{"input_ids": [2, 5, 0, 7, 0]}]},
    {"instances": [[2, 5, 0, 7, 0]]},
    {"inputs": {"input_ids": [[2, 5, 0, 7, 0]]}},
    {"inputs": [[2, 5, 0, 7, 0]]},
])
def test_ids_only_makes_its_mask(body):
  assert predict(signature_name="ids_only", **body).features == [
      http_requests.Features([2, 5, 0, 7], [1, 1, 0, 1], [0] * 4, [])]


def test_a_run_of_cls_at_the_end_is_padding_as_serving_makes_it():
  assert predict(signature_name="ids_only", inputs=[[2, 2, 5, 2, 2]]
                ).features[0].input_ids == [2, 2, 5]
  assert predict(signature_name="ids_only", inputs=[[2, 2, 2]]
                ).features[0].input_ids == [2]


@pytest.mark.parametrize("body", [
    {"instances": ["ab", u"\u4f60"]},
    {"instances": [{"text": "ab"}, {"text": u"\u4f60"}]},
    {"instances": [{"b64": "YWI="}, {"b64": "5L2g"}]},
    {"inputs": ["ab", {"b64": base64.b64encode(
        u"\u4f60".encode("utf-8")).decode("ascii")}]},
    {"inputs": {"text": ["ab", u"\u4f60"]}},
])
def test_texts(body):
  request = predict(signature_name="text", **body)
  assert request.texts == ["ab", u"\u4f60"]
  assert request.features is None


def instance(**changes):
  return {"instances": [dict(GOOD, **changes)]}


@pytest.mark.parametrize("body,sentence", [
    ({}, "the body must have either instances or inputs."),
    ({"instances": [GOOD], "inputs": {}},
     "inputs: object missing required field input_ids."),
    ({"instances": [GOOD], "more": 1},
     "the body: object contains unknown field more."),
    ({"instances": []}, "instances: expected array of length >= 1."),
    ({"instances": {}}, "instances: expected array, got object."),
    ({"instances": [GOOD] * 4}, "instances: expected array of length <= 3."),
    ({"instances": [7]}, "instances[0]: expected object, got int."),
    ({"instances": [GOOD, None]}, "instances[1]: expected object, got null."),
    ({"instances": [{"input_ids": [2]}]},
     "instances[0]: object missing required field input_mask."),
    (instance(token_type_ids=[0]),
     "instances[0]: object contains unknown field token_type_ids."),
    (instance(input_ids=7), "instances[0].input_ids: expected array, got int."),
    (instance(input_ids=[]),
     "instances[0].input_ids: expected array of length >= 1."),
    (instance(input_ids=[2] * 7),
     "instances[0].input_ids: expected array of length <= 6."),
    (instance(input_ids=[2, 100, 3, 0]),
     "instances[0].input_ids[1]: expected int <= 99."),
    (instance(input_ids=[2, 5, -1, 0]),
     "instances[0].input_ids[2]: expected int >= 0."),
    (instance(input_ids=[2, 5, 3, 10 ** 4000]),
     "instances[0].input_ids[3]: expected int <= 99."),
    (instance(input_ids=[2, 5.0, 3, 0]),
     "instances[0].input_ids[1]: expected int, got float."),
    (instance(input_ids=[2, True, 3, 0]),
     "instances[0].input_ids[1]: expected int, got bool."),
    (instance(input_ids=[2, "5", 3, 0]),
     "instances[0].input_ids[1]: expected int, got str."),
    (instance(input_ids=[2, [5], 3, 0]),
     "instances[0].input_ids[1]: expected int, got array."),
    (instance(input_mask=[1, 1, 1]),
     "instances[0].input_mask has 3 numbers and instances[0].input_ids has 4; "
     "the lengths must be equal."),
    (instance(input_mask=[1, 2, 1, 0]),
     "instances[0].input_mask[1]: expected int <= 1."),
    (instance(input_mask=[0, 0, 0, 0]),
     "instances[0].input_mask is 0 everywhere; a text needs at least one id."),
    (instance(input_mask=None),
     "instances[0].input_mask: expected array, got null."),
    (instance(segment_ids=[0, 2, 0, 0]),
     "instances[0].segment_ids[1]: expected int <= 1."),
    ({"instances": [GOOD, dict(
        input_ids=[2, 3], input_mask=[1, 1], segment_ids=[0, 0])]},
     "instances[1].input_ids has 2 ids and the first has 4; all must have "
     "the same length, padded with 0."),
    ({"inputs": [[2, 3]]}, "inputs: expected object, got array."),
    ({"inputs": {"input_ids": [[2, 3]], "input_mask": [[1, 1]]}},
     "inputs: object missing required field segment_ids."),
    ({"inputs": {"input_ids": [[2], [2]], "input_mask": [[1]],
                 "segment_ids": [[0], [0]]}},
     "inputs.input_mask has 1 rows and inputs.input_ids has 2."),
    ({"signature_name": 1, "instances": [GOOD]},
     "signature_name: expected one of serving_default, ids_only, "
     "predict_labels, text."),
    ({"signature_name": "pred", "instances": [GOOD]},
     "signature_name: expected one of serving_default, ids_only, "
     "predict_labels, text."),
    ({"signature_name": "classify", "instances": [GOOD]},
     "signature_name: classify works with :classify, not with :predict."),
    ({"signature_name": "ids_only", "instances": [[0, 0]]},
     "instances[0] is 0 everywhere; a text needs at least one id."),
    ({"signature_name": "ids_only", "inputs": [[2, 5], [2]]},
     "inputs[1] has 1 ids and the first has 2; all must have the same "
     "length, padded with 0."),
    ({"signature_name": "text", "instances": [7]},
     "instances[0]: expected str | object, got int."),
    ({"signature_name": "text", "instances": ["a" * 11]},
     "instances[0]: expected str of length <= 10."),
    ({"signature_name": "text", "instances": ["a\ud800b"]},
     "the body has a string with an unpaired surrogate."),
    ({"signature_name": "text", "instances": [
        "a", {"text": "b", "b64": "YQ=="}]},
     "instances[1] has both text and b64."),
    ({"signature_name": "text", "instances": [{}]},
     "instances[0] has no text."),
    ({"instances": ["a"]},
     'instances[0]: expected object, got str. Texts need "signature_name": '
     '"text".'),
    ({"signature_name": "text", "instances": [{"b64": "/w=="}]},
     "instances[0].b64 must be UTF-8 in base 64."),
    ({"signature_name": "text", "inputs": [{"b64": "a b"}]},
     "inputs[0].b64 must be UTF-8 in base 64."),
    ({"signature_name": "text", "inputs": [{"b64": 7}]},
     "inputs[0].b64: expected str, got int."),
    ({"signature_name": "text", "inputs": {"text": "abc"}},
     "inputs.text: expected array, got str."),
])
def test_refused_predict(body, sentence):
  assert refused(REQUESTS.parse_predict, body) == sentence


# :classify.


def classify(**body):
  return REQUESTS.parse_classify(json.dumps(body).encode("ascii"))


def test_examples_differ_in_length_and_default_their_mask():
  assert classify(signature_name="classify", examples=[
      {"input_ids": [2, 0, 3]}, GOOD, {"input_ids": 5}]) == [
          http_requests.Features([2, 0, 3], [1, 1, 1], [0, 0, 0], []),
          http_requests.Features([2, 5, 3], [1, 1, 1], [0, 0, 1], []),
          http_requests.Features([5], [1], [0], [])]


def test_context_is_common_to_all_examples():
  assert classify(context={"segment_ids": [0, 1]}, examples=[
      {"input_ids": [2, 3]}, {"input_ids": [2, 4]}]) == [
          http_requests.Features([2, 3], [1, 1], [0, 1], []),
          http_requests.Features([2, 4], [1, 1], [0, 1], [])]


@pytest.mark.parametrize("body,sentence", [
    ({}, "the body: object missing required field examples."),
    ({"examples": []}, "examples: expected array of length >= 1."),
    ({"examples": [[2, 3]]}, "examples[0]: expected object, got array."),
    ({"examples": [{}]}, "examples[0] has no input_ids."),
    ({"examples": [{"input_ids": [2], "input_mask": None}]},
     "examples[0].input_mask: expected int | array, got null."),
    ({"examples": [{"input_ids": []}]},
     "examples[0].input_ids: expected array of length >= 1."),
    ({"examples": [{"input_ids": [2], "label_ids": [1]}]},
     "examples[0]: object contains unknown field label_ids."),
    ({"examples": [{"input_ids": [2]}], "context": {"input_ids": [2]}},
     "input_ids is in context and in examples[0]."),
    ({"examples": [{"input_ids": [2]}], "context": [1]},
     "context: expected object, got array."),
    ({"examples": [{"input_ids": [2]}], "signature_name": "serving_default"},
     "signature_name: invalid enum value 'serving_default'."),
    ({"examples": [{"input_ids": [2, 5], "segment_ids": [0]}]},
     "examples[0].segment_ids has 1 numbers and examples[0].input_ids has 2; "
     "the lengths must be equal."),
    ({"examples": [{"input_ids": [2, 777]}]},
     "examples[0].input_ids[1]: expected int <= 99."),
])
def test_refused_classify(body, sentence):
  assert refused(REQUESTS.parse_classify, body) == sentence


# /v1/label and /v1/explain.


def test_label():
  assert REQUESTS.parse_label(
      b'{"texts": ["a", ["b", "c"], ""], "threshold": 1, "top_k": 2,'
      b' "always_one_label": true}') == http_requests.LabelRequest(
          ["a", ("b", "c"), ""], 1, 2, True, None)
  assert REQUESTS.parse_label(
      b'{"text": "0123456789", "threshold": null}'
  ) == http_requests.LabelRequest(["0123456789"], None, None, None, None)
  assert REQUESTS.parse_label(b'{"text": ["a", "b"]}').texts == [("a", "b")]
  assert REQUESTS.parse_label(
      b'{"text": "a", "threshold": "expected_f1"}').threshold == "expected_f1"


@pytest.mark.parametrize("which", ["all", "labels", 1, 2 ** 31 - 1, None])
def test_label_with_probabilities(which):
  body = json.dumps({"texts": ["a"], "probabilities": which}).encode("ascii")
  assert REQUESTS.parse_label(body).probabilities == which


@pytest.mark.parametrize("body,sentence", [
    ({"text": "a", "texts": ["a"]}, "the body must have either texts or text."),
    ({}, "the body must have either texts or text."),
    ({"texts": "a"}, "texts: expected array, got str."),
    ({"texts": []}, "texts: expected array of length >= 1."),
    ({"texts": ["a"] * 4}, "texts: expected array of length <= 3."),
    ({"texts": [None]}, "texts[0]: expected str | array, got null."),
    ({"texts": ["a", ["b"]]}, "texts[1]: expected array of length >= 2."),
    ({"texts": [["b", 7]]}, "texts[0][1]: expected str, got int."),
    ({"texts": [["b", "\udc00"]]},
     "the body has a string with an unpaired surrogate."),
    ({"texts": ["a" * 11]}, "texts[0]: expected str of length <= 10."),
    ({"texts": ["a"], "threshold": "0.5"},
     "threshold: expected str matching regex '^expected_f1$'."),
    ({"texts": ["a"], "threshold": True},
     "threshold: expected float | str | null, got bool."),
    ({"texts": ["a"], "threshold": 1.01}, "threshold: expected float <= 1.0."),
    (b'{"texts": ["a"], "threshold": 1e999}',
     "threshold: expected float <= 1.0."),
    ({"texts": ["a"], "top_k": 0}, "top_k: expected int >= 1."),
    ({"texts": ["a"], "top_k": 1.5}, "top_k: expected int | null, got float."),
    ({"texts": ["a"], "top_k": 10 ** 30}, "top_k: expected int <= 2147483647."),
    ({"texts": ["a"], "always_one_label": 1},
     "always_one_label: expected bool | null, got int."),
    ({"texts": ["a"], "probabilities": "some"},
     "probabilities: expected str matching regex '^(all|labels)$'."),
    ({"texts": ["a"], "probabilities": True},
     "probabilities: expected int | str | null, got bool."),
    ({"texts": ["a"], "probabilities": 0}, "probabilities: expected int >= 1."),
    ({"texts": ["a"], "probabilities": [1]},
     "probabilities: expected int | str | null, got array."),
])
def test_refused_label(body, sentence):
  assert refused(REQUESTS.parse_label, body) == sentence


def test_explain():
  assert REQUESTS.parse_explain(
      b'{"text": "a b", "label": "y"}', ["x", "y"]) == ("a b", "y")
  assert REQUESTS.parse_explain(
      b'{"text": ""}', ["x"]) == ("", None)


@pytest.mark.parametrize("body,sentence", [
    ({}, "the body: object missing required field text."),
    ({"text": ["a"]}, "text: expected str, got array."),
    ({"text": "a", "label": "z"}, "label: this model has no such label."),
    ({"text": "a", "label": ["x"]}, "label: expected str | null, got array."),
])
def test_refused_explain(body, sentence):
  assert refused(REQUESTS.parse_explain, body, ["x"]) == sentence
