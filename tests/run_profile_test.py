# SPDX-License-Identifier: Apache-2.0
"""Tests of --profile: timelines of some runs, and the same results."""

import json
import os
import re

import numpy as np
import tiny_bert

import predict_session
import run_multilabel_classifier


def shares_of(path):
  """{kind of operation: share in percent} of a text file."""
  with open(str(path)) as reader:
    lines = reader.read().split("\n")
  assert lines[0] == "share, time in all threads, calls, operation"
  found = [re.match(r" *([\d.]+)% +([\d.]+) ms +(\d+) x  (\S+)$", line)
           for line in lines[1:] if line]
  return {match.group(4): float(match.group(1)) for match in found}


def test_training_and_prediction(bert, tmp_path):
  data = tiny_bert.make_data(tmp_path / "data", sizes=(24, 0, 0))
  traced, plain = tmp_path / "traced", tmp_path / "plain"
  for output_dir, flags in ((traced, {"profile": str(tmp_path / "profile")}),
                            (plain, {})):
    status, _, stderr, _ = tiny_bert.call(
        run_multilabel_classifier, tiny_bert.arguments(
            bert, data, output_dir, num_train_epochs=2, do_eval=False,
            do_predict=False, **flags))
    assert status == 0, stderr
  names = ["train-2", "train-5"]
  assert sorted(os.listdir(str(tmp_path / "profile"))) == sorted(
      name + suffix for name in names for suffix in (".json", ".txt"))
  for name in names:
    with open(str(tmp_path / "profile" / (name + ".json"))) as reader:
      events = json.load(reader)["traceEvents"]
    assert any(event.get("dur") and "MatMul" in event["name"]
               for event in events)
    shares = shares_of(tmp_path / "profile" / (name + ".txt"))
    assert any("MatMul" in kind for kind in shares)
    assert abs(sum(shares.values()) - 100) < 0.1 * len(shares)

  texts = ["the apple is a plum"] * 3
  with predict_session.SessionPredictor(
      str(traced), batch_size=1,
      profile_dir=str(tmp_path / "predicted")) as predictor:
    probabilities = predictor.predict(texts)
  assert sorted(os.listdir(str(tmp_path / "predicted"))) == [
      "predict-2.json", "predict-2.txt"]
  with predict_session.SessionPredictor(str(plain), batch_size=1) as predictor:
    np.testing.assert_array_equal(predictor.predict(texts), probabilities)
