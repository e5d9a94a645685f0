# SPDX-License-Identifier: Apache-2.0
"""A tiny BERT, small learnable data, and the flags of a short run."""

import io
import json
import os
import random

import numpy as np


LABELS = ("sun", "rain", "wind")
_WORDS = {"sun": ("bright", "warm", "noon"), "rain": ("wet", "drops", "cloud"),
          "wind": ("gust", "leaves", "storm")}
_FILLERS = ("a", "the", "day", "with", "and", "it", "was", "some")

_CONFIG = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 8, "initializer_range": 0.02,
    "intermediate_size": 16, "max_position_embeddings": 24,
    "num_attention_heads": 2, "num_hidden_layers": 1, "type_vocab_size": 2}

# 10 texts in batches of 4, 4 epochs: 12 steps.
SIZES = (("train", 10), ("dev", 6), ("test", 3))
SAVE_STEPS = 5
EVAL_STEPS = 4
STEPS_PER_EPOCH = 3
LAST_STEP = 12


def vocabulary():
  """Tokens of vocab.txt, list of str."""
  return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [
      word for label in LABELS for word in _WORDS[label]] + list(_FILLERS)


def make(folder, seed=1):
  """Writes data/ and bert/ below a folder.

  Args:
    folder: str, made if it is missing.
    seed: int; another seed, other texts and weights of the same shapes.
  """
  data, bert = os.path.join(folder, "data"), os.path.join(folder, "bert")
  os.makedirs(data)
  os.makedirs(bert)
  rng = random.Random(seed)
  for part, size in SIZES:
    _write(os.path.join(data, part + ".jsonl"), u"".join(
        json.dumps(_example(rng, part, number)) + u"\n"
        for number in range(size)))
  _write(os.path.join(data, "labels.txt"),
         u"".join(label + u"\n" for label in LABELS))
  tokens = vocabulary()
  _write(os.path.join(bert, "vocab.txt"),
         u"".join(token + u"\n" for token in tokens))
  _write(os.path.join(bert, "bert_config.json"),
         json.dumps(dict(_CONFIG, vocab_size=len(tokens))))
  return folder


def _example(rng, part, number):
  labels = [label for label in LABELS if rng.random() < 0.5]
  words = [rng.choice(_WORDS[label]) for label in labels for _ in range(2)]
  words += [rng.choice(_FILLERS) for _ in range(rng.randint(1, 8))]
  rng.shuffle(words)
  row = {"id": "%s-%d" % (part, number), "text": u" ".join(words)}
  if part != "test":
    row["labels"] = labels
  return row


def texts(number=5, seed=7):
  """Texts to predict, list of str."""
  rng = random.Random(seed)
  return [_example(rng, "test", i)["text"] for i in range(number)]


def requests():
  """Bodies of REST requests to an export, for the same texts: list of dict."""
  ids = {token: number for number, token in enumerate(vocabulary())}
  rows = [[ids["[CLS]"]] + [ids[word] for word in text.split()[:10]] +
          [ids["[SEP]"]] for text in texts()]
  longest = max(len(row) for row in rows)
  instances = [{
      "input_ids": row + [0] * (longest - len(row)),
      "input_mask": [1] * len(row) + [0] * (longest - len(row)),
      "segment_ids": [0] * longest} for row in rows]
  return [{"signature_name": name, "instances": instances}
          for name in ("serving_default", "predict_labels")]


def training_flags(world, output_dir, **changes):
  """The command line of the training: list of str.

  Args:
    world: str, folder of `make`.
    output_dir: str.
    **changes: other flags; None leaves one out.
  """
  settings = {
      "task_name": "jsonl", "data_dir": os.path.join(world, "data"),
      "bert_config_file": os.path.join(world, "bert", "bert_config.json"),
      "vocab_file": os.path.join(world, "bert", "vocab.txt"),
      "output_dir": output_dir, "do_train": "true", "do_eval": "true",
      "do_predict": "true", "max_seq_length": 12, "train_batch_size": 4,
      "num_train_epochs": 4, "eval_steps": EVAL_STEPS,
      "learning_rate": 0.02, "pooling": "mean",
      "save_checkpoints_steps": SAVE_STEPS, "keep_checkpoint_max": 2,
      "log_steps": 3, "threshold": "tune_per_label", "report": "false",
      "random_seed": 11}
  settings.update(changes)
  return ["--%s=%s" % (name, settings[name]) for name in sorted(settings)
          if settings[name] is not None]


def export_flags(output_dir, export_dir):
  """The command line of the export: list of str."""
  return ["--model_dir=" + output_dir, "--export_dir=" + export_dir]


def read_weights(checkpoint):
  """{name: numpy array} of a checkpoint, its step and slots included."""
  import tensorflow.compat.v1 as tf  # pylint: disable=g-import-not-at-top
  reader = tf.train.load_checkpoint(checkpoint)
  return {name: np.asarray(reader.get_tensor(name))
          for name in reader.get_variable_to_shape_map()}


def _write(path, text):
  with io.open(path, "w", encoding="utf-8", newline="\n") as writer:
    writer.write(text)
