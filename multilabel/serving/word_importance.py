# SPDX-License-Identifier: Apache-2.0
"""How much each word of a text contributes to one label, as a response."""

from multilabel.reporting import words as text_words


def explain(predict, text, label, labels, max_words):
  """Computes the weights of words by leaving them out.

  Args:
    predict: function of list of str to float32 `[n, num_labels]`.
    text: str.
    label: str, one of `labels`; None: the most probable one.
    labels: list of str.
    max_words: int; in a text with more words, neighbors are grouped.

  Returns:
    dict: `label`, its `probability`, and `words`, dicts of `start` and `end`
    in characters of the text, and `weight` in log-odds, positive if the word is
    for the label.
  """
  rows = []

  def predict_and_keep(texts):
    rows.extend(predict(texts))
    return rows

  words = text_words.occlusion_weights(predict_and_keep, text, max_words)
  whole = rows[0]
  number = int(whole.argmax()) if label is None else labels.index(label)
  return {
      "label": labels[number],
      "probability": float("%.9g" % whole[number]),
      "words": [{"start": word.start, "end": word.end,
                 "weight": round(float(word.weight[number]), 4)}
                for word in words],
  }
