# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests to checked values; what is wrong has one sentence.

The forms are those of TensorFlow Serving's REST API for `:predict` and
`:classify`, with the signatures of `signatures.py`, and two of this server's
own (`/v1/label`, `/v1/explain`). No value of a client passes unchecked: an id
outside the vocabulary never reaches the model.
"""

import base64
import binascii
import collections

from multilabel import decisions
from multilabel.serving import http_errors
from multilabel.serving import http_json


DEFAULT = "serving_default"
IDS_ONLY = "ids_only"
CLASSIFY = "classify"
PREDICT_LABELS = "predict_labels"
TEXT = "text"

FEATURES = ("input_ids", "input_mask", "segment_ids")

# Inputs of the signatures that :predict takes.
PREDICT_INPUTS = collections.OrderedDict([
    (DEFAULT, FEATURES), (IDS_ONLY, ("input_ids",)),
    (PREDICT_LABELS, FEATURES), (TEXT, ("text",))])

# What requests are checked against. `cls_id` is the id of [CLS].
Limits = collections.namedtuple("Limits", [
    "vocab_size", "type_vocab_size", "max_position_embeddings", "cls_id",
    "max_texts", "max_characters"])

# One row of the model, as `input_pipeline.InputFeatures`.
Features = collections.namedtuple(
    "Features", ["input_ids", "input_mask", "segment_ids", "label_ids"])

# `rows`: whether the answer has rows or columns. Either `texts`, list of str,
# or `features`, list of `Features`, is None.
PredictRequest = collections.namedtuple(
    "PredictRequest", ["signature", "rows", "texts", "features"])

# texts: list of str or (str, str); probabilities: see `decisions`;
# the others None where not given.
LabelRequest = collections.namedtuple(
    "LabelRequest", ["texts", "threshold", "top_k", "always_one_label",
                     "probabilities"])

# label: str or None.
ExplainRequest = collections.namedtuple("ExplainRequest", ["text", "label"])


def parse_predict(body, limits):
  """Parses the body of a `:predict`.

  Args:
    body: bytes.
    limits: `Limits`.

  Returns:
    `PredictRequest`.

  Raises:
    http_errors.Refused: status 400.
  """
  request = http_json.parse(body)
  _check_keys(request, ("signature_name", "instances", "inputs"), "the body")
  signature = request.get("signature_name", DEFAULT)
  _check_signature(signature)
  if ("instances" in request) == ("inputs" in request):
    raise http_errors.bad_request(
        "the body must have either instances or inputs.")
  names = PREDICT_INPUTS[signature]
  rows = "instances" in request
  columns = (_columns_of_rows(request["instances"], names, limits) if rows
             else _columns(request["inputs"], names, limits))
  if signature == TEXT:
    texts = [_text(_decoded(value, where), where, limits)
             for where, value in columns["text"]]
    return PredictRequest(signature, rows, texts, None)
  features = _features_of_columns(columns, limits)
  length = len(columns["input_ids"][0][1])
  for where, value in columns["input_ids"]:
    if len(value) != length:
      raise http_errors.bad_request(
          "%s has %d ids and the first has %d; all must be of one length, "
          "padded with 0." % (where, len(value), length))
  return PredictRequest(signature, rows, None, features)


def _check_signature(signature):
  if not isinstance(signature, str):
    raise http_errors.bad_request("signature_name must be a string.")
  if signature == CLASSIFY:
    raise http_errors.bad_request(
        "the signature_name classify is for :classify, not for :predict.")
  if signature not in PREDICT_INPUTS:
    raise http_errors.bad_request(
        "signature_name %s is unknown; there are %s." % (
            http_json.shown(signature), ", ".join(PREDICT_INPUTS)))


def _columns_of_rows(instances, names, limits):
  """{name: [(where, value)]} of the row form."""
  _check_list(instances, "instances", limits.max_texts)
  columns = {name: [] for name in names}
  named = isinstance(instances[0], dict) and set(instances[0]) != {"b64"}
  for number, row in enumerate(instances):
    where = "instances[%d]" % number
    if not named and len(names) == 1:
      # With one input its name may be left out.
      columns[names[0]].append((where, row))
      continue
    if not isinstance(row, dict):
      raise http_errors.bad_request("%s must be an object with %s." % (
          where, ", ".join(names)))
    _check_keys(row, names, where, all_needed=True)
    for name in names:
      columns[name].append(("%s.%s" % (where, name), row[name]))
  return columns


def _columns(inputs, names, limits):
  """{name: [(where, value)]} of the columnar form."""
  if len(names) == 1 and not isinstance(inputs, dict):
    inputs = {names[0]: inputs}
  if not isinstance(inputs, dict):
    raise http_errors.bad_request("inputs must be an object with %s." %
                                  ", ".join(names))
  _check_keys(inputs, names, "inputs", all_needed=True)
  columns = {}
  for name in names:
    where = "inputs.%s" % name
    _check_list(inputs[name], where, limits.max_texts)
    columns[name] = [("%s[%d]" % (where, number), value)
                     for number, value in enumerate(inputs[name])]
    if len(columns[name]) != len(columns[names[0]]):
      raise http_errors.bad_request(
          "%s has %d rows and inputs.%s has %d." % (
              where, len(columns[name]), names[0], len(columns[names[0]])))
  return columns


def _features_of_columns(columns, limits):
  """The rows of {name: [(where, value)]} as `Features`."""
  features = []
  for number, (where, input_ids) in enumerate(columns["input_ids"]):
    _check_ids(input_ids, limits, where)
    mask_where, input_mask = _cell(
        columns, "input_mask", number,
        (where, [int(i != 0) for i in input_ids]))
    _check_numbers(input_mask, 2, mask_where)
    segments_where, segment_ids = _cell(
        columns, "segment_ids", number, (where, [0] * len(input_ids)))
    _check_numbers(segment_ids, limits.type_vocab_size, segments_where)
    for other, value in ((mask_where, input_mask),
                         (segments_where, segment_ids)):
      if len(value) != len(input_ids):
        raise http_errors.bad_request(
            "%s has %d numbers and %s has %d; they must have as many." % (
                other, len(value), where, len(input_ids)))
    features.append(_without_padding(input_ids, input_mask, segment_ids,
                                     limits.cls_id, mask_where))
  return features


def _cell(columns, name, number, default):
  return columns[name][number] if name in columns else default


def _without_padding(input_ids, input_mask, segment_ids, cls_id, where):
  """`Features` up to the last id that counts.

  As in an export's signatures, a run of [CLS] at the end is no part of the
  text: it is how TensorFlow Serving pads.
  """
  end = len(input_ids)
  while end > 1 and input_ids[end - 1] == cls_id:
    end -= 1
  while end and not input_mask[end - 1]:
    end -= 1
  if not end:
    raise http_errors.bad_request(
        "%s marks no id as text; a text has at least one." % where)
  return Features(input_ids[:end], input_mask[:end], segment_ids[:end], [])


def parse_classify(body, limits):
  """Parses the body of a `:classify`.

  Args:
    body: bytes.
    limits: `Limits`.

  Returns:
    list of `Features`.

  Raises:
    http_errors.Refused: status 400.
  """
  request = http_json.parse(body)
  _check_keys(request, ("signature_name", "context", "examples"), "the body")
  if request.get("signature_name", CLASSIFY) != CLASSIFY:
    raise http_errors.bad_request(
        "the signature_name of :classify must be classify.")
  context = request.get("context", {})
  if not isinstance(context, dict):
    raise http_errors.bad_request("context must be an object.")
  _check_keys(context, FEATURES, "context")
  if "examples" not in request:
    raise http_errors.bad_request("the body must have examples.")
  _check_list(request["examples"], "examples", limits.max_texts)
  features = []
  for number, example in enumerate(request["examples"]):
    where = "examples[%d]" % number
    if not isinstance(example, dict):
      raise http_errors.bad_request("%s must be an object." % where)
    _check_keys(example, FEATURES, where)
    features.append(_features_of_example(example, context, where, limits))
  return features


def _features_of_example(example, context, where, limits):
  """A `tf.Example`'s features, and those common to all; mask 1 by default."""
  both = sorted(set(example) & set(context))
  if both:
    raise http_errors.bad_request("%s is in context and in %s." % (
        both[0], where))
  columns = {}
  for name in FEATURES:
    if name in example or name in context:
      value = example[name] if name in example else context[name]
      # A feature of one number may stand without its list.
      columns[name] = [("%s.%s" % (where, name),
                        value if isinstance(value, list) else [value])]
  if "input_ids" not in columns:
    raise http_errors.bad_request("%s has no input_ids." % where)
  if "input_mask" not in columns:
    columns["input_mask"] = [(where, [1] * len(columns["input_ids"][0][1]))]
  return _features_of_columns(columns, limits)[0]


