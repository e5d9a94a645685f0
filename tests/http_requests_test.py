# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests: what is taken, and the sentence about what is not."""

import base64
import json
import sys

import pytest

from multilabel.serving import http_errors
from multilabel.serving import http_json
from multilabel.serving import http_requests


LIMITS = http_requests.Limits(
    vocab_size=100, type_vocab_size=2, max_position_embeddings=6, cls_id=2,
    max_texts=3, max_characters=10)

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
  # The answer can be made of it.
  http_json.dump({"error": caught.value.sentence})
  return caught.value.sentence


def predict(**body):
  return http_requests.parse_predict(json.dumps(body).encode("ascii"), LIMITS)


# JSON.


def test_json():
  assert http_json.parse(u'{"a": [1, -2.5e3, "\u4f60\U0001f600", null, true]}'
                         .encode("utf-8")) == {
                             "a": [1, -2500.0, u"\u4f60\U0001f600", None, True]}


@pytest.mark.parametrize("body,sentence", [
    (b"", "the body is empty; it must be JSON."),
    (b"x=1", "the body is not JSON at line 1, column 1: Expecting value."),
    (b'{"a": 1,\n "b" 2}',
     "the body is not JSON at line 2, column 6: Expecting ':' delimiter."),
    (b'{"a": 1} {}', "the body is not JSON at line 1, column 10: Extra data."),
    (b'{"a": "\x00"}',
     "the body is not JSON at line 1, column 8: Invalid control character at."),
    (b'{"a": "\xff"}', "the body is not UTF-8: byte 0xff at position 7."),
    (b'{"a": "\xed\xa0\x80"}',
     "the body is not UTF-8: byte 0xed at position 7."),
    (u'{"a": 1}'.encode("utf-16"),
     "the body is not UTF-8: byte 0xff at position 0."),
    (b'{"a": NaN}', "NaN is no number that JSON has."),
    (b'{"a": [-Infinity]}', "-Infinity is no number that JSON has."),
    (b'{"a": 1, "b": {"c": 2, "c": 2}}', 'the key "c" is there twice.'),
    (b'{"\\ud800": 1, "\\ud800": 2}', 'the key "\\ud800" is there twice.'),
    (b"[1]", "the body must be a JSON object."),
    (b'"texts"', "the body must be a JSON object."),
    (b'{"a": ' + b"[" * 200000, "the body is nested too deeply."),
    (b'{"a": ' + b"[" * 100000 + b"]" * 100000 + b"}",
     "the body is nested too deeply."),
    (b'{"a":' * 100000 + b"1" + b"}" * 100000,
     "the body is nested too deeply."),
])
def test_broken_json(body, sentence):
  assert refused(http_json.parse, body) == sentence


@pytest.mark.skipif(not hasattr(sys, "get_int_max_str_digits"),
                    reason="this Python reads any number of digits")
def test_numbers_of_too_many_digits():
  assert refused(http_json.parse, b'{"a": ' + b"9" * 1000000 + b"}") == (
      "the body has a number of too many digits.")


def test_a_name_is_shown_on_one_line_and_cut():
  assert http_json.shown(u"a\nb\ud800") == '"a\\nb\\ud800"'
  assert http_json.shown("x" * 1000) == '"' + "x" * 40 + '..."'


