# SPDX-License-Identifier: Apache-2.0
"""Request bodies: their types, checked by msgspec, and their meaning.

`:predict` and `:classify` follow TensorFlow Serving's REST API and the
signatures of `signatures.py`; `/v1/label` and `/v1/explain` are specific to
this server. Every value from a client is checked: an id outside the vocabulary
never reaches the model.
"""

import base64
import binascii
import collections
from typing import Annotated
from typing import List
from typing import Literal
from typing import Optional
from typing import Union

import msgspec
from msgspec import UNSET

from multilabel import decisions
from multilabel.serving import http_errors
from multilabel.serving import http_json


DEFAULT = "serving_default"
IDS_ONLY = "ids_only"
CLASSIFY = "classify"
PREDICT_LABELS = "predict_labels"
TEXT = "text"

FEATURES = ("input_ids", "input_mask", "segment_ids")

# Inputs of the signatures for :predict.
PREDICT_INPUTS = collections.OrderedDict([
    (DEFAULT, FEATURES), (IDS_ONLY, ("input_ids",)),
    (PREDICT_LABELS, FEATURES), (TEXT, ("text",))])

# Limits for checking requests. `cls_id` is the id of [CLS].
Limits = collections.namedtuple("Limits", [
    "vocab_size", "type_vocab_size", "max_position_embeddings", "cls_id",
    "max_texts", "max_characters"])

# One row of the model, as `input_pipeline.InputFeatures`.
Features = collections.namedtuple(
    "Features", ["input_ids", "input_mask", "segment_ids", "label_ids"])

# `rows`: whether the response has rows or columns. Either `texts`, list of str,
# or `features`, list of `Features`, is None.
PredictRequest = collections.namedtuple(
    "PredictRequest", ["signature", "rows", "texts", "features"])

# texts: list of str or (str, str); probabilities: see `written_probabilities`;
# the others None if not given.
LabelRequest = collections.namedtuple(
    "LabelRequest", ["texts", "threshold", "top_k", "always_one_label",
                     "probabilities"])

_MOST = (1 << 31) - 1


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
  """A JSON object without unknown keys."""


class Base64(_Strict):
  b64: str


