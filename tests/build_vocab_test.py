# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/build_vocab.py."""

import collections
import os
import random
import subprocess
import sys

import pytest
import tiny_bert

from experiments import build_vocab
import tokenization


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_vocabulary_by_hand():
  # low x5, lower x2, new x3, with single spaces: characters first, by count.
  texts = ["low low low low low", "lower lower new new new"]
  vocabulary = build_vocab.build(texts, vocab_size=100, min_frequency=3)
  assert vocabulary[:5] == SPECIAL
  # ##w 7 + 3, l 7, ##o 7, then 3 each; ##r and r are seen twice, so no piece:
  # "lower" is not cut up any more, and does not count for pairs.
  assert vocabulary[5:10] == ["##w", "##o", "l", "##e", "n"]
  # (##o, ##w) and (l, ##o) 5 each: the first in order; then what is left.
  assert vocabulary[10:] == ["##ow", "low", "##ew", "new"]


def test_merging_is_that_of_the_plain_algorithm():
  rng = random.Random(3)
  def word():
    return "".join(rng.choice("abcd") for _ in range(rng.randint(1, 7)))

  texts = [" ".join(word() for _ in range(40)) for _ in range(30)]
  vocabulary = build_vocab.build(texts, vocab_size=200, min_frequency=2)
  words = collections.Counter(" ".join(texts).split())
  splits = {word: [word[0]] + ["##" + c for c in word[1:]] for word in words}
  expected = []
  while len(expected) + 13 < 200:
    pairs = collections.Counter()
    for word, pieces in splits.items():
      for pair in zip(pieces, pieces[1:]):
        pairs[pair] += words[word]
    if not pairs:
      break
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))
    if pairs[best] < 2:
      break
    piece = best[0] + best[1][2:]
    if piece not in expected:
      expected.append(piece)
    for word, pieces in splits.items():
      out = []
      while pieces:
        size = 2 if tuple(pieces[:2]) == best else 1
        out.append(piece if size == 2 else pieces[0])
        pieces = pieces[size:]
      splits[word] = out
  assert len(vocabulary) == 200
  assert vocabulary[13:] == expected


def test_chinese_characters_are_words():
  vocabulary = build_vocab.build([u"\u6570\u636e\u5e93\u6570\u636e python",
                                  u"\u6570\u636e python"], 100, 2)
  assert u"\u6570" in vocabulary
  assert "python" in vocabulary
  # Seen once.
  assert u"\u5e93" not in vocabulary
  assert not [piece for piece in vocabulary if u"\u6570\u636e" in piece]


def test_tokenizer_uses_it(tmp_path):
  path = str(tmp_path / "vocab.txt")
  texts = [u"\u732b and dogs", u"dogs and \u732b"]
  tiny_bert.write_text(path, "".join(
      piece + "\n" for piece in build_vocab.build(texts, 100, 2)))
  tokenizer = tokenization.FullTokenizer(path, do_lower_case=True)
  assert tokenizer.tokenize(u"DOGS \u732b \u72d7") == [
      "dogs", u"\u732b", "[UNK]"]
  assert tokenizer.convert_tokens_to_ids(["[PAD]"]) == [0]


def test_case_is_kept_if_asked():
  assert "A" in build_vocab.build(["A A a"], 50, 2, do_lower_case=False)
  assert "A" not in build_vocab.build(["A A a"], 50, 2)


def test_too_small():
  with pytest.raises(ValueError, match="--vocab_size is 6.* need 8"):
    build_vocab.build(["a b c"], vocab_size=6, min_frequency=1)
  with pytest.raises(ValueError, match="no character occurs 2 times"):
    build_vocab.build(["a b c"], vocab_size=60, min_frequency=2)


def test_program(tmp_path):
  data = tiny_bert.make_data(tmp_path / "data", sizes=(20, 5, 5))
  digests = set()
  for seed in ("1", "2"):
    output = tmp_path / ("out%s" % seed) / "vocab.txt"
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.build_vocab", "--data_dir=" + data,
         "--output_file=%s" % output, "--vocab_size=60"], cwd=tiny_bert.ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONHASHSEED=seed))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"pieces from 20 texts" in out
    digests.add(output.read_bytes())
  assert len(digests) == 1
  status = subprocess.call(
      [sys.executable, "-m", "experiments.build_vocab", "--data_dir=" + data],
      cwd=tiny_bert.ROOT, stderr=subprocess.DEVNULL)
  assert status == 2
