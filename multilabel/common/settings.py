# SPDX-License-Identifier: Apache-2.0
"""The settings of a run as one object, from flags or from keywords."""

import difflib
import os


class Settings(object):
  """Values by the names of the flags; they do not change.

  `settings.learning_rate` is a value, `settings["learning_rate"]` the same for
  a name held in a variable.
  """

  def __init__(self, values, defaults=None, given=()):
    """Makes settings of values.

    Args:
      values: dict of name to value.
      defaults: dict of name to default; default: `values`.
      given: collection of the names that the user set, whatever the value.
    """
    self.__dict__["_values"] = dict(values)
    self.__dict__["_defaults"] = dict(values if defaults is None else defaults)
    self.__dict__["_given"] = frozenset(given)

  @classmethod
  def from_flags(cls, flag_values, names):
    """The settings that parsed flags hold.

    Args:
      flag_values: `absl.flags.FlagValues`, parsed.
      names: collection of str, the flags of the program.
    """
    flags = {name: flag_values[name] for name in names}
    return cls({name: flag.value for name, flag in flags.items()},
               {name: flag.default for name, flag in flags.items()},
               [name for name, flag in flags.items() if flag.present])

  @classmethod
  def from_keywords(cls, flag_values, names, keywords):
    """The settings that keywords of Python hold.

    Args:
      flag_values: `absl.flags.FlagValues`, where the flags are defined.
      names: collection of str, the flags that are settings.
      keywords: dict of name to value; each is read as the flag's text would be.

    Raises:
      ValueError: a value is invalid; names the keyword.
    """
    flags = {name: flag_values[name] for name in names}
    values = {name: flag.default for name, flag in flags.items()}
    given = {name: _parse(name, flags[name], value)
             for name, value in keywords.items()}
    return cls(dict(values, **given), values, given)

  def __getattr__(self, name):
    try:
      return self._values[name]
    except KeyError:
      raise AttributeError("there is no setting %s" % name)

  def __setattr__(self, name, value):
    raise AttributeError("settings are immutable; use Settings.replace")

  def __getitem__(self, name):
    return self._values[name]

  def __contains__(self, name):
    return name in self._values

  def __getstate__(self):
    return dict(self.__dict__)

  def __setstate__(self, state):
    self.__dict__.update(state)

  def __repr__(self):
    return "Settings(%s)" % ", ".join(
        "%s=%r" % (name, self._values[name]) for name in sorted(self._given))

  def is_given(self, name):
    """Whether the user set it: on the command line, or as a keyword."""
    return name in self._given

  def default(self, name):
    """The default value."""
    return self._defaults[name]

  def replace(self, **changes):
    """Settings with changed values, which count as given.

    Raises:
      ValueError: there is no setting of that name; suggests the nearest one.
    """
    for name in sorted(changes):
      if name not in self._values:
        raise ValueError("there is no setting %s%s." % (
            name, nearest(name, self._values)))
    return Settings(dict(self._values, **changes), self._defaults,
                    self._given.union(changes))

  def to_dict(self):
    """A copy of the values: dict of name to value."""
    return dict(self._values)


def nearest(name, names):
  """"; did you mean X?" for a name that is nearly one of `names`, else ""."""
  near = difflib.get_close_matches(name, names, 1)
  return "; did you mean %s?" % near[0] if near else ""


def _parse(name, flag, value):
  """A keyword's value, parsed by the flag of that name."""
  kind = flag.parser.flag_type() or "str"
  # numpy's scalars, which a grid search gives.
  if hasattr(value, "item") and not isinstance(value, (str, bytes)):
    value = value.item()
  if value is None and flag.default is None:
    return None
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  try:
    if kind == "bool":
      if isinstance(value, bool):
        return value
    elif isinstance(value, (str, os.PathLike)):
      return flag.parser.parse(os.fspath(value))
    elif is_number:
      return flag.parser.parse(repr(value))
  except (ValueError, TypeError):
    pass
  choices = getattr(flag.parser, "enum_values", None)
  raise ValueError("%s=%r is invalid; it must be %s." % (
      name, value, "one of %s" % ", ".join(choices) if choices else
      {"bool": "True or False", "int": "a whole number", "float": "a number",
       }.get(kind, "a str")))
