# SPDX-License-Identifier: Apache-2.0
"""Targets: untrusted files of models."""

import struct

import numpy as np

from multilabel.storage import safetensors_reader
from robustness.fuzz import checks


_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2,
          "BF16": 2, "I16": 2, "U16": 2}


def read_safetensors(data):
  """The bytes are a file of weights."""
  path = checks.write("model.safetensors", data)
  try:
    tensors = safetensors_reader.SafetensorsFile(path)
  except ValueError as error:
    checks.check_sentence(error, path)
    return
  header, = struct.unpack("<Q", data[:8])
  total = 0
  for name, shape in tensors.shapes.items():
    begin, end = tensors._tensors[name][2:]  # pylint: disable=protected-access
    checks.expect(begin == total, "a gap or an overlap", name, begin, total)
    total = end
    dtype = tensors._tensors[name][0]  # pylint: disable=protected-access
    size = _SIZES.get(dtype, 1)
    for length in shape:
      size *= length
    checks.expect(size == end - begin, "another size", name, shape, end - begin)
    try:
      values = tensors.read(name)
    except ValueError as error:
      checks.check_sentence(error, path)
      continue
    checks.expect(values.shape == shape and values.dtype == np.float32,
                  "another tensor", values.shape, shape)
    checks.expect(np.isfinite(values).all(), "not finite", name)
    if dtype == "F32":
      start = 8 + header + begin
      checks.expect(values.tobytes() == data[start:start + end - begin],
                    "other bytes", name)
  checks.expect(8 + header + total == len(data), "bytes too many", total)


def read_config(data):
  """The first byte chooses the reader; the rest is the file."""
  # pylint: disable=g-import-not-at-top
  import modeling
  from multilabel import losses
  from multilabel.common import atomic_files
  from multilabel.storage import hf_config
  from processors import base
  import tokenization
  readers = (
      modeling.BertConfig.from_json_file,
      lambda path: hf_config.read_model(path).config,
      atomic_files.read_json, base.read_labels_file,
      lambda path: losses.read_pos_weight_file(path, ["a", "b"]),
      tokenization.validate_vocab)
  reader = readers[data[0] % len(readers)] if data else readers[0]
  path = checks.write("config.json", data[1:])
  try:
    value = reader(path)
  except ValueError as error:
    checks.check_sentence(error, path)
    return
  if isinstance(value, modeling.BertConfig):
    # What was accepted can be written, and is read again as the same.
    again = modeling.BertConfig.from_json_file(checks.write(
        "again.json", value.to_json_string().encode("utf-8")))
    checks.expect(again.to_dict() == value.to_dict(), "another configuration",
                  value.to_dict())
    checks.expect(
        value.hidden_size < 10 ** 7 and value.vocab_size < 10 ** 11 and
        value.num_hidden_layers <= 1000, "absurd sizes", value.to_dict())
  elif reader is base.read_labels_file:
    text = "".join(label + "\n" for label in value)
    checks.expect(value == base.read_labels_file(checks.write(
        "again.txt", text.encode("utf-8"))), "other labels", value)
  elif isinstance(value, list):
    checks.expect(len(value) == 2 and all(0 < weight < float("inf")
                                          for weight in value),
                  "no weights", value)
