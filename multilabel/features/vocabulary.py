# SPDX-License-Identifier: Apache-2.0
"""What a vocabulary tells of the texts that its model was trained on."""

import re


# A model of cased texts has capitals in about a quarter of its words; a few
# stand in the vocabularies of others, too.
_CASED_SHARE = 0.01
# [CLS], [unused1], <S>, and the like, whose case says nothing.
_SPECIAL = re.compile(r"\[.*\]|<.*>")
_LETTER = re.compile("[A-Za-z]")
_CAPITAL = re.compile("[A-Z]")


def is_lower_case(tokens):
  """Says whether a vocabulary is of lower-cased texts.

  Args:
    tokens: iterable of str.

  Returns:
    True: it has Latin letters, and (almost) no capitals; False: it has
    capitals; None: it has no Latin letters, or less than ten words of them, so
    it does not tell.
  """
  words = capitals = 0
  for token in tokens:
    if _LETTER.search(token) and not _SPECIAL.fullmatch(token):
      words += 1
      capitals += bool(_CAPITAL.search(token))
  if words < 10:
    return None
  return capitals < words * _CASED_SHARE
