# SPDX-License-Identifier: Apache-2.0
"""500 texts on which everything that answers must give the same.

The predictor, each signature of an export in all its forms, ONNX and the HTTP
server are compared on them, with a model of `tiny_model`.
"""

import random

import tiny_bert


_PIECES = (u"caf\u00e9", u"APPLE", u"\u732b\u72d7", u"\U0001f600",
           u"\U0001f469\u200d\U0001f680", u"\u4f60\u597d\uff0c",
           u"Stra\u00dfe", u"\u0391\u03a3", u"pear,plum", u"\t", u"x" * 210,
           u"a\u0301", u"the", u"")


def make():
  """Returns list of 500 str, the same at each call.

  Known and unknown words, Chinese, emoji and their sequences, accents, white
  space, no word at all, and texts of up to some hundred tokens.
  """
  rng = random.Random(12)
  texts = [row["text"] for row in tiny_bert.make_rows(400, 11)]
  for _ in range(100):
    texts.append(u" ".join(rng.choice(_PIECES) for _ in range(
        rng.choice([0, 1, 2, 5, 40, 120]))))
  return texts