class Requests(object):
  """The types of all request bodies, with the limits of one model.

  Attributes:
    label, explain, classify: msgspec types of the bodies.
    predict: dict of signature to the type of its `:predict` body.
  """

  def __init__(self, limits):
    """Makes the types.

    Args:
      limits: `Limits`.
    """
    self.limits = limits
    # No fixed-size tuple is beside a str in a union: msgspec 0.22 mixes up the
    # limits of the two. A pair is a list of two instead.
    string = Annotated[str, msgspec.Meta(max_length=limits.max_characters)]
    pair = Annotated[List[string], msgspec.Meta(min_length=2, max_length=2)]
    count = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
    which = Annotated[str, msgspec.Meta(pattern="^(%s|%s)$" % (
        decisions.ALL, decisions.LABELS))]

    share = Annotated[float, msgspec.Meta(ge=0, le=1)]
    no_threshold = Annotated[str, msgspec.Meta(
        pattern="^%s$" % decisions.EXPECTED_F1)]

    class LabelBody(_Strict):
      """Give either `texts` or one `text`."""
      texts: Union[self._many(Union[string, pair]), msgspec.UnsetType] = UNSET
      text: Union[string, pair, msgspec.UnsetType] = UNSET
      threshold: Union[share, no_threshold, None] = None
      top_k: Optional[count] = None
      always_one_label: Optional[bool] = None
      probabilities: Union[count, which, None] = None

    class ExplainBody(_Strict):
      text: string
      label: Optional[str] = None

    self.label, self.explain = LabelBody, ExplainBody
    self.predict = self._predict_types(string)
    self.classify = self._classify_type()

  def _many(self, kind):
    return Annotated[List[kind], msgspec.Meta(
        min_length=1, max_length=self.limits.max_texts)]

  def _numbers(self, size):
    """Integers below `size`, at least one, at most the number of positions."""
    return Annotated[
        List[Annotated[int, msgspec.Meta(ge=0, le=size - 1)]],
        msgspec.Meta(min_length=1,
                     max_length=self.limits.max_position_embeddings)]

  def _predict_types(self, string):
    ids = self._numbers(self.limits.vocab_size)
    mask, segments = self._numbers(2), self._numbers(
        self.limits.type_vocab_size)
    many = self._many
    string_or_bytes = Union[string, Base64]

    class Row(_Strict):
      input_ids: ids
      input_mask: mask
      segment_ids: segments

    class Columns(_Strict):
      input_ids: many(ids)
      input_mask: many(mask)
      segment_ids: many(segments)

    class IdsRow(_Strict):
      input_ids: ids

    class IdsColumns(_Strict):
      input_ids: many(ids)

    class TextRow(_Strict):
      """Either `text` or `b64`."""
      text: Union[string, Base64, msgspec.UnsetType] = UNSET
      b64: Union[str, msgspec.UnsetType] = UNSET

    class TextColumns(_Strict):
      text: many(string_or_bytes)

    # A single input may be given without its name.
    forms = {
        DEFAULT: (many(Row), Columns),
        IDS_ONLY: (many(Union[ids, IdsRow]), Union[many(ids), IdsColumns]),
        PREDICT_LABELS: (many(Row), Columns),
        TEXT: (many(Union[string, TextRow]),
               Union[many(string_or_bytes), TextColumns])}
    return {name: self._predict_type(name, *forms[name])
            for name in PREDICT_INPUTS}

  def _predict_type(self, name, instances, inputs):
    signature = Literal[name]
    return msgspec.defstruct(
        "Predict_" + name,
        [("signature_name", signature, DEFAULT) if name == DEFAULT else
         ("signature_name", signature),
         ("instances", Union[instances, msgspec.UnsetType], UNSET),
         ("inputs", Union[inputs, msgspec.UnsetType], UNSET)],
        bases=(_Strict,))

  def _classify_type(self):
    def numbers(size):
      # A feature with one number may be given without a list.
      return Union[Annotated[int, msgspec.Meta(ge=0, le=size - 1)],
                   self._numbers(size), msgspec.UnsetType]

    limits = self.limits

    class Example(_Strict):
      input_ids: numbers(limits.vocab_size) = UNSET
      input_mask: numbers(2) = UNSET
      segment_ids: numbers(limits.type_vocab_size) = UNSET

    class ClassifyBody(_Strict):
      examples: self._many(Example)
      context: Union[Example, msgspec.UnsetType] = UNSET
      signature_name: Literal[CLASSIFY] = CLASSIFY

    return ClassifyBody

  # The meaning of the bodies.

  def parse_predict(self, body):
    """Returns the `PredictRequest` of a `:predict` body (bytes).

    Raises:
      http_errors.Refused: status 400.
    """
    value = self._parse(body)
    signature = value.get("signature_name", DEFAULT)
    if signature == CLASSIFY:
      raise http_errors.bad_request(
          "signature_name: classify works with :classify, not with :predict.")
    if not isinstance(signature, str) or signature not in self.predict:
      raise http_errors.bad_request(
          "signature_name: expected one of %s." % ", ".join(self.predict))
    request = _convert(value, self.predict[signature], _hint(value, signature))
    rows = request.instances is not UNSET
    if rows == (request.inputs is not UNSET):
      raise http_errors.bad_request(
          "the body must have either instances or inputs.")
    if signature == TEXT:
      return PredictRequest(signature, rows, _texts(request, rows), None)
    columns = (_columns_of_rows(request.instances) if rows
               else _columns(request.inputs))
    return PredictRequest(signature, rows, None, self._features(columns))

  def parse_classify(self, body):
    """Returns the list of `Features` of a `:classify` body (bytes).

    Raises:
      http_errors.Refused: status 400.
    """
    request = _convert(self._parse(body), self.classify)
    features = []
    for number, example in enumerate(request.examples):
      where = "examples[%d]" % number
      cells = {}
      for name in FEATURES:
        value = getattr(example, name)
        common = (UNSET if request.context is UNSET
                  else getattr(request.context, name))
        if value is not UNSET and common is not UNSET:
          raise http_errors.bad_request("%s is in context and in %s." % (
              name, where))
        value = common if value is UNSET else value
        if value is not UNSET:
          cells[name] = ("%s.%s" % (where, name),
                         value if isinstance(value, list) else [value])
      if "input_ids" not in cells:
        raise http_errors.bad_request("%s has no input_ids." % where)
      # As in the signature of an export: all ids count unless a mask is given.
      cells.setdefault("input_mask",
                       (where, [1] * len(cells["input_ids"][1])))
      features.append(self._row(cells))
    return features

  def parse_label(self, body):
    """Returns the `LabelRequest` of a `/v1/label` body (bytes).

    Raises:
      http_errors.Refused: status 400.
    """
    request = _convert(self._parse(body), self.label)
    if (request.texts is UNSET) == (request.text is UNSET):
      raise http_errors.bad_request("the body must have either texts or text.")
    texts = [request.text] if request.texts is UNSET else request.texts
    return LabelRequest(
        [tuple(text) if isinstance(text, list) else text for text in texts],
        request.threshold, request.top_k, request.always_one_label,
        request.probabilities)

  def parse_explain(self, body, labels):
    """Returns (text, label or None) of a `/v1/explain` body (bytes).

    Raises:
      http_errors.Refused: status 400.
    """
    request = _convert(self._parse(body), self.explain)
    if request.label is not None and request.label not in labels:
      raise http_errors.bad_request("label: this model has no such label.")
    return request.text, request.label

  def _parse(self, body):
    # Nothing above needs more than 8 strings, 4 objects or lists, and 3 numbers
    # per position for each text.
    texts = self.limits.max_texts + 2
    return http_json.parse(body, http_json.Most(
        strings=8 * texts, containers=4 * texts,
        commas=3 * texts * (self.limits.max_position_embeddings + 2)))

  def _features(self, columns):
    """{name: [(where, list)]} to a list of `Features` of one length."""
    where, first = columns["input_ids"][0]
    for other, ids in columns["input_ids"]:
      if len(ids) != len(first):
        raise http_errors.bad_request(
            "%s has %d ids and the first has %d; all must have the same "
            "length, padded with 0." % (other, len(ids), len(first)))
    return [self._row({name: column[number]
                       for name, column in columns.items()})
            for number in range(len(columns["input_ids"]))]

  def _row(self, cells):
    """{name: (where, list)} of one text to `Features` without its padding.

    As in an export's signatures, a run of [CLS] at the end is not part of the
    text: it is how TensorFlow Serving pads.
    """
    where, input_ids = cells["input_ids"]
    mask_where, input_mask = cells.get(
        "input_mask", (where, [int(i != 0) for i in input_ids]))
    segment_where, segment_ids = cells.get(
        "segment_ids", (where, [0] * len(input_ids)))
    for other, value in ((mask_where, input_mask),
                         (segment_where, segment_ids)):
      if len(value) != len(input_ids):
        raise http_errors.bad_request(
            "%s has %d numbers and %s has %d; the lengths must be equal."
            % (other, len(value), where, len(input_ids)))
    end = len(input_ids)
    while end > 1 and input_ids[end - 1] == self.limits.cls_id:
      end -= 1
    while end and not input_mask[end - 1]:
      end -= 1
    if not end:
      raise http_errors.bad_request(
          "%s is 0 everywhere; a text needs at least one id." % mask_where)
    return Features(input_ids[:end], input_mask[:end], segment_ids[:end], [])


