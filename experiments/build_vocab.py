# SPDX-License-Identifier: Apache-2.0
"""Builds a WordPiece vocabulary from the training texts of a data set.

  python -m experiments.build_vocab --data_dir=DIR --output_file=vocab.txt

For a model that is trained from scratch; a pretrained one needs the vocabulary
that it came with. Words are those of `tokenization.BasicTokenizer`, the ones
that training will cut up: a Chinese character is a word. Pieces begin as
characters; the pair of neighbours that is most frequent becomes a piece, again
and again (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with
Subword Units", alg. 1). The same texts always give the same vocabulary, which
the trainer of the package `tokenizers` does not promise: of three runs of its
version 0.23 no two gave the same.

A piece seen less than --min_frequency times is left out, so that its words
become [UNK] and the model learns what an unknown word is.
"""

import collections
import heapq
import os

from absl import flags

from multilabel.common import atomic_files
from multilabel.common import command_line
import processors
import tokenization


FLAGS = flags.FLAGS

# [PAD] must be 0: batches are padded with zeros.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def define_flags():
  """Defines this program's flags; called where the script starts."""
  with command_line.flag_group("Vocabulary"):
    flags.DEFINE_string("data_dir", None,
        "Folder of the data; only train is read.")
    flags.DEFINE_string("task_name", "jsonl", "Format of the data: %s." %
                        ", ".join(sorted(processors.PROCESSORS)))
    flags.DEFINE_string("output_file", None, "The vocabulary to write.")
    flags.DEFINE_integer("vocab_size", 8000,
        "Maximum number of pieces, including [PAD] and other special tokens.")
    flags.DEFINE_integer("min_frequency", 2,
        "Minimum number of occurrences of a character and a piece.")
    flags.DEFINE_bool("do_lower_case", True,
        "Lower-case the texts and strip accents, as training will.")


def read_texts(data_dir, task_name):
  """The texts of train: list of str; a pair gives two."""
  processor = processors.create_processor(task_name=task_name)
  texts = []
  for example in processor.get_train_examples(data_dir):
    texts.append(example.text_a)
    if example.text_b is not None:
      texts.append(example.text_b)
  return texts


def build(texts, vocab_size=8000, min_frequency=2, do_lower_case=True):
  """Builds a vocabulary.

  Args:
    texts: iterable of str.
    vocab_size: int, maximum number of pieces.
    min_frequency: int.
    do_lower_case: bool.

  Returns:
    list of str, the pieces in the order of their ids: `SPECIAL_TOKENS`, the
    characters by frequency, then what was put together.

  Raises:
    ValueError: `vocab_size` cannot hold the characters, or there are none.
  """
  tokenizer = tokenization.BasicTokenizer(do_lower_case)
  words = collections.Counter(
      word for text in texts for word in tokenizer.tokenize(text))
  splits = {word: [word[0]] + ["##" + character for character in word[1:]]
            for word in words}
  counts = collections.Counter()
  for word, pieces in splits.items():
    for piece in pieces:
      counts[piece] += words[word]
  alphabet = sorted((piece for piece in counts
                     if counts[piece] >= min_frequency),
                    key=lambda piece: (-counts[piece], piece))
  if not alphabet:
    raise ValueError("no character occurs %d times in the texts." %
                     min_frequency)
  vocabulary = list(SPECIAL_TOKENS) + alphabet
  if len(vocabulary) > vocab_size:
    raise ValueError(
        "--vocab_size is %d, but the single characters, at the start of and "
        "inside a word, already need %d; increase it or --min_frequency." % (
            vocab_size, len(vocabulary)))
  known = set(alphabet)
  merging = _Merging(
      [(pieces, words[word]) for word, pieces in splits.items()
       if len(pieces) > 1 and known.issuperset(pieces)])
  while len(vocabulary) < vocab_size:
    piece = merging.merge_most_frequent(min_frequency)
    if piece is None:
      break
    # Two ways of putting it together give one piece.
    if piece not in known:
      known.add(piece)
      vocabulary.append(piece)
  return vocabulary


class _Merging(object):
  """Words as lists of pieces, and how often each pair of neighbours is there.

  A pair's count changes only in the words that hold a merged pair, so that
  only those are looked at. The heap may hold old counts; they are passed over.
  """

  def __init__(self, words):
    """Takes a list of (pieces, how often the word is there)."""
    self._words = words
    self._counts = collections.Counter()
    self._places = collections.defaultdict(set)
    for index in range(len(words)):
      self._count_pairs(index, 1)
    self._heap = [(-count, pair) for pair, count in self._counts.items()]
    heapq.heapify(self._heap)

  def _count_pairs(self, index, sign):
    """Adds or takes off a word's pairs; returns them."""
    pieces, times = self._words[index]
    pairs = list(zip(pieces, pieces[1:]))
    for pair in pairs:
      self._counts[pair] += sign * times
      if sign > 0:
        self._places[pair].add(index)
    return pairs

  def merge_most_frequent(self, min_frequency):
    """Merges a pair everywhere; the new piece, or None if none is frequent."""
    while self._heap:
      count, pair = heapq.heappop(self._heap)
      if -count != self._counts[pair]:
        continue
      if -count < min_frequency:
        return None
      piece = pair[0] + pair[1][len("##"):]
      changed = set()
      for index in self._places.pop(pair):
        changed.update(self._count_pairs(index, -1))
        self._words[index] = (_join(self._words[index][0], pair, piece),
                              self._words[index][1])
        changed.update(self._count_pairs(index, 1))
      for other in changed:
        if self._counts[other]:
          heapq.heappush(self._heap, (-self._counts[other], other))
      return piece
    return None


def _join(pieces, pair, piece):
  """The pieces with every `pair` of neighbours as one `piece`."""
  joined = []
  i = 0
  while i < len(pieces):
    if tuple(pieces[i:i + 2]) == pair:
      joined.append(piece)
      i += 2
    else:
      joined.append(pieces[i])
      i += 1
  return joined


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." %
                     argv[1])
  for name in ("data_dir", "output_file"):
    if not FLAGS[name].value:
      raise ValueError("--%s must be given." % name)
  for name in ("vocab_size", "min_frequency"):
    if FLAGS[name].value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          name, FLAGS[name].value))
  texts = read_texts(FLAGS.data_dir, FLAGS.task_name)
  vocabulary = build(texts, FLAGS.vocab_size, FLAGS.min_frequency,
                     FLAGS.do_lower_case)
  folder = os.path.dirname(os.path.abspath(FLAGS.output_file))
  if not os.path.isdir(folder):
    os.makedirs(folder)
  atomic_files.write_text(FLAGS.output_file,
                          "".join(piece + "\n" for piece in vocabulary))
  print("%s: %d pieces from %d texts" % (FLAGS.output_file, len(vocabulary),
                                         len(texts)))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
