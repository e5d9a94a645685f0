# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/pytorch_reference.py; most need torch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_bert

from experiments import prediction_files
from experiments import pytorch_reference


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_head_bias():
  labels = np.array([[1, 0], [0, 0], [0, 0], [0, 0]])
  # 1 of 4; none of 4 counts as half an example.
  np.testing.assert_allclose(
      pytorch_reference.head_bias(labels, True), np.log([1 / 3, 0.5 / 3.5]))
  assert pytorch_reference.head_bias(labels, False).tolist() == [0, 0]


def test_flags_are_checked(tmp_path):
  flags = ["--data_dir=x", "--hf_dir=%s" % tmp_path]
  status, _, err, _ = tiny_bert.call(pytorch_reference, flags)
  assert status == 2 and "--output_dir must be given" in err
  status, _, err, _ = tiny_bert.call(
      pytorch_reference, flags + ["--output_dir=y"])
  assert status == 2 and "there is no %s" % tmp_path in err


def tiny_model(folder, transformers):
  words = ["red", "blue", "the", "a", "car", "sky"]
  (folder / "vocab.txt").write_text(
      "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + words))
  config = transformers.BertConfig(
      vocab_size=11, hidden_size=16, num_hidden_layers=1,
      num_attention_heads=2, intermediate_size=32, max_position_embeddings=32)
  transformers.BertModel(config).save_pretrained(str(folder))


def write_data(folder):
  folder.mkdir()
  for part, size in (("train", 80), ("dev", 20), ("test", 20)):
    rng = np.random.RandomState(len(part))
    lines = []
    for i in range(size):
      labels = [label for label in ("red", "blue") if rng.rand() < 0.5]
      lines.append(json.dumps({
          "id": "%s-%d" % (part, i), "labels": labels,
          "text": " ".join(labels + ["the", "car"][:rng.randint(3)])}) + "\n")
    (folder / (part + ".jsonl")).write_text("".join(lines))


def test_it_learns_and_writes_predictions(tmp_path):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("tokenizers")
  (tmp_path / "hf").mkdir()
  tiny_model(tmp_path / "hf", transformers)
  write_data(tmp_path / "data")
  command = [
      sys.executable, "-m", "experiments.pytorch_reference", "--pooling=mean",
      "--data_dir=%s" % (tmp_path / "data"), "--hf_dir=%s" % (tmp_path / "hf"),
      "--output_dir=%s" % (tmp_path / "out"), "--learning_rate=1e-2",
      "--train_batch_size=8", "--num_train_epochs=8", "--seeds=2",
      "--init_bias_from_prior", "--threads=1"]
  out = subprocess.check_output(command, cwd=ROOT).decode("utf-8")
  assert out.startswith("2 seeds")
  for seed in (42, 43):
    found = prediction_files.read(
        str(tmp_path / "out" / ("seed-%d" % seed) / "test_predictions.jsonl"))
    assert found.ids[0] == "test-0"
    assert (found.predicted == found.true).mean() > 0.9
  assert subprocess.check_output(command, cwd=ROOT).decode("utf-8") == out
  status = subprocess.call(command + ["--num_train_epochs=1"], cwd=ROOT,
                           stderr=subprocess.DEVNULL)
  assert status == 2


def test_groups_and_padding():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  bert = transformers.BertModel(transformers.BertConfig(
      vocab_size=11, hidden_size=16, num_hidden_layers=1,
      num_attention_heads=2, intermediate_size=32), add_pooling_layer=False)
  model = pytorch_reference.make_model(bert, 2, "mean", [0.0, 1.0])
  groups = pytorch_reference.parameter_groups(model, 1e-3, 1e-2)
  assert [(group["lr"], group["weight_decay"]) for group in groups] == [
      (1e-3, 0.01), (1e-3, 0.0), (1e-2, 0.01), (1e-2, 0.0)]
  assert [len(group["params"]) for group in groups[2:]] == [1, 1]
  assert sum(len(group["params"]) for group in groups) == len(
      list(model.parameters()))
  input_ids, mask = pytorch_reference.pad([[2, 5, 3], [2, 3]])
  assert input_ids.tolist() == [[2, 5, 3], [2, 3, 0]]
  assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
  # Padding does not change what a text gets.
  model.eval()
  with torch.no_grad():
    alone = model(*pytorch_reference.pad([[2, 3]]))
    np.testing.assert_allclose(model(input_ids, mask)[1], alone[0], atol=1e-5)
