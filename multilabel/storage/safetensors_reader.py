# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted safetensors files with numpy.

The format: 8 bytes, the length of the header as a little-endian unsigned
number; the header, a JSON object from tensor name to `dtype`, `shape` and
`data_offsets` (begin and end in bytes, counted from the end of the header);
then the tensors, little-endian, row by row, without a gap. The entire header is
checked against the size of the file before the first tensor is read.
"""

import os
import re
import struct

import numpy as np

from multilabel.common import atomic_files
from processors import strict_json
from processors.text_lines import shown

# BERT-Large's header has 40 kB. The format's own limit of 100 MB would let a
# header of empty lists become gigabytes of Python objects.
MAX_JSON_BYTES = 16 * 1024 * 1024

# Bytes per element, including types of unused tensors (position ids).
_ITEM_SIZES = {
    "BOOL": 1, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}
# Byte layout of the supported types.
_READ_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

_MAX_RANK = 32  # numpy's own limit
_MAX_DIGITS = 100  # tokenizer_config.json has 10**30 for "no limit"


def parse_json_object(data, where):
  """Parses untrusted JSON.

  Args:
    data: bytes, at most `MAX_JSON_BYTES` of them.
    where: str, the file (and part of it), for errors.

  Returns:
    dict.

  Raises:
    ValueError: it is too long, not UTF-8, not JSON, not an object, nested too
      deeply, or has a duplicate key or an absurdly long number.
  """
  if len(data) > MAX_JSON_BYTES:
    raise ValueError("%s is longer than %d bytes, too long for a BERT file; is "
                     "it the right file?" % (where, MAX_JSON_BYTES))
  try:
    return strict_json.read_object(data, _MAX_DIGITS)
  except strict_json.JsonError as error:
    raise ValueError("%s is not valid JSON: %s." % (where, error))


def load_json_object(path):
  """Reads a JSON file as `parse_json_object` does.

  Args:
    path: str.

  Returns:
    dict.

  Raises:
    ValueError: as `parse_json_object`, or the file cannot be read.
  """
  try:
    with atomic_files.open_regular(path) as reader:
      data = reader.read(MAX_JSON_BYTES + 1)
  except OSError as error:
    raise ValueError("%s cannot be read: %s." % (path, error.strerror))
  return parse_json_object(data, path)


class SafetensorsFile(object):
  """The tensors of one file; each is read from disk on demand.

  Attributes:
    path: str.
    shapes: dict from tensor name to tuple of int, in the order of the data.
  """

  def __init__(self, path):
    """Reads and checks the header.

    Args:
      path: str.

    Raises:
      ValueError: the file cannot be read, or does not exactly follow the
        format; names file, tensor and numbers.
    """
    self.path = path
    try:
      with atomic_files.open_regular(path) as reader:
        header, self._data_start, data_length = self._read_header(reader)
    except OSError as error:
      raise ValueError("%s cannot be read: %s." % (path, error.strerror))
    self._check_metadata(header.pop("__metadata__", {}))
    self._tensors = {}  # name -> (dtype, shape, begin, end)
    for name, entry in header.items():
      self._tensors[name] = self._check_entry(name, entry, data_length)
    order = self._check_layout(data_length)
    self.shapes = {name: self._tensors[name][1] for name in order}

  def read(self, name):
    """Reads one tensor.

    Args:
      name: str, a key of `shapes`.

    Returns:
      float32 array of the tensor's shape, with its own memory.

    Raises:
      ValueError: its type is not F32, F16 or BF16, it has NaN or infinite
        values, or the file has become shorter.
    """
    dtype, shape, begin, end = self._tensors[name]
    if dtype not in _READ_DTYPES:
      raise self._error(
          "tensor %s has the dtype %s; supported are F32, F16 and BF16",
          shown(name), dtype)
    try:
      with atomic_files.open_regular(self.path) as reader:
        reader.seek(self._data_start + begin)
        values = np.fromfile(reader, dtype=_READ_DTYPES[dtype],
                             count=(end - begin) // _ITEM_SIZES[dtype])
    except OSError as error:
      raise self._error("tensor %s cannot be read: %s", shown(name),
                        error.strerror)
    if values.nbytes != end - begin:
      raise self._error("tensor %s is truncated; the file changed while it was "
                        "read", shown(name))
    if dtype == "BF16":
      # bfloat16 is the upper half of a float32.
      values = (values.astype(np.uint32) << 16).view(np.float32)
    # Half precision cannot overflow in float32; an infinity was one before.
    values = values.astype(np.float32, copy=False).reshape(shape)
    if not np.isfinite(values).all():
      raise self._error("tensor %s holds NaN or infinity, so the model is "
                        "broken", shown(name))
    return values

  def _error(self, message, *args):
    return ValueError("%s: %s." % (self.path, message % args))

  def _read_header(self, reader):
    """Returns the header, the start of the data, and their size in bytes."""
    size = os.fstat(reader.fileno()).st_size
    if size < 8:
      raise self._error("the file has %d bytes, too few for a safetensors file",
                        size)
    start = reader.read(8)
    if start == b"version ":
      raise self._error("it is a pointer of Git LFS; fetch the file itself "
                        "with git lfs pull")
    length, = struct.unpack("<Q", start)
    if length > size - 8:
      raise self._error(
          "the header says it has %d bytes, but the file has %d; it is "
          "truncated or not a safetensors file", length, size)
    if length > MAX_JSON_BYTES:
      raise self._error(
          "the header has %d bytes; the maximum is %d", length, MAX_JSON_BYTES)
    data = reader.read(length)
    if data[:1] != b"{":
      raise self._error(
          "the header does not start with {; it is not a safetensors file")
    header = parse_json_object(data, self.path + ": the header")
    return header, 8 + length, size - 8 - length

  def _check_metadata(self, metadata):
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()):
      raise self._error("__metadata__ is not an object of strings")

  def _check_entry(self, name, entry, data_length):
    """Checks one tensor by itself; returns (dtype, shape, begin, end)."""
    if not isinstance(entry, dict) or set(entry) != {
        "dtype", "shape", "data_offsets"}:
      raise self._error("tensor %s must be described by dtype, shape and "
                        "data_offsets only", shown(name))
    dtype, shape, offsets = (
        entry["dtype"], entry["shape"], entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
      raise self._error("tensor %s has the unknown dtype %s", shown(name),
                        shown(dtype))
    if not _are_sizes(shape) or len(shape) > _MAX_RANK:
      raise self._error("tensor %s has shape %s; it must be a list of at most "
                        "%d sizes", shown(name), shown(shape), _MAX_RANK)
    if not _are_sizes(offsets) or len(offsets) != 2:
      raise self._error("tensor %s has data_offsets %s; it must be two "
                        "positions", shown(name), shown(offsets))
    begin, end = offsets
    if not begin <= end <= data_length:
      raise self._error(
          "tensor %s is at bytes %d to %d, but there are only %d; the file is "
          "truncated or broken", shown(name), begin, end, data_length)
    needed = _ITEM_SIZES[dtype]
    for size in shape:
      needed *= size  # Python's numbers do not overflow
    if end - begin != needed:
      raise self._error(
          "tensor %s has %d bytes of data, but %s of shape %s needs %d",
          shown(name), end - begin, dtype, shown(shape), needed)
    return dtype, tuple(shape), begin, end

  def _check_layout(self, data_length):
    """Checks that tensors cover the data once; returns their names in order."""
    order = sorted(self._tensors, key=lambda name: self._tensors[name][2:])
    covered = 0
    for name in order:
      _, _, begin, end = self._tensors[name]
      if begin != covered:
        raise self._error(
            "tensor %s starts at byte %d of the data, %s", shown(name), begin,
            "inside another tensor" if begin < covered else
            "after a gap of %d bytes" % (begin - covered))
      covered = end
    if covered != data_length:
      raise self._error("%d bytes follow the last tensor; the file is broken",
                        data_length - covered)
    return order


def _are_sizes(values):
  # True and 1.0 equal 1; neither is a size.
  return isinstance(values, list) and all(
      type(value) is int and 0 <= value < 2**63 for value in values)


def open_directory(directory):
  """Opens the weights of a Hugging Face directory, in one file or in shards.

  Args:
    directory: str.

  Returns:
    dict from tensor name to the `SafetensorsFile` that has it.

  Raises:
    ValueError: there are no safetensors files, or they are broken.
  """
  path = os.path.join(directory, "model.safetensors")
  if os.path.lexists(path):
    tensors = SafetensorsFile(path)
    return {name: tensors for name in tensors.shapes}
  index = path + ".index.json"
  if os.path.lexists(index):
    return _open_shards(directory, index)
  pickles = sorted(name for name in os.listdir(directory)
                   if re.match(r"pytorch_model.*\.bin$", name))
  if pickles:
    raise ValueError(
        "%s has no model.safetensors; %s is not opened, because unpickling can "
        "run arbitrary code: if you trust it, save it again with transformers, "
        "BertModel.from_pretrained(\"%s\").save_pretrained(NEW, "
        "safe_serialization=True), copy vocab.txt to NEW, and convert NEW." % (
            directory, pickles[0], directory))
  raise ValueError("%s has no model.safetensors." % directory)


def _open_shards(directory, index):
  """`open_directory` for a model in several files, listed in `index`."""
  weight_map = load_json_object(index).get("weight_map")
  if not isinstance(weight_map, dict):
    raise ValueError("%s has no weight_map." % index)
  weights = {}
  for shard in weight_map.values():
    # Only a file name: the list must not lead out of the folder.
    if not isinstance(shard, str) or not re.fullmatch(
        r"[\w.-]+\.safetensors", shard, re.ASCII):
      raise ValueError("%s lists the file %s, which is not a safetensors file "
                       "beside it." % (index, shown(shard)))
  for shard in sorted(set(weight_map.values())):
    tensors = SafetensorsFile(os.path.join(directory, shard))
    for name in tensors.shapes:
      if weight_map.get(name) != shard:
        raise ValueError("%s has the tensor %s, which %s does not list." % (
            tensors.path, shown(name), index))
      weights[name] = tensors
  for name in weight_map:
    if name not in weights:
      raise ValueError("%s lists the tensor %s, which %s does not have." % (
          index, shown(name), shown(weight_map[name])))
  return weights
