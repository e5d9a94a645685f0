# SPDX-License-Identifier: Apache-2.0
"""Tests of recipes/: each flag file trains a tiny BERT as it stands."""

import glob
import json
import os

import pytest
import tiny_bert

import predict_session
import run_multilabel_classifier


FOLDER = os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), "recipes")
RECIPES = sorted(glob.glob(os.path.join(FOLDER, "*.txt")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (32, 20, 12))


def test_there_are_five():
  assert [os.path.basename(path) for path in RECIPES] == [
      "bert_base_english.txt", "chinese.txt", "long_texts.txt",
      "many_labels.txt", "sentence_encoder.txt"]


@pytest.mark.parametrize("path", RECIPES, ids=os.path.basename)
def test_recipe(path, data, tmp_path):
  """Its flags decide: what a small BERT cannot have is all that is changed."""
  bert = tiny_bert.make_bert(tmp_path / "bert", num_hidden_layers=1)
  places = {name: value for name, value in (
      flag[2:].partition("=")[::2] for flag in tiny_bert.arguments(
          bert, data, str(tmp_path / "out"))) if name in (
              "bert_config_file", "vocab_file", "init_checkpoint", "data_dir",
              "output_dir", "task_name")}
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, ["--flagfile=" + path] + tiny_bert.flag_list(
          dict(places, max_seq_length=16, num_train_epochs=1, do_predict=True,
               report=False)))
  assert (status, stderr) == (0, "")
  with open(str(tmp_path / "out" / "model_settings.json")) as reader:
    settings = json.load(reader)
  wanted = dict(line.strip().lstrip("-").partition("=")[::2] for line in
                tiny_bert.read_text(path).splitlines()
                if line.startswith("--"))
  assert settings["calibration"]["kind"] == wanted["calibrate"]
  assert settings["threshold_kind"] == wanted["threshold"]
  assert settings["run"]["learning_rate"] == float(wanted["learning_rate"])
  with predict_session.SessionPredictor(str(tmp_path / "out")) as predictor:
    assert predictor.predict([u"the apple " * 20]).shape == (1, 3)
