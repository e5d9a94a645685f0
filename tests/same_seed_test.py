# SPDX-License-Identifier: Apache-2.0
"""The same seed gives the same weights on one machine, another one others."""

import os

import pytest
import tiny_bert

import modeling
import run_multilabel_classifier


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """{name: output_dir} of three runs: two alike, one with another seed."""
  folder = tmp_path_factory.mktemp("runs")
  bert = tiny_bert.make_bert(folder / "bert", num_hidden_layers=1)
  data = tiny_bert.make_data(folder / "data", sizes=(40, 12, 8))
  found = {}
  for name, seed in (("one", 7), ("two", 7), ("other", 8)):
    found[name] = str(folder / name)
    call(bert, data, found[name], seed)
  return dict(found, bert=bert, data=data)


def call(bert, data, output_dir, seed):
  """Trains, or finds the run finished; returns the lines of the log."""
  status, _, stderr, log = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output_dir, num_train_epochs=2, random_seed=seed,
          do_eval=True, do_predict=True, eval_steps=0))
  assert status == 0, stderr[-2000:]
  return log


def weights(output_dir):
  return {name: value.tobytes() for name, value in tiny_bert.read_weights(
      os.path.join(output_dir, "model.ckpt-10")).items()}


def content(output_dir, name):
  with open(os.path.join(output_dir, name), "rb") as reader:
    return reader.read()


def test_the_same_seed_gives_the_same_weights_bit_for_bit(runs):
  one, two = weights(runs["one"]), weights(runs["two"])
  assert len(one) > 40 and "output_weights/adam_m" in one
  assert one == two


@pytest.mark.parametrize("name", [
    "eval_results.txt", "eval_predictions.jsonl", "test_results.tsv",
    "test_predictions.jsonl"])
def test_the_same_seed_gives_the_same_results(runs, name):
  assert content(runs["one"], name) == content(runs["two"], name)


def test_another_seed_gives_other_weights(runs):
  one, other = weights(runs["one"]), weights(runs["other"])
  assert set(one) == set(other)
  assert one["output_weights"] != other["output_weights"]
  assert content(runs["one"], "test_results.tsv") != content(
      runs["other"], "test_results.tsv")


def test_a_run_of_other_masks_is_told_so(runs, monkeypatch):
  arguments = runs["bert"], runs["data"], runs["two"], 7
  assert "dropout masks" not in "".join(call(*arguments))
  monkeypatch.setattr(modeling, "DROPOUT_BITS", 12)
  assert "another version of this program" in "".join(call(*arguments))
