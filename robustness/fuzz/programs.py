# SPDX-License-Identifier: Apache-2.0
"""Targets: the command line, and bodies of HTTP requests."""

import functools
import importlib
import sys
import types

from absl import flags

from robustness.fuzz import checks


_SCRIPTS = ("run_multilabel_classifier", "predict_session",
            "convert_checkpoint")


def own_flags():
  """(`FlagValues`, a stand-in for `absl.flags` that defines flags in it)."""
  values = flags.FlagValues()
  stand_in = types.SimpleNamespace(FLAGS=values, Error=flags.Error)
  for name in dir(flags):
    if name.startswith("DEFINE_"):
      setattr(stand_in, name, functools.partial(
          getattr(flags, name), flag_values=values))
  return values, stand_in


@functools.lru_cache(maxsize=None)
def _script(name):
  """(module, its flags in a `FlagValues` of their own, check_flags or None)."""
  from multilabel.common import command_line  # pylint: disable=g-import-not-at-top
  module = importlib.import_module(name)
  values, replaced = own_flags()
  targets = [module, command_line]
  # A script may take another module's flags as well.
  targets += [other for other in list(sys.modules.values())
              if other not in targets and {"define_flags", "flags"} <= set(
                  getattr(other, "__dict__", ()))]
  before = [(target, attribute, getattr(target, attribute))
            for target in targets for attribute in ("FLAGS", "flags")
            if hasattr(target, attribute)]
  groups, command_line._FLAG_GROUPS = command_line._FLAG_GROUPS, []  # pylint: disable=protected-access
  try:
    for target, attribute, _ in before:
      setattr(target, attribute, values if attribute == "FLAGS" else replaced)
    module.define_flags()
  finally:
    command_line._FLAG_GROUPS = groups  # pylint: disable=protected-access
    for target, attribute, value in before:
      setattr(target, attribute, value)
  values.set_gnu_getopt(True)
  return values, getattr(module, "check_flags", None)


def parse_flags(data):
  """The first byte chooses the script; the rest is its arguments, a line each.
  """
  name = _SCRIPTS[data[0] % len(_SCRIPTS)] if data else _SCRIPTS[0]
  # The way Python passes arguments that are not UTF-8.
  arguments = [argument.replace("\0", "") for argument in
               data[1:].decode("utf-8", "surrogateescape").split("\n")[:20]]
  if any("flagfile" in argument for argument in arguments):
    return  # It reads files of this machine.
  values, check = _script(name)
  values.unparse_flags()
  try:
    rest = values([name + ".py"] + arguments)
  except (flags.Error, UnicodeError):
    return
  if check is None:
    return
  try:
    check(*((values, rest[1:]) if name == "predict_session" else (values,)))
  except ValueError as error:
    # A value may hold a line break; the command line writes it on one line.
    checks.check_sentence(ValueError(" ".join(str(error).split())))


def parse_body(data):
  """The first byte chooses the request; the rest is its body."""
  # pylint: disable=g-import-not-at-top
  from multilabel.serving import http_errors
  from multilabel.serving import http_requests
  requests = http_requests.Requests(http_requests.Limits(
      vocab_size=100, type_vocab_size=2, max_position_embeddings=8, cls_id=2,
      max_texts=4, max_characters=50))
  parsers = (
      requests.parse_predict, requests.parse_classify, requests.parse_label,
      functools.partial(requests.parse_explain, labels=["a"]))
  parse = parsers[data[0] % len(parsers)] if data else parsers[0]
  try:
    request = parse(data[1:])
  except http_errors.Refused as error:
    checks.check_sentence(error)
    checks.expect(400 <= error.status < 500, "a status", error.status)
    error.sentence.encode("ascii")
    return
  texts = list(getattr(request, "texts", None) or ())
  if type(request) is tuple:  # pylint: disable=unidiomatic-typecheck
    texts = [request[0]]
  for text in texts:
    for part in text if isinstance(text, tuple) else (text,):
      checks.expect(isinstance(part, str) and len(part) <= 50, "a text", part)
      part.encode("utf-8")  # what resumes from here must be text
  features = (request if isinstance(request, list)
              else getattr(request, "features", None))
  for row in features or ():
    checks.expect(all(0 <= i < 100 for i in row.input_ids) and
                  0 < len(row.input_ids) <= 8 and
                  all(0 <= i < 2 for i in row.segment_ids) and
                  len(row.input_ids) == len(row.input_mask) ==
                  len(row.segment_ids), "a row that no model reads", row)
