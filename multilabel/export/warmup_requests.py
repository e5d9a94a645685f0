# SPDX-License-Identifier: Apache-2.0
"""`tf_serving_warmup_requests`: requests a server runs before all others.

A TFRecord file of `PredictionLog` messages. Their definitions come with
tensorflow-serving-api; to avoid that dependency, they are written and read
field by field in protobuf's wire format. The numbers come from prediction_log,
predict, classification, model and input.proto of `tensorflow_serving/apis`:

  PredictionLog { ClassifyLog classify_log = 2; PredictLog predict_log = 6; }
  PredictLog, ClassifyLog { request = 1; }
  PredictRequest { ModelSpec model_spec = 1;
                   map<string, TensorProto> inputs = 2; }
  ClassificationRequest { ModelSpec model_spec = 1; Input input = 2; }
  ModelSpec { string signature_name = 3; }
  Input { ExampleList example_list = 1; }
  ExampleList { repeated Example examples = 1; }
"""

import numpy as np
import tensorflow.compat.v1 as tf


FILE_NAME = "tf_serving_warmup_requests"
FOLDER = "assets.extra"
# A server rejects a file with more.
MAX_RECORDS = 1000

# TensorFlow has no public name for it.
_TensorProto = type(tf.make_tensor_proto(0))

_CLASSIFY_LOG = 2
_PREDICT_LOG = 6
_BYTES = 2  # wire type of strings and messages
_FIXED_SIZES = {1: 8, 5: 4}


def predict_log(signature_name, inputs):
  """Returns a serialized `PredictionLog` of a predict request.

  Args:
    signature_name: str.
    inputs: dict from input name to numpy array; bytes in an object array.
  """
  request = _field(1, _field(3, signature_name.encode("utf-8")))
  for name in sorted(inputs):
    tensor = tf.make_tensor_proto(inputs[name])
    request += _field(2, _field(1, name.encode("utf-8")) +
                      _field(2, tensor.SerializeToString()))
  return _field(_PREDICT_LOG, _field(1, request))


def classify_log(signature_name, examples):
  """Returns a serialized `PredictionLog` of a classification request.

  Args:
    signature_name: str.
    examples: list of bytes, serialized `tf.Example`s.
  """
  example_list = b"".join(_field(1, example) for example in examples)
  request = (_field(1, _field(3, signature_name.encode("utf-8"))) +
             _field(2, _field(1, example_list)))
  return _field(_CLASSIFY_LOG, _field(1, request))


def write(path, logs):
  """Writes serialized `PredictionLog`s as TFRecords."""
  with tf.io.TFRecordWriter(path) as writer:
    for log in logs:
      writer.write(log)


def read(path):
  """Reads a file of warm-up requests.

  Args:
    path: str.

  Returns:
    list of (signature name, {input name: numpy array}); a classification
    request has the one input "inputs".

  Raises:
    ValueError: the file is broken, or contains another kind of request.
  """
  requests = []
  try:
    for record in tf.io.tf_record_iterator(path):
      requests.append(_parse(record))
  except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
        "%s: record %d is not a predict or classify request: %s" % (
        path, len(requests), " ".join(str(error).split())[:200]))
  return requests


def _parse(record):
  (kind, log), = _fields(record)
  (_, request), = [field for field in _fields(log) if field[0] == 1]
  fields = _fields(request)
  spec = dict(_fields(dict(fields)[1]))
  signature_name = spec.get(3, b"serving_default").decode("utf-8")
  if kind == _CLASSIFY_LOG:
    example_list = dict(_fields(dict(fields)[2]))[1]
    examples = [value for _, value in _fields(example_list)]
    return signature_name, {"inputs": np.array(examples, object)}
  if kind != _PREDICT_LOG:
    raise ValueError("its log type is %d." % kind)
  inputs = {}
  for number, value in fields:
    if number == 2:
      entry = dict(_fields(value))
      inputs[entry[1].decode("utf-8")] = tf.make_ndarray(
          _TensorProto.FromString(entry[2]))
  return signature_name, inputs


def _field(number, payload):
  """A field of bytes: key, length, payload."""
  return _varint(number << 3 | _BYTES) + _varint(len(payload)) + payload


def _varint(value):
  groups = bytearray()
  while value > 0x7F:
    groups.append(value & 0x7F | 0x80)
    value >>= 7
  groups.append(value)
  return bytes(groups)


def _fields(data):
  """[(number, value)] of a message: bytes, or int for a varint."""
  fields, position = [], 0
  while position < len(data):
    key, position = _read_varint(data, position)
    number, wire_type = key >> 3, key & 7
    if wire_type == 0:
      value, position = _read_varint(data, position)
    else:
      if wire_type == _BYTES:
        size, position = _read_varint(data, position)
      elif wire_type in _FIXED_SIZES:
        size = _FIXED_SIZES[wire_type]
      else:
        raise ValueError("wire type %d is not valid in proto3." % wire_type)
      value = data[position:position + size]
      if len(value) != size:
        raise ValueError("a field is truncated.")
      position += size
    fields.append((number, value))
  return fields


def _read_varint(data, position):
  value = shift = 0
  while True:
    if position >= len(data) or shift > 63:
      raise ValueError("a number is truncated.")
    value |= (data[position] & 0x7F) << shift
    shift += 7
    position += 1
    if not data[position - 1] & 0x80:
      return value, position
