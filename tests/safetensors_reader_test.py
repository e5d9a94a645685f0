# SPDX-License-Identifier: Apache-2.0
"""Tests of safetensors_reader.py on files written here, byte by byte."""

import json
import os
import struct

import numpy as np
import pytest

from multilabel.storage import safetensors_reader


DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64",
          "float64": "F64"}


def pack(header, data=b""):
  """Bytes of a safetensors file; `header` is JSON text or an object."""
  if not isinstance(header, bytes):
    header = json.dumps(header).encode("utf-8")
  return struct.pack("<Q", len(header)) + header + data


def save(path, tensors, metadata=None):
  """Writes a safetensors file; uint16 arrays are the bits of bfloat16."""
  header, data = {}, b""
  if metadata is not None:
    header["__metadata__"] = metadata
  for name, value in tensors.items():
    header[name] = {
        "dtype": DTYPES[str(value.dtype)], "shape": list(value.shape),
        "data_offsets": [len(data), len(data) + value.nbytes]}
    data += value.tobytes()
  with open(str(path), "wb") as writer:
    writer.write(pack(header, data))


# Right files.


def test_element_types(tmp_path):
  path = tmp_path / "a.safetensors"
  # float32 3.1415927 is 0x40490fdb, so bfloat16 0x4049 is 3.140625.
  save(path, {
      "b": np.array([[0x3f80, 0xc049, 0x0001, 0x8000]], np.uint16),
      "h": np.array([0.5, -65504, 6e-8], np.float16),
      "f": np.array([1e-45, 3e38], np.float32),
      "empty": np.zeros([3, 0], np.float32),
      "scalar": np.array(2.5, np.float32)})
  tensors = safetensors_reader.SafetensorsFile(str(path))
  np.testing.assert_array_equal(
      tensors.read("b"), np.float32([[1, -3.140625, 2.0 ** -133, -0.0]]))
  np.testing.assert_array_equal(
      tensors.read("h"), np.float32([0.5, -65504, 2.0 ** -24]))
  np.testing.assert_array_equal(
      tensors.read("f"), np.float32([1e-45, 3e38]))
  assert tensors.read("empty").shape == (3, 0)
  assert tensors.read("scalar").shape == ()
  assert tensors.read("b").dtype == np.float32