def parse_label(body, limits):
  """Parses the body of a `/v1/label`: `LabelRequest`.

  Raises:
    http_errors.Refused: status 400.
  """
  request = http_json.parse(body)
  _check_keys(request, LabelRequest._fields, "the body")
  if "texts" not in request:
    raise http_errors.bad_request("the body must have texts.")
  _check_list(request["texts"], "texts", limits.max_texts)
  texts = [_text_or_pair(value, "texts[%d]" % number, limits)
           for number, value in enumerate(request["texts"])]
  threshold = request.get("threshold")
  if threshold is not None and (
      type(threshold) not in (int, float) or not 0 <= threshold <= 1):
    raise http_errors.bad_request("threshold must be a number from 0 to 1.")
  top_k = request.get("top_k")
  if top_k is not None and (type(top_k) is not int or not 1 <= top_k < 1 << 31):
    raise http_errors.bad_request("top_k must be a whole number from 1.")
  always_one_label = request.get("always_one_label")
  if always_one_label is not None and not isinstance(always_one_label, bool):
    raise http_errors.bad_request("always_one_label must be true or false.")
  which = request.get("probabilities")
  if which not in (None, decisions.ALL,
                   decisions.LABELS) and (
                       type(which) is not int or not 1 <= which < 1 << 31):
    raise http_errors.bad_request(
        "probabilities must be all, labels, or a whole number from 1.")
  return LabelRequest(texts, threshold, top_k, always_one_label, which)


