# SPDX-License-Identifier: Apache-2.0
"""What a vocabulary reveals about the texts that its model was trained on."""

import re


# A model of cased texts has capitals in about a quarter of its words; a few
# occur in other vocabularies, too.
_CASED_SHARE = 0.01
# [CLS], [unused1], <S>, and the like, whose case says nothing.
_SPECIAL = re.compile(r"\[.*\]|<.*>")
_LETTER = re.compile("[A-Za-z]")
_CAPITAL = re.compile("[A-Z]")


def is_lower_case(tokens):
  """Whether a vocabulary is for lower-cased texts.

  Args:
    tokens: iterable of str.

  Returns:
    True: it has Latin letters, and (almost) no capitals; False: it has
    capitals; None: it has no Latin letters, or less than ten words with them,
    so it is unknown.
  """
  words = capitals = 0
  for token in tokens:
    if _LETTER.search(token) and not _SPECIAL.fullmatch(token):
      words += 1
      capitals += bool(_CAPITAL.search(token))
  if words < 10:
    return None
  return capitals < words * _CASED_SHARE


def count_unknown(records, vocab, most=5000):
  """Counts the [UNK] tokens of a record file.

  Args:
    records: `record_file.RecordFile`, or its equivalent.
    vocab: dict from token to id.
    most: int, maximum number of records to read, evenly spaced.

  Returns:
    (tokens that are [UNK], tokens in all), without [CLS] and [SEP].
  """
  unknown_id = vocab["[UNK]"]
  frame = {vocab["[CLS]"], vocab["[SEP]"]}
  unknown = tokens = 0
  step = max(1, -(-len(records) // most))
  for number in range(0, len(records), step):
    ids = list(records.read(number).input_ids)
    unknown += ids.count(unknown_id)
    tokens += len(ids) - sum(ids.count(token) for token in frame)
  return unknown, tokens
