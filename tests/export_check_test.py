# SPDX-License-Identifier: Apache-2.0
"""Tests that an export which answers wrongly is found and not published."""

import os
import re

import numpy as np
import pytest
import tiny_model

import export_saved_model
from multilabel import decisions
from multilabel.export import export_check
import predict_session


RULE = decisions.DecisionRule(0.5)


def test_export_that_differs_is_not_published(tmp_path, monkeypatch):
  tiny_model.make(tmp_path / "model")
  export_dir = tmp_path / "export"
  (export_dir / "1").mkdir(parents=True)
  (export_dir / "1" / "saved_model.pb").write_bytes(b"old")
  predict = predict_session.SessionPredictor.predict_features
  monkeypatch.setattr(predict_session.SessionPredictor, "predict_features",
                      lambda self, rows: predict(self, rows) + 2e-6)
  with pytest.raises(RuntimeError) as raised:
    export_saved_model.export(
        str(tmp_path / "model"), str(export_dir), 2, keep_versions=1)
  assert re.match(r"signature serving_default differs from the predictor by "
                  r"[12]\.\S*e-06, more than 1e-06; nothing was written\.$",
                  str(raised.value))
  # The old one stays, though one version only was to be kept.
  assert os.listdir(str(export_dir)) == ["1"]


def outputs_of(**changes):
  """What `predict_labels` answers to two texts, with changes."""
  outputs = {
      "probabilities": [[0.25, 0.75], [0.5, 0.125]],
      "labels": [["b", "a"], ["a", "b"]],
      "scores": [[0.75, 0.25], [0.5, 0.125]],
      "above_threshold": [[True, False], [True, False]]}
  outputs.update(changes)
  return outputs


WANT = np.array([[0.25, 0.75], [0.5, 0.125]], np.float32)


@pytest.mark.parametrize("changes, message", [
    ({"labels": [["a", "b"], ["a", "b"]]}, "sorts its labels wrongly"),
    ({"scores": [[0.25, 0.75], [0.5, 0.125]]}, "sorts its labels wrongly"),
    ({"labels": [["a", "b"], ["a", "b"]],
      "scores": [[0.25, 0.75], [0.5, 0.125]]}, "sorts its labels wrongly"),
    ({"above_threshold": [[True, False], [False, False]]},
     "predicts other labels than the predictor"),
    ({"labels": [["b", "c"], ["a", "b"]]}, "returns other labels"),
    ({"labels": [["b", "b"], ["a", "b"]]}, "returns other labels"),
])
def test_named_answers_that_are_wrong(changes, message):
  compare = lambda outputs: export_check.compare(
      "predict_labels", outputs, ["a", "b"], RULE, WANT, 1e-6)
  assert compare(outputs_of()) == 0.0
  with pytest.raises(RuntimeError, match="signature predict_labels " + message):
    compare(outputs_of(**changes))


@pytest.mark.parametrize("rule, above", [
    (decisions.DecisionRule([0.25, 0.8]),
     [[False, True], [True, False]]),
    (decisions.DecisionRule(0.1, top_k=1),
     [[True, False], [True, False]]),
    (decisions.DecisionRule(0.6, always_one_label=True),
     [[True, False], [True, False]]),
])
def test_decisions(rule, above):
  outputs = outputs_of(above_threshold=above)
  assert export_check.compare(
      "text", outputs, ["a", "b"], rule, WANT, 1e-6) == 0.0
  outputs["above_threshold"] = [above[0], [not above[1][0], above[1][1]]]
  with pytest.raises(RuntimeError, match="predicts other labels"):
    export_check.compare("text", outputs, ["a", "b"], rule, WANT, 1e-6)


@pytest.mark.parametrize("outputs, message", [
    ({"scores": WANT.tolist(), "classes": [["a", "b"], ["b", "a"]]},
     "returns other labels"),
    ({"scores": [[0.25, float("nan")], [0.5, 0.125]],
      "classes": [["a", "b"]] * 2}, "differs from the predictor by nan"),
    ({"scores": [[0.25, 0.75], [0.5, 0.125 + 1e-5]],
      "classes": [["a", "b"]] * 2},
     "differs from the predictor by 1e-05, more than 1e-06; nothing was"),
])
def test_classes_that_are_wrong(outputs, message):
  with pytest.raises(RuntimeError, match=message):
    export_check.compare("classify", outputs, ["a", "b"], RULE, WANT, 1e-6)


def test_export_that_cannot_be_loaded(tmp_path):
  with export_check.Checker() as checker:
    with pytest.raises(RuntimeError, match="cannot be loaded; nothing was"):
      checker._ask(str(tmp_path), [])


def test_checker_that_is_not_asked_ends(tmp_path):
  with export_check.Checker() as checker:
    process = checker._process
  assert process.returncode is not None


def test_long_texts_are_asked_about(tmp_path):
  """With windows, the first and the last of a text are rows of ids."""
  tiny_model.make(tmp_path / "model", long_text="windows", stride=9)
  with predict_session.SessionPredictor(str(tmp_path / "model")) as predictor:
    expected = export_check.ask_predictor(predictor, 64)
    windows = predictor.encode(expected.texts[-1:])[0]
  assert len(windows) > 2
  assert len(expected.rows) == len(expected.texts) + 1
  for row, window in zip(expected.rows[-2:], (windows[0], windows[-1])):
    assert row.input_ids == window.input_ids
  # The shapes that the predictor runs: no shorter than the row.
  for row, batch in zip(expected.rows, expected.batches):
    size = len(row.input_ids)
    assert len(batch["input_ids"]) == 1
    assert batch["input_ids"][0, :size].tolist() == row.input_ids
    assert batch["input_mask"].sum() == size
  assert expected.of_texts.shape == (6, 3) and expected.of_rows.shape == (7, 3)
  np.testing.assert_allclose(expected.of_texts[:-1], expected.of_rows[:-2],
                             atol=1e-6)
  # Pooled, and no window's own.
  pooled = expected.of_texts[-1] - expected.of_rows[-2:].max(axis=0)
  assert (pooled > -1e-6).all() and (pooled > 1e-3).any()
