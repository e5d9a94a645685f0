# SPDX-License-Identifier: Apache-2.0
"""Tests of multilabel/storage/label_head.py and checkpoint_names.py."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from multilabel.storage import checkpoint_names
from multilabel.storage import label_head

HEAD = {"output_weights": [3, 2], "output_bias": [3], "bert/x": [1]}
WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
BIAS = np.array([-1, -2, -3], np.float32)


def plan(tmp_path, labels, there=("a", "b", "c"), init_head=None, shapes=None):
  if there is not None:
    (tmp_path / "labels.txt").write_text("".join(l + "\n" for l in there))
  return label_head.plan(str(tmp_path / "model.ckpt-5"), shapes or HEAD,
                         list(labels), init_head)


@pytest.mark.parametrize("labels, rows, words", [
    ("abc", [0, 1, 2], ["3 of 3 labels"]),
    ("cab", [2, 0, 1], ["3 of 3 labels"]),
    ("axbc", [0, -1, 1, 2], ["3 of 4 labels", "newly initialized: x"]),
    ("cx", [2, -1], ["1 of 2 labels", "newly initialized: x",
                     "not used: a, b"]),
    ("xy", [-1, -1], ["0 of 2 labels", "newly initialized: x, y",
                      "not used: a, b, c"]),
])
def test_rows_by_name(tmp_path, labels, rows, words):
  found = plan(tmp_path, labels)
  assert found.rows == rows
  assert len(found.lines) == len(words)
  for line, part in zip(found.lines, words):
    assert part in line


def test_new_keep_and_no_head(tmp_path):
  assert plan(tmp_path, "abc", init_head="new").rows == [-1, -1, -1]
  assert plan(tmp_path, "wxyz", None, "new").kept == 0
  assert plan(tmp_path, "abc", shapes={"bert/x": [1]}) is None
  kept = plan(tmp_path, "abc", init_head="keep")
  assert kept.rows == [0, 1, 2] and len(kept.lines) == 1
  renamed = plan(tmp_path, "axc", init_head="keep")
  assert renamed.rows == [0, 1, 2]
  assert "row 1 is 'b' there and 'x' here" in renamed.lines[1]


def test_a_head_without_names(tmp_path):
  assert plan(tmp_path, "abc", None, "keep").rows == [0, 1, 2]
  with pytest.raises(ValueError) as error:
    plan(tmp_path, "abc", None)
  assert ("or --init_head=keep if they are the labels of this run" in
          str(error.value))
  with pytest.raises(ValueError) as error:
    plan(tmp_path, "abcd", None)
  assert "--init_head=new for a new head." in str(error.value)
  assert "keep" not in str(error.value)


@pytest.mark.parametrize("labels, there, init_head, shapes, words", [
    ("abcd", "abc", "keep", HEAD, "has 3 rows and this run has 4 labels"),
    ("abc", "ab", None, HEAD, "has 2 labels, but the label head of the "
                              "checkpoint beside it has 3 rows"),
    ("abc", "abc", "keep", {"bert/x": [1]}, "has no label head"),
    ("abc", "abc", None, dict(HEAD, output_bias=[4]),
        "do not form a label head"),
    ("abc", "abc", None, dict(HEAD, output_weights=[]),
        "do not form a label head"),
])
def test_heads_that_do_not_fit(tmp_path, labels, there, init_head, shapes,
                               words):
  with pytest.raises(ValueError) as error:
    plan(tmp_path, labels, there, init_head, shapes)
  assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("use_resource", [False, True])
def test_initializers(tmp_path, use_resource):
  checkpoint = str(tmp_path / "model.ckpt-5")
  with tf.Graph().as_default(), tf.Session() as session:
    session.run(tf.raw_ops.SaveV2(
        prefix=checkpoint, tensor_names=["output_weights", "output_bias"],
        shape_and_slices=["", ""],
        tensors=[tf.constant(WEIGHTS), tf.constant(BIAS)]))
  found = plan(tmp_path, "cxa")
  with tf.Graph().as_default(), tf.Session() as session:
    variables = [
        tf.get_variable(
            "output_weights", [3, 2], use_resource=use_resource,
            initializer=label_head.initializer(
                found, "output_weights",
                tf.truncated_normal_initializer(stddev=0.02))),
        tf.get_variable(
            "output_bias", [3], use_resource=use_resource,
            initializer=label_head.initializer(
                found, "output_bias", tf.constant_initializer([7, 8, 9])))]
    session.run(tf.global_variables_initializer())
    weights, bias = session.run(variables)
  np.testing.assert_array_equal(weights[[0, 2]], WEIGHTS[[2, 0]])
  assert 0 < np.abs(weights[1]).max() <= 0.04
  # A new label has its prior, the others keep what was learnt.
  np.testing.assert_array_equal(bias, [-3, 8, -1])
  fresh = tf.zeros_initializer()
  assert label_head.initializer(None, "output_bias", fresh) is fresh


NEEDED = ["bert/embeddings/word_embeddings", "bert/encoder/layer_0/x"]


@pytest.mark.parametrize("prefix", [
    "bert/", "", "module/", "model/", "module/bert/", "model/module/bert/",
    "electra/", "module/electra/"])
def test_beginnings_that_are_mapped(prefix):
  # ELECTRA's own release has its generator in it as well.
  names = [prefix + name[len("bert/"):] for name in NEEDED] + [
      "global_step", "generator/embeddings/word_embeddings"]
  assert checkpoint_names.find_prefix(names, NEEDED) == prefix


@pytest.mark.parametrize("names", [
    [], ["global_step"],
    ["teacher/" + name for name in NEEDED],  # nobody knows whose it is
    ["module/embeddings/word_embeddings"],  # the rest is not there
    ["module/" + n[5:] for n in NEEDED] + ["model/" + n[5:] for n in NEEDED],
])
def test_beginnings_that_are_not(names):
  assert checkpoint_names.find_prefix(names, NEEDED) == "bert/"


@pytest.mark.parametrize("names, words", [
    (["a/b/c", "a/b/d", "e/f", "step"],
     "the names of its 4 tensors start with a/b/ (2), e/ (1), step (1)"),
    (["_CHECKPOINTABLE_OBJECT_GRAPH"], "object-based TensorFlow 2 checkpoint"),
    (["model/layer-1/kernel/.ATTRIBUTES/VARIABLE_VALUE"],
     "object-based TensorFlow 2 checkpoint"),
    (["bert/encoder/transformer/group_0/inner_group_0/ffn_1/x"], "an ALBERT"),
    (["a%d/x" % i for i in range(9)], "start with a0/ (1), a1/ (1), a2/ (1), "
     "a3/ (1), a4/ (1), ..."),
    (["x\ny"], "start with x\\ny (1)"),
])
def test_what_is_there(names, words):
  assert words in checkpoint_names.describe(names)


def test_layers():
  assert checkpoint_names.count_layers(
      ["bert/encoder/layer_%d/%s" % (i, x) for i in range(11) for x in "ab"] +
      ["layer_x/y", "player_12/z"]) == 11