def test_header_padded_with_spaces_is_right(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_bytes(pack(json.dumps({"a": entry()}).encode() + b"   ",
                        struct.pack("<2f", 1.5, -2)))
  np.testing.assert_array_equal(
      safetensors_reader.SafetensorsFile(str(path)).read("a"), [1.5, -2])


# Broken files.


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = b"\0" * 8
BROKEN = {
    "empty": (b"", "0 bytes"),
    "seven_bytes": (b"\0" * 7, "7 bytes"),
    "header_beyond_file": (struct.pack("<Q", 500) + b"{}", "500"),
    "header_huge": (struct.pack("<Q", 2 ** 64 - 1) + b"{}", str(2 ** 64 - 1)),
    "header_negative": (struct.pack("<q", -2) + b"{}", str(2 ** 64 - 2)),
    "header_empty": (pack(b""), "does not start with {"),
    "header_list": (pack(b"[]"), "does not start with {"),
    "header_space": (pack(b" {}"), "does not start with {"),
    "not_json": (pack(b"{abc"), "not valid JSON"),
    "json_then_more": (pack(b"{}{}"), "not valid JSON"),
    "not_utf8": (pack(b'{"\xff": 1}'), "not valid JSON"),
    "deep": (pack(b'{"a":' + b"[" * 200000), "nested too deep"),
    "long_number": (pack(b'{"a":' + b"9" * 100000 + b"}"), "100000 digits"),
    "nan": (pack(b'{"a": NaN}'), "NaN"),
    "duplicate": (pack(
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        b' "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        EIGHT), "key 'a' stands twice"),
    "duplicate_key": (pack(
        b'{"a": {"dtype": "F32", "shape": [2], "shape": [2],'
        b' "data_offsets": [0, 8]}}', EIGHT), "key 'shape' stands twice"),
    "entry_is_list": (pack({"a": []}), "'a'"),
    "entry_is_null": (pack({"a": None}), "'a'"),
    "no_shape": (pack({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, EIGHT),
                 "described by dtype, shape and data_offsets"),
    "extra_key": (pack({"a": dict(entry(), stride=[1])}, EIGHT),
                  "described by dtype, shape and data_offsets"),
    "unknown_dtype": (pack({"a": entry("F128")}, EIGHT), "dtype 'F128'"),
    "list_dtype": (pack({"a": entry(["F32"])}, EIGHT), "dtype ['F32']"),
    "shape_number": (pack({"a": entry(shape=2)}, EIGHT), "shape 2"),
    "shape_null": (pack({"a": entry(shape=None)}, EIGHT), "shape None"),
    "shape_negative": (pack({"a": entry(shape=[-1, -2])}, EIGHT),
                       "shape [-1, -2]"),
    "shape_bool": (pack({"a": entry(shape=[2, True])}, EIGHT),
                   "shape [2, True]"),
    "shape_float": (pack({"a": entry(shape=[2.0])}, EIGHT), "shape [2.0]"),
    "shape_text": (pack({"a": entry(shape=["2"])}, EIGHT), "shape ['2']"),
    "shape_nested": (pack({"a": entry(shape=[[2]])}, EIGHT), "shape [[2]]"),
    "shape_of_33": (pack({"a": entry(shape=[2] + [1] * 32)}, EIGHT),
                    "at most 32 sizes"),
    # 2**62 * 4 bytes are 0 in 64-bit arithmetic.
    "shape_overflows": (pack({"a": entry(shape=[2 ** 62], offsets=[0, 0])}),
                        "needs %d" % 2 ** 64),
    "shape_overflows_to_8": (
        pack({"a": entry(shape=[2 ** 31, 2 ** 31 + 1])}, EIGHT), "needs"),
    "shape_absurd": (pack({"a": entry(shape=[0, 2 ** 63], offsets=[0, 0])}),
                     "shape [0, 9223372036854775808]"),
    "size_too_small": (pack({"a": entry(shape=[1])}, EIGHT), "needs 4"),
    "size_too_large": (pack({"a": entry(shape=[3])}, EIGHT), "needs 12"),
    "size_of_other_dtype": (pack({"a": entry("F16")}, EIGHT), "needs 4"),
    "offsets_number": (pack({"a": entry(offsets=8)}, EIGHT),
                       "data_offsets 8"),
    "offsets_one": (pack({"a": entry(offsets=[0])}, EIGHT),
                    "data_offsets [0]"),
    "offsets_three": (pack({"a": entry(offsets=[0, 8, 8])}, EIGHT),
                      "data_offsets [0, 8, 8]"),
    "offsets_bool": (pack({"a": entry(offsets=[False, 8])}, EIGHT),
                     "data_offsets [False, 8]"),
    "offsets_float": (pack({"a": entry(offsets=[0, 8.0])}, EIGHT),
                      "data_offsets [0, 8.0]"),
    "offsets_negative": (pack({"a": entry(offsets=[-8, 0])}, EIGHT),
                         "data_offsets [-8, 0]"),
    "offsets_backwards": (pack({"a": entry(offsets=[8, 0])}, EIGHT),
                          "bytes 8 to 0"),
    "offsets_huge": (pack({"a": entry(offsets=[0, 2 ** 80])}, EIGHT),
                     "two positions"),
    "beyond_file": (pack({"a": entry(offsets=[8, 16])}, EIGHT),
                    "bytes 8 to 16"),
    "cut_off": (pack({"a": entry()}, EIGHT[:7]), "there are only 7"),
    "trailing": (pack({"a": entry()}, EIGHT + b"x"),
                 "1 bytes follow the last tensor"),
    "only_trailing": (pack({}, b"x"), "1 bytes follow"),
    "gap": (pack({"a": entry(), "b": entry(offsets=[12, 20])}, b"\0" * 20),
            "after a gap of 4 bytes"),
    "gap_at_start": (pack({"a": entry(offsets=[4, 12])}, b"\0" * 12),
                     "after a gap of 4 bytes"),
    "overlap": (pack({"a": entry(), "b": entry(offsets=[4, 12])}, b"\0" * 12),
                "inside another tensor"),
    "same_place": (pack({"a": entry(), "b": entry()}, EIGHT),
                   "inside another tensor"),
    "metadata_list": (pack({"__metadata__": []}), "__metadata__"),
    "metadata_number": (pack({"__metadata__": {"a": 1}}), "__metadata__"),
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_safetensors(tmp_path, case):
  data, words = BROKEN[case]
  path = tmp_path / "model.safetensors"
  path.write_bytes(data)
  with pytest.raises(ValueError) as error:
    safetensors_reader.SafetensorsFile(str(path))
  message = str(error.value)
  assert str(path) in message and words in message
  assert "\n" not in message and len(message) < 600 + len(str(path))


def test_header_of_100_mb(tmp_path):
  path = tmp_path / "model.safetensors"
  with open(str(path), "wb") as writer:  # sparse: takes no room on the disk
    writer.write(struct.pack("<Q", 100 * 10 ** 6 + 1) + b"{")
    writer.truncate(200 * 10 ** 6)
  with pytest.raises(ValueError, match="the header has 100000001 bytes"):
    safetensors_reader.SafetensorsFile(str(path))


@pytest.mark.parametrize("name", ["", "\ud800", "a\nb", "x" * 10 ** 6])
def test_strange_names_stay_on_one_short_line(tmp_path, name):
  path = tmp_path / "model.safetensors"
  path.write_bytes(pack({name: entry("?")}))
  with pytest.raises(ValueError) as error:
    safetensors_reader.SafetensorsFile(str(path))
  str(error.value).encode("ascii")
  assert len(str(error.value).splitlines()) == 1
  assert len(str(error.value)) < 300 + len(str(path))


def test_a_pointer_in_place_of_the_file(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
                   b"size 5\n")
  with pytest.raises(ValueError, match="git lfs pull"):
    safetensors_reader.SafetensorsFile(str(path))


def test_no_file_and_not_a_file(tmp_path):
  with pytest.raises(ValueError, match="No such file"):
    safetensors_reader.SafetensorsFile(str(tmp_path / "a"))
  with pytest.raises(ValueError, match="not a regular file"):
    safetensors_reader.SafetensorsFile(str(tmp_path))
  os.mkfifo(str(tmp_path / "pipe"))
  with pytest.raises(ValueError, match="not a regular file"):
    safetensors_reader.SafetensorsFile(str(tmp_path / "pipe"))


def test_file_that_shrinks_after_the_check(tmp_path):
  path = tmp_path / "model.safetensors"
  save(path, {"a": np.ones([4], np.float32)})
  tensors = safetensors_reader.SafetensorsFile(str(path))
  os.truncate(str(path), os.path.getsize(str(path)) - 2)
  with pytest.raises(ValueError, match="truncated"):
    tensors.read("a")


def test_random_damage_is_an_error_or_harmless(tmp_path):
  path = tmp_path / "model.safetensors"
  save(path, {"a": np.ones([2, 3], np.float32), "b": np.ones([2], np.float16),
              "c": np.arange(3)}, {"format": "pt"})
  good = path.read_bytes()
  rng = np.random.RandomState(5)
  refused = 0
  for _ in range(800):
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
      kind, where = rng.randint(4), rng.randint(len(data))
      if kind == 0:
        data[where] = rng.randint(256)
      elif kind == 1:
        data[where] = ord(rng.choice(list('0123456789{}[]",:-.eE')))
      elif kind == 2:
        del data[where:where + rng.randint(1, 9)]
      else:
        data[where:where] = data[where:where + rng.randint(1, 9)]
      if not data:
        break
    path.write_bytes(bytes(data))
    try:
      tensors = safetensors_reader.SafetensorsFile(str(path))
      for name, shape in tensors.shapes.items():
        if name != "c":
          assert tensors.read(name).shape == shape
    except ValueError as error:
      assert len(str(error).splitlines()) == 1
      refused += 1
  assert refused > 500