def test_dump_refuses_nan():
  assert http_json.dump({"a": [1, u"\u4f60"]}) == b'{"a":[1,"\\u4f60"]}'
  with pytest.raises(ValueError):
    http_json.dump({"a": float("nan")})


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
     "the body must have either instances or inputs."),
    ({"instances": [GOOD], "more": 1}, 'the body has the unknown key "more"; '
     "known: signature_name, instances, inputs."),
    ({"instances": []}, "instances is an empty list."),
    ({"instances": {}}, "instances must be a list."),
    ({"instances": [GOOD] * 4},
     "instances has 4 entries; a request may have 3."),
    ({"instances": [7]},
     "instances[0] must be an object with input_ids, input_mask, segment_ids."),
    ({"instances": [GOOD, None]},
     "instances[1] must be an object with input_ids, input_mask, segment_ids."),
    ({"instances": [{"input_ids": [2]}]}, "instances[0] has no input_mask."),
    (instance(token_type_ids=[0]), "instances[0] has the unknown key "
     '"token_type_ids"; known: input_ids, input_mask, segment_ids.'),
    (instance(input_ids=7),
     "instances[0].input_ids must be a list of ids, not empty."),
    (instance(input_ids=[]),
     "instances[0].input_ids must be a list of ids, not empty."),
    (instance(input_ids=[2] * 7),
     "instances[0].input_ids has 7 ids; a text may have 6."),
    (instance(input_ids=[2, 100, 3, 0]),
     "instances[0].input_ids[1] must be from 0 to 99."),
    (instance(input_ids=[2, 5, -1, 0]),
     "instances[0].input_ids[2] must be from 0 to 99."),
    (instance(input_ids=[2, 5, 3, 10 ** 4000]),
     "instances[0].input_ids[3] must be from 0 to 99."),
    (instance(input_ids=[2, 5.0, 3, 0]),
     "instances[0].input_ids[1] is no whole number."),
    (instance(input_ids=[2, True, 3, 0]),
     "instances[0].input_ids[1] is no whole number."),
    (instance(input_ids=[2, "5", 3, 0]),
     "instances[0].input_ids[1] is no whole number."),
    (instance(input_ids=[2, [5], 3, 0]),
     "instances[0].input_ids[1] is no whole number."),
    (instance(input_mask=[1, 1, 1]), "instances[0].input_mask has 3 numbers "
     "and instances[0].input_ids has 4; they must have as many."),
    (instance(input_mask=[1, 2, 1, 0]),
     "instances[0].input_mask[1] must be from 0 to 1."),
    (instance(input_mask=[0, 0, 0, 0]),
     "instances[0].input_mask marks no id as text; a text has at least one."),
    (instance(input_mask=None),
     "instances[0].input_mask must be a list of whole numbers."),
    (instance(segment_ids=[0, 2, 0, 0]),
     "instances[0].segment_ids[1] must be from 0 to 1."),
    ({"instances": [GOOD, dict(
        input_ids=[2, 3], input_mask=[1, 1], segment_ids=[0, 0])]},
     "instances[1].input_ids has 2 ids and the first has 4; all must be of one "
     "length, padded with 0."),
    ({"inputs": [[2, 3]]},
     "inputs must be an object with input_ids, input_mask, segment_ids."),
    ({"inputs": {"input_ids": [[2, 3]], "input_mask": [[1, 1]]}},
     "inputs has no segment_ids."),
    ({"inputs": {"input_ids": [[2], [2]], "input_mask": [[1]],
                 "segment_ids": [[0], [0]]}},
     "inputs.input_mask has 1 rows and inputs.input_ids has 2."),
    ({"signature_name": 1, "instances": [GOOD]},
     "signature_name must be a string."),
    ({"signature_name": "pred", "instances": [GOOD]},
     'signature_name "pred" is unknown; there are serving_default, ids_only, '
     "predict_labels, text."),
    ({"signature_name": "classify", "instances": [GOOD]},
     "the signature_name classify is for :classify, not for :predict."),
    ({"signature_name": "ids_only", "instances": [[0, 0]]},
     "instances[0] marks no id as text; a text has at least one."),
    ({"signature_name": "ids_only", "inputs": [[2, 5], [2]]},
     "inputs.input_ids[1] has 1 ids and the first has 2; all must be of one "
     "length, padded with 0."),
    ({"signature_name": "text", "instances": [7]},
     "instances[0] must be a string."),
    ({"signature_name": "text", "instances": ["a" * 11]},
     "instances[0] has 11 characters; a text may have 10."),
    ({"signature_name": "text", "instances": ["a\ud800b"]},
     "instances[0] has half of a surrogate pair at character 1."),
    ({"signature_name": "text", "instances": ["a", {"text": "b"}]},
     'instances[1] has the unknown key "text"; known: b64.'),
    ({"signature_name": "text", "instances": [{"b64": "/w=="}]},
     "instances[0].b64 must be UTF-8 in base 64."),
    ({"signature_name": "text", "inputs": [{"b64": "a b"}]},
     "inputs.text[0].b64 must be UTF-8 in base 64."),
    ({"signature_name": "text", "inputs": [{"b64": 7}]},
     "inputs.text[0].b64 must be UTF-8 in base 64."),
    ({"signature_name": "text", "inputs": {"text": "abc"}},
     "inputs.text must be a list."),
])
def test_refused_predict(body, sentence):
  assert refused(http_requests.parse_predict, body, LIMITS) == sentence


# :classify.