def parse_explain(body, labels, limits):
  """Parses the body of a `/v1/explain`: `ExplainRequest`.

  Raises:
    http_errors.Refused: status 400.
  """
  request = http_json.parse(body)
  _check_keys(request, ("text", "label"), "the body")
  if "text" not in request:
    raise http_errors.bad_request("the body must have a text.")
  label = request.get("label")
  if label is not None and (
      not isinstance(label, str) or label not in labels):
    raise http_errors.bad_request("label is none of the model's labels.")
  return ExplainRequest(_text(request["text"], "text", limits), label)


def _check_keys(found, known, where, all_needed=False):
  """Refuses keys that are not known, and, if asked, those that are missing."""
  for key in found:
    if key not in known:
      raise http_errors.bad_request("%s has the unknown key %s; known: %s." % (
          where, http_json.shown(key), ", ".join(known)))
  if all_needed:
    for key in known:
      if key not in found:
        raise http_errors.bad_request("%s has no %s." % (where, key))


def _check_list(value, where, most):
  if not isinstance(value, list):
    raise http_errors.bad_request("%s must be a list." % where)
  if not value:
    raise http_errors.bad_request("%s is an empty list." % where)
  if len(value) > most:
    raise http_errors.bad_request("%s has %d entries; a request may have %d." %
                                  (where, len(value), most))


def _check_ids(value, limits, where):
  if not isinstance(value, list) or not value:
    raise http_errors.bad_request("%s must be a list of ids, not empty." %
                                  where)
  if len(value) > limits.max_position_embeddings:
    raise http_errors.bad_request("%s has %d ids; a text may have %d." % (
        where, len(value), limits.max_position_embeddings))
  _check_numbers(value, limits.vocab_size, where)


def _check_numbers(value, size, where):
  """Refuses all but a list of int from 0 to size - 1."""
  if not isinstance(value, list):
    raise http_errors.bad_request("%s must be a list of whole numbers." % where)
  # `type`, since true and false are int to Python.
  if set(map(type, value)) - {int}:
    number = next(i for i, x in enumerate(value) if type(x) is not int)
    raise http_errors.bad_request("%s[%d] is no whole number." % (
        where, number))
  if value and not 0 <= min(value) <= max(value) < size:
    number = next(i for i, x in enumerate(value) if not 0 <= x < size)
    raise http_errors.bad_request("%s[%d] must be from 0 to %d." % (
        where, number, size - 1))


def _text_or_pair(value, where, limits):
  if isinstance(value, list):
    if len(value) != 2:
      raise http_errors.bad_request(
          "%s must be a string, or a list of two strings." % where)
    return tuple(_text(part, "%s[%d]" % (where, number), limits)
                 for number, part in enumerate(value))
  return _text(value, where, limits)


def _text(value, where, limits):
  """A str that UTF-8 can hold and that is not too long."""
  if not isinstance(value, str):
    raise http_errors.bad_request("%s must be a string." % where)
  if len(value) > limits.max_characters:
    raise http_errors.bad_request(
        "%s has %d characters; a text may have %d." % (
            where, len(value), limits.max_characters))
  try:
    value.encode("utf-8")
  except UnicodeEncodeError as error:
    raise http_errors.bad_request(
        "%s has half of a surrogate pair at character %d." % (
            where, error.start))
  return value


def _decoded(value, where):
  """Serving's {"b64": ...} as str; any other value as it is."""
  if not isinstance(value, dict):
    return value
  _check_keys(value, ("b64",), where, all_needed=True)
  try:
    return base64.b64decode(value["b64"], validate=True).decode("utf-8")
  except (TypeError, ValueError, binascii.Error):
    raise http_errors.bad_request("%s.b64 must be UTF-8 in base 64." % where)
