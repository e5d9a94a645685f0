# SPDX-License-Identifier: Apache-2.0
"""Outcomes of a request other than a result."""


class Refused(Exception):
  """A request that gets an error status and one sentence."""

  def __init__(self, status, sentence, headers=()):
    """Stores the parts of the response.

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
  """The client closed the connection and does not wait for a response."""


def bad_request(sentence):
  """Returns the `Refused` of an invalid request."""
  return Refused(400, sentence)


def overloaded(sentence):
  """Returns the `Refused` of a request that may be retried later."""
  return Refused(503, sentence, [("Retry-After", "1")])
