# SPDX-License-Identifier: Apache-2.0
"""Writes safetensors files; see `safetensors_reader` for the format."""

import json
import struct

import numpy as np


def write(path, tensors):
  """Writes float32 tensors, in the given order.

  Args:
    path: str, a new file.
    tensors: dict from name to float32 array.

  Raises:
    ValueError: a tensor is not float32.
    OSError: the file cannot be written.
  """
  header, begin = {"__metadata__": {"format": "pt"}}, 0
  for name, value in tensors.items():
    if value.dtype != np.float32:
      raise ValueError("tensor %s is %s, not float32." % (name, value.dtype))
    header[name] = {"dtype": "F32", "shape": list(value.shape),
                    "data_offsets": [begin, begin + value.nbytes]}
    begin += value.nbytes
  data = json.dumps(header).encode("utf-8")
  data += b" " * (-len(data) % 8)  # so that the tensors are aligned
  with open(path, "wb") as writer:
    writer.write(struct.pack("<Q", len(data)))
    writer.write(data)
    for value in tensors.values():
      writer.write(np.ascontiguousarray(value, "<f4").tobytes())
