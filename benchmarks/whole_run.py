# SPDX-License-Identifier: Apache-2.0
"""Data and score of the whole training run, for the peers that need them."""

import collections
import io
import json
import os

import numpy as np


Part = collections.namedtuple("Part", ["texts", "labels"])


class Data(dict):
  """{part: `Part`}; `names` are the labels, `parts` the keys."""

  def __init__(self, names):
    super(Data, self).__init__()
    self.names = names
    self.parts = ("train", "dev")


def read(data_dir):
  """Reads train.jsonl, dev.jsonl and labels.txt."""
  with io.open(os.path.join(data_dir, "labels.txt"),
               encoding="utf-8") as lines:
    data = Data([line.strip() for line in lines if line.strip()])
  number = {name: i for i, name in enumerate(data.names)}
  for part in data.parts:
    with io.open(os.path.join(data_dir, part + ".jsonl"),
                 encoding="utf-8") as lines:
      rows = [json.loads(line) for line in lines]
    labels = np.zeros([len(rows), len(data.names)], np.float32)
    for i, row in enumerate(rows):
      labels[i, [number[name] for name in row["labels"]]] = 1
    data[part] = Part([row["text"] for row in rows], labels)
  return data


def batches(count, batch_size, epochs):
  """Numbers of the examples of each step, shuffled every epoch."""
  rng, plan = np.random.RandomState(1), []
  for _ in range(epochs):
    order = rng.permutation(count)
    plan += [order[start:start + batch_size]
             for start in range(0, count, batch_size)]
  return plan


def micro_f1(logits, labels):
  """Micro-F1 at probability 0.5."""
  found, true = logits >= 0, labels > 0.5
  both = float(np.sum(found & true))
  total = float(np.sum(found) + np.sum(true))
  return 2 * both / total if total else 0.0
