# SPDX-License-Identifier: Apache-2.0
"""Shards made over Beam are the one file that the run would write.

Skipped where apache-beam is not installed; an environment that has it:

  python3 tests/run.py --extra=beam tests/make_features_test.py
"""

import glob
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf


pytest.importorskip("apache_beam", reason="needs the extra beam")

# pylint: disable=g-import-not-at-top
import tiny_bert

from multilabel.common import atomic_files
import run_multilabel_classifier
from scale import beam_features
from scale import make_features


def run(module, *arguments):
  status, _, stderr, log = tiny_bert.call(module, *arguments)
  return status, stderr, log


def test_shards_are_what_the_run_writes(bert, tmp_path, monkeypatch):
  monkeypatch.setattr(beam_features, "CHUNK", 5)
  data = tiny_bert.make_data(tmp_path / "data", (61, 20, 5))
  settings = {"num_train_epochs": 1, "long_text": "windows", "stride": 4,
              "max_seq_length": 10, "max_train_examples": 53, "do_eval": True,
              "eval_steps": 0}
  one, other = str(tmp_path / "one"), str(tmp_path / "other")
  arguments = tiny_bert.arguments(bert, data, other, **settings)
  shards = arguments + ["--num_shards=3"]
  status, stderr, _ = run(make_features, shards)
  assert status == 0, stderr
  assert "73 examples" in stderr
  status, stderr, log = run(run_multilabel_classifier, arguments)
  assert status == 0, stderr
  assert sum("found in" in line for line in log) == 2
  status, stderr, _ = run(run_multilabel_classifier, tiny_bert.arguments(
      bert, data, one, **settings))
  assert status == 0, stderr

  for part in ("train", "dev"):
    path = os.path.join(other, part + ".tf_record")
    names = ["%s-%05d-of-00003" % (path, number) for number in range(3)]
    assert sorted(glob.glob(path + "*-of-*3")) == names
    whole = os.path.join(one, part + ".tf_record")
    # TFRecord files have no header: one behind the other they are one.
    assert b"".join(open(name, "rb").read() for name in names) == open(
        whole, "rb").read()
    manifests = [atomic_files.read_sealed(name + ".json") for name in names]
    written = atomic_files.read_sealed(whole + ".json")
    assert {manifest["fingerprint"] for manifest in manifests} == {
        written["fingerprint"]}
    for key in ("num_examples", "num_records", "num_truncated", "num_empty"):
      assert sum(manifest[key] for manifest in manifests) == written[key]
  weights = [tiny_bert.read_weights(tf.train.latest_checkpoint(folder))
             for folder in (one, other)]
  for name in weights[0]:
    np.testing.assert_array_equal(weights[0][name], weights[1][name])


def test_what_was_stopped_goes_on_and_what_is_other_is_refused(bert, tmp_path):
  data = tiny_bert.make_data(tmp_path / "data", (30, 5, 5))
  output_dir = str(tmp_path / "out")
  arguments = tiny_bert.arguments(bert, data, output_dir) + ["--num_shards=3"]
  assert run(make_features, arguments)[0] == 0
  path = os.path.join(output_dir, "train.tf_record-00001-of-00003")
  before = open(path, "rb").read()
  times = {name: os.stat(name).st_mtime_ns for name in glob.glob(
      output_dir + "/train.tf_record-0000[02]*")}
  os.remove(path + ".json")  # as if it had been stopped amid it
  status, stderr, log = run(make_features, arguments)
  assert status == 0, stderr
  assert "Features of train: 1 of 3 shards to build" in log
  assert open(path, "rb").read() == before
  assert times == {name: os.stat(name).st_mtime_ns for name in times}
  status, stderr, log = run(make_features, arguments)
  assert status == 0 and "Features of train: 0 of 3 shards to build" in log

  for other, message in (
      (["--num_shards=2"], "with another number of shards"),
      (["--max_seq_length=9"], "was made from other data or settings"),
      (["--num_shards=31"], "--num_shards is 31, but train has 30 examples"),
      (["--num_shards=0"], "it must be from 1 to 99999")):
    status, stderr, _ = run(make_features, arguments + other)
    assert status == 2 and message in stderr, stderr
  assert open(path, "rb").read() == before


def test_a_file_that_is_there_whole_is_refused(bert, tmp_path):
  data = tiny_bert.make_data(tmp_path / "data", (30, 5, 5))
  output_dir = tmp_path / "out"
  output_dir.mkdir()
  (output_dir / "train.tf_record").write_bytes(b"")
  status, stderr, _ = run(make_features, tiny_bert.arguments(
      bert, data, str(output_dir)))
  assert status == 2 and "already exists and is complete" in stderr