def classify(**body):
  return http_requests.parse_classify(json.dumps(body).encode("ascii"), LIMITS)


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
    ({}, "the body must have examples."),
    ({"examples": []}, "examples is an empty list."),
    ({"examples": [[2, 3]]}, "examples[0] must be an object."),
    ({"examples": [{}]}, "examples[0] has no input_ids."),
    ({"examples": [{"input_ids": [2], "input_mask": None}]},
     "examples[0].input_mask[0] is no whole number."),
    ({"examples": [{"input_ids": []}]},
     "examples[0].input_ids must be a list of ids, not empty."),
    ({"examples": [{"input_ids": [2], "label_ids": [1]}]},
     'examples[0] has the unknown key "label_ids"; known: input_ids, '
     "input_mask, segment_ids."),
    ({"examples": [{"input_ids": [2]}], "context": {"input_ids": [2]}},
     "input_ids is in context and in examples[0]."),
    ({"examples": [{"input_ids": [2]}], "context": [1]},
     "context must be an object."),
    ({"examples": [{"input_ids": [2]}], "signature_name": "serving_default"},
     "the signature_name of :classify must be classify."),
    ({"examples": [{"input_ids": [2, 5], "segment_ids": [0]}]},
     "examples[0].segment_ids has 1 numbers and examples[0].input_ids has 2; "
     "they must have as many."),
    ({"examples": [{"input_ids": [2, 777]}]},
     "examples[0].input_ids[1] must be from 0 to 99."),
])
def test_refused_classify(body, sentence):
  assert refused(http_requests.parse_classify, body, LIMITS) == sentence


# /v1/label and /v1/explain.


def test_label():
  assert http_requests.parse_label(
      b'{"texts": ["a", ["b", "c"], ""], "threshold": 1, "top_k": 2,'
      b' "always_one_label": true}', LIMITS) == http_requests.LabelRequest(
          ["a", ("b", "c"), ""], 1, 2, True, None)
  assert http_requests.parse_label(
      b'{"texts": ["0123456789"], "threshold": null}',
      LIMITS) == http_requests.LabelRequest(
          ["0123456789"], None, None, None, None)


@pytest.mark.parametrize("which", ["all", "labels", 1, 2 ** 31 - 1, None])
def test_label_with_probabilities(which):
  body = json.dumps({"texts": ["a"], "probabilities": which}).encode("ascii")
  assert http_requests.parse_label(body, LIMITS).probabilities == which


@pytest.mark.parametrize("body,sentence", [
    ({"text": "a"}, 'the body has the unknown key "text"; known: texts, '
     "threshold, top_k, always_one_label, probabilities."),
    ({}, "the body must have texts."),
    ({"texts": "a"}, "texts must be a list."),
    ({"texts": []}, "texts is an empty list."),
    ({"texts": ["a"] * 4}, "texts has 4 entries; a request may have 3."),
    ({"texts": [None]}, "texts[0] must be a string."),
    ({"texts": ["a", ["b"]]},
     "texts[1] must be a string, or a list of two strings."),
    ({"texts": [["b", 7]]}, "texts[0][1] must be a string."),
    ({"texts": [["b", "\udc00"]]},
     "texts[0][1] has half of a surrogate pair at character 0."),
    ({"texts": ["a" * 11]}, "texts[0] has 11 characters; a text may have 10."),
    ({"texts": ["a"], "threshold": "0.5"},
     "threshold must be a number from 0 to 1."),
    ({"texts": ["a"], "threshold": True},
     "threshold must be a number from 0 to 1."),
    ({"texts": ["a"], "threshold": 1.01},
     "threshold must be a number from 0 to 1."),
    (b'{"texts": ["a"], "threshold": 1e999}',
     "threshold must be a number from 0 to 1."),
    ({"texts": ["a"], "top_k": 0}, "top_k must be a whole number from 1."),
    ({"texts": ["a"], "top_k": 1.5}, "top_k must be a whole number from 1."),
    ({"texts": ["a"], "top_k": 10 ** 30},
     "top_k must be a whole number from 1."),
    ({"texts": ["a"], "always_one_label": 1},
     "always_one_label must be true or false."),
    ({"texts": ["a"], "probabilities": "some"},
     "probabilities must be all, labels, or a whole number from 1."),
    ({"texts": ["a"], "probabilities": True},
     "probabilities must be all, labels, or a whole number from 1."),
    ({"texts": ["a"], "probabilities": 0},
     "probabilities must be all, labels, or a whole number from 1."),
    ({"texts": ["a"], "probabilities": [1]},
     "probabilities must be all, labels, or a whole number from 1."),
])
def test_refused_label(body, sentence):
  assert refused(http_requests.parse_label, body, LIMITS) == sentence


def test_explain():
  assert http_requests.parse_explain(
      b'{"text": "a b", "label": "y"}', ["x", "y"], LIMITS) == (
          http_requests.ExplainRequest("a b", "y"))
  assert http_requests.parse_explain(
      b'{"text": ""}', ["x"], LIMITS) == http_requests.ExplainRequest("", None)


@pytest.mark.parametrize("body,sentence", [
    ({}, "the body must have a text."),
    ({"text": ["a"]}, "text must be a string."),
    ({"text": "a", "label": "z"}, "label is none of the model's labels."),
    ({"text": "a", "label": ["x"]}, "label is none of the model's labels."),
])
def test_refused_explain(body, sentence):
  assert refused(http_requests.parse_explain, body, ["x"], LIMITS) == sentence
