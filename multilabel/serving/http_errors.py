# SPDX-License-Identifier: Apache-2.0
"""What a request can end with other than an answer."""


class Refused(Exception):
  """A request that is answered with a status and one sentence."""

  def __init__(self, status, sentence, headers=()):
    """Keeps what the answer is made of.

    Args:
      status: int, of HTTP, from 400 on.
      sentence: str, what is wrong and where; the answer's `error`.
      headers: iterable of (str, str).
    """
    super(Refused, self).__init__(sentence)
    self.status = status
    self.sentence = sentence
    self.headers = list(headers)


class ClientGone(Exception):
  """The client closed the connection; nobody waits for an answer."""


def bad_request(sentence):
  """Returns the `Refused` of a request that can never be answered."""
  return Refused(400, sentence)


def overloaded(sentence):
  """Returns the `Refused` of a request that may be sent again later."""
  return Refused(503, sentence, [("Retry-After", "1")])