def _convert(value, kind, hint=""):
  """`value` as `kind`; Refused with the place of the mismatch."""
  try:
    return msgspec.convert(value, kind)
  except msgspec.ValidationError as error:
    what, _, place = str(error).replace("`", "").partition(" - at $.")
    raise http_errors.bad_request("%s: %s.%s" % (
        place or "the body", http_json.shown(what[:1].lower() + what[1:]),
        hint))


def _hint(value, signature):
  """The error for a client that sends texts to a signature of ids."""
  given = value.get("instances", value.get("inputs"))
  first = given[0] if isinstance(given, list) and given else None
  if signature != TEXT and isinstance(first, str):
    return ' Texts need "signature_name": "%s".' % TEXT
  return ""


def _columns_of_rows(instances):
  """Rows to {name: [(where, list)]}."""
  columns = collections.OrderedDict()
  for number, row in enumerate(instances):
    where = "instances[%d]" % number
    cells = ([("input_ids", where, row)] if isinstance(row, list) else
             [(name, "%s.%s" % (where, name), getattr(row, name))
              for name in row.__struct_fields__])
    for name, place, value in cells:
      columns.setdefault(name, []).append((place, value))
  return columns


def _columns(inputs):
  """Columns to {name: [(where, list)]}, all with as many rows."""
  if isinstance(inputs, list):
    return {"input_ids": [("inputs[%d]" % number, value)
                          for number, value in enumerate(inputs)]}
  columns = {name: [("inputs.%s[%d]" % (name, number), value)
                    for number, value in enumerate(getattr(inputs, name))]
             for name in inputs.__struct_fields__}
  for name, column in columns.items():
    if len(column) != len(columns["input_ids"]):
      raise http_errors.bad_request(
          "inputs.%s has %d rows and inputs.input_ids has %d." % (
              name, len(column), len(columns["input_ids"])))
  return columns


def _texts(request, rows):
  """The texts of a `:predict` with the signature `text`: list of str."""
  given, where = request.instances, "instances"
  if not rows:
    given, where = request.inputs, "inputs"
    if not isinstance(given, list):
      given, where = given.text, "inputs.text"
  return [_decoded(value, "%s[%d]" % (where, number))
          for number, value in enumerate(given)]


def _decoded(value, where):
  """A str, a row with its name, or Serving's {"b64": ...}, as str."""
  if isinstance(value, str):
    return value
  if getattr(value, "text", UNSET) is not UNSET:
    if value.b64 is not UNSET:
      raise http_errors.bad_request("%s has both text and b64." % where)
    return _decoded(value.text, where + ".text")
  if value.b64 is UNSET:
    raise http_errors.bad_request("%s has no text." % where)
  try:
    return base64.b64decode(value.b64, validate=True).decode("utf-8")
  except (ValueError, binascii.Error):
    raise http_errors.bad_request("%s.b64 must be UTF-8 in base 64." % where)
