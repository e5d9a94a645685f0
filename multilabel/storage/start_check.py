# SPDX-License-Identifier: Apache-2.0
"""Checks the files beside a checkpoint, which give its weights meaning.

Weights fit a graph by names and shapes alone. Shapes do not show that the words
have other ids, that the heads are split differently, or that the label head was
trained on another sentence vector; the files beside the checkpoint do.
"""

import os

from absl import logging
import tensorflow.compat.v1 as tf

import modeling
from multilabel.common import atomic_files
from multilabel.storage import run_lock
from multilabel.storage import model_settings
import tokenization

# Keys that affect the computation, but no shapes.
_KEYS = ("num_attention_heads", "hidden_act", "gelu_approximate",
         "layer_norm_eps")


def check_neighbours(init_checkpoint, bert_config, vocab_file, pooling,
                     head_plan=None):
  """Compares a run with the files beside its initial checkpoint.

  Args:
    init_checkpoint: str, checkpoint prefix, or its folder.
    bert_config: `modeling.BertConfig` of the run.
    vocab_file: str, the run's vocabulary.
    pooling: str, the run's.
    head_plan: `label_head.HeadPlan`, or None.

  Raises:
    ValueError: the weights would have another meaning in the run.
  """
  folder = (init_checkpoint if os.path.isdir(init_checkpoint) else
            os.path.dirname(init_checkpoint))
  _check_vocab(os.path.join(folder, model_settings.VOCAB_FILE), vocab_file,
               init_checkpoint)
  _check_config(os.path.join(folder, model_settings.BERT_CONFIG_FILE),
                bert_config, init_checkpoint)
  if head_plan is not None and head_plan.kept:
    _check_pooling(os.path.join(folder, run_lock.SETTINGS_FILE), pooling)


def _check_vocab(there, here, init_checkpoint):
  if not os.path.isfile(there) or tf.io.gfile.exists(here) and (
      atomic_files.file_sha256(there) == atomic_files.file_sha256(here)):
    return
  own, given = tokenization.load_vocab(there), tokenization.load_vocab(here)
  moved = [token for token in own if given.get(token) != own[token]]
  if not moved:
    return
  words = ("%d of the %d tokens of %s, beside init_checkpoint %s, have a "
           "different id in vocab_file %s, or none (%s)" % (
               len(moved), len(own), there, init_checkpoint, here,
               ", ".join("%.40r" % token for token in moved[:3])))
  if len(moved) > len(own) / 2:
    raise ValueError(words + "; give the vocabulary that the checkpoint was "
                     "trained with.")
  logging.warning("%s: their embeddings would be those of other words.", words)


def _check_config(path, bert_config, init_checkpoint):
  if not os.path.isfile(path):
    return
  own = modeling.BertConfig.from_json_file(path)
  for key in _KEYS:
    there, here = getattr(own, key), getattr(bert_config, key)
    if there != here:
      raise ValueError(
          "bert_config_file has %s %s, but %s, beside init_checkpoint %s, has "
          "%s: the weights would give different results; use that "
          "file." % (key, here, path, init_checkpoint, there))


def _check_pooling(path, pooling):
  if not os.path.isfile(path):
    return
  there = atomic_files.read_json(path).get("pooling")
  if there not in (None, pooling):
    raise ValueError(
        "the label head that this run starts from was trained with "
        "--pooling=%s (according to %s), but the run has --pooling=%s: use the "
        "former, or --init_head=new." % (there, path, pooling))
