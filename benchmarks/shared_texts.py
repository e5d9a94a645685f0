# SPDX-License-Identifier: Apache-2.0
"""Texts and labels that every peer gets; needs nothing but numpy."""

import io
import json
import os

import numpy as np

from benchmarks import work_items


def load_texts(job):
  """[(text, tokens)] of a job."""
  with io.open(os.path.join(job["work_dir"], "texts.json"),
               encoding="utf-8") as reader:
    return json.load(reader)[job["texts"]][:job["count"]]


def training_labels(count):
  """float32 `[count, NUM_LABELS]`, the same for every peer."""
  return (np.random.RandomState(5).uniform(
      size=(count, work_items.NUM_LABELS)) < 0.1).astype(np.float32)
