# SPDX-License-Identifier: Apache-2.0
"""Tests of --ema_decay: the averages, who uses them, and exact resume."""

import json
import os

import numpy as np
import pytest
import tiny_bert

from multilabel.storage import checkpoint_choice
import predict_session
import run_multilabel_classifier


DECAY = 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (40, 20, 12))


def call(bert, data, output_dir, **flags):
  return tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, str(output_dir), **dict({
              "ema_decay": DECAY, "save_checkpoints_steps": 1,
              "keep_checkpoint_max": 0, "random_seed": 3}, **flags)))


def train(*args, **flags):
  """Ten steps; the weights of each checkpoint by step."""
  status, _, stderr, _ = call(*args, **flags)
  assert (status, stderr) == (0, "")
  return read(args[-1])


def read(output_dir):
  return {step: tiny_bert.read_weights(os.path.join(
      str(output_dir), "model.ckpt-%d" % step)) for step in range(1, 11)
          if os.path.exists(os.path.join(
              str(output_dir), "model.ckpt-%d.index" % step))}


@pytest.fixture(scope="module")
def run(bert, data, tmp_path_factory):
  """(output_dir, weights by step) of a run that evaluates on its way."""
  output_dir = str(tmp_path_factory.mktemp("run"))
  return output_dir, train(bert, data, output_dir, do_eval=True, eval_steps=5,
                           do_predict=True)


def averaged(weights):
  return [name[:-len("/unaveraged")] for name in weights
          if name.endswith("/unaveraged")]


def test_averages_equal_numpy(run, bert):
  """By the formula from the weights of each step, in float64."""
  weights = run[1]
  start = tiny_bert.read_weights(os.path.join(bert, "bert_model.ckpt"))
  assert set(averaged(weights[1])) >= set(
      name for name in weights[1] if name + "/adam_m" in weights[1])
  for name in averaged(weights[1]):
    average = start.get(name)
    for step in range(1, 11):
      now = weights[step][name + "/unaveraged"].astype(np.float64)
      t = step - 1
      decay = min(DECAY, (1 + t) / (10 + t))
      if average is not None:
        expected = decay * average + (1 - decay) * now
        np.testing.assert_allclose(weights[step][name], expected, rtol=1e-5,
                                   atol=1e-7, err_msg=name)
      average = weights[step][name].astype(np.float64)


def test_training_is_the_same_with_it(run, bert, data, tmp_path):
  plain = train(bert, data, tmp_path / "plain", ema_decay=0)
  assert not averaged(plain[10])
  for name, value in plain[10].items():
    suffix = "/unaveraged" if name in averaged(run[1][10]) else ""
    assert value.tobytes() == run[1][10][name + suffix].tobytes(), name
  assert plain[10]["output_weights"].tobytes() != (
      run[1][10]["output_weights"].tobytes())


def test_evaluation_and_prediction_are_of_the_averages(run, data):
  """On the way, at the end, and in a process that knows of no training."""
  output_dir, _ = run
  with open(os.path.join(output_dir, "best_checkpoint.json")) as reader:
    best = json.load(reader)
  at_best = [values for values in best["evaluations"]
             if values["step"] == best["step"]][0]
  results = dict(line.rpartition(" = ")[::2] for line in tiny_bert.read_text(
      os.path.join(output_dir, "eval_results.txt")).splitlines())
  assert float(results["loss"]) == pytest.approx(at_best["loss"], rel=1e-6)
  rows = [json.loads(line) for line in tiny_bert.read_text(
      os.path.join(data, "test.jsonl")).splitlines()]
  table = np.array([[float(cell) for cell in line.split("\t")] for line in
                    tiny_bert.read_text(os.path.join(
                        output_dir, "test_results.tsv")).splitlines()])
  with predict_session.SessionPredictor(output_dir) as predictor:
    np.testing.assert_allclose(
        predictor.predict([row["text"] for row in rows]), table, rtol=1e-6)


@pytest.mark.parametrize("flags", [
    pytest.param({"gradient_accumulation_steps": 2, "freeze_layers": 0},
                 marks=pytest.mark.slow),
    {"recompute_layers": True, "skip_nonfinite": 2}])
def test_a_killed_run_goes_on_to_equal_bits(flags, bert, data, tmp_path):
  found = tiny_bert.check_goes_on_to_equal_bits(
      lambda folder: call(bert, data, folder, save_checkpoints_steps=3,
                          **flags)[0], tmp_path)
  assert averaged(found)
  if "freeze_layers" in flags:
    assert not any("embeddings" in name for name in averaged(found))


def test_a_run_from_its_directory_starts_from_the_averages(run, bert, data,
                                                           tmp_path):
  """As --init_checkpoint; the other weights are not used, which is no news."""
  output_dir, weights = run
  status, _, stderr, log = call(
      bert, data, tmp_path / "next", init_checkpoint=os.path.join(
          output_dir, "model.ckpt-10"), learning_rate=1e-30, ema_decay=0)
  assert (status, stderr) == (0, "")
  assert "unaveraged" not in "".join(log)
  found = tiny_bert.read_weights(checkpoint_choice.latest_checkpoint(
      str(tmp_path / "next")))
  name = "bert/encoder/layer_0/output/dense/kernel"
  np.testing.assert_allclose(found[name], weights[10][name], rtol=1e-6)


@pytest.mark.parametrize("flags, words", [
    ({"ema_decay": 1.0}, "--ema_decay is 1.0; it must be at least 0 and below "
                         "1"),
    ({"ema_decay": -0.1}, "--ema_decay is -0.1"),
    ({"distribution": "mirrored", "num_devices": 2},
     "--ema_decay cannot be combined with several devices")])
def test_what_is_refused(flags, words, bert, data, tmp_path):
  status, _, stderr, _ = call(bert, data, tmp_path / "out", **flags)
  assert status == 2 and words in stderr and stderr.count("\n") == 1


def test_another_decay_is_another_run(run, bert, data):
  status, _, stderr, _ = call(bert, data, run[0], ema_decay=0.9)
  assert status == 2 and "ema_decay (there 0.5, here 0.9)" in stderr
