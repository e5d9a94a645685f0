# SPDX-License-Identifier: Apache-2.0
"""Writes predictions of other models in the format of test_predictions.jsonl.

So that `compare_runs` can set them beside a run of this project.
"""

import collections
import json

from multilabel.common import atomic_files



def shown_text(text_a, text_b=None):
  """The text of an example, or of a pair, as files of predictions have it."""
  return text_a if text_b is None else text_a + " ||| " + text_b


def write(path, ids, texts, label_names, predicted, true, probabilities):
  """Writes a file of predictions, atomically.

  Args:
    path: str.
    ids: list of N str.
    texts: list of N str, as `shown_text` makes them.
    label_names: list of L str.
    predicted: bool [N, L].
    true: bool [N, L].
    probabilities: float [N, L] in 0..1.
  """
  lines = []
  for i, (name, text) in enumerate(zip(ids, texts)):
    lines.append(json.dumps(collections.OrderedDict([
        ("id", name), ("text", text),
        ("labels", [label for label, is_on in zip(label_names, predicted[i])
                    if is_on]),
        ("true_labels", [label for label, is_on in zip(label_names, true[i])
                         if is_on]),
        ("probabilities", collections.OrderedDict(
            (label, round(float(value), 6))
            for label, value in zip(label_names, probabilities[i])))]),
                            ensure_ascii=False) + "\n")
  text = "".join(lines)
  # A lone surrogate, which JSON can bring into a text, is not UTF-8.
  atomic_files.write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
