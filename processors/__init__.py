# SPDX-License-Identifier: Apache-2.0
"""Data processors: files to `InputExample`s.

`PROCESSORS` maps a task's name to the class that reads its data. A user's own
class is loaded by `create_processor` from any file or module.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys

from absl import logging

from processors import label_names
from processors import package_names
from processors import user_code
from processors.attack_tactics import AttackTacticsProcessor
from processors.base import DataProcessor
from processors.base import FileProcessor
from processors.base import InputExample
from processors.base import MissingFileError
from processors.base import check_example
from processors.base import check_labels
from processors.base import clean_labels
from processors.base import example_labels
from processors.base import read_labels_file
from processors.delimited import DelimitedProcessor
from processors.goemotions import GoEmotionsProcessor
from processors.jsonl import JsonlProcessor
from processors.text_lines import list_names
from processors.text_lines import one_line
from processors.text_lines import shown


PROCESSORS = {
    "attack_tactics": AttackTacticsProcessor,
    "delimited": DelimitedProcessor,
    "goemotions": GoEmotionsProcessor,
    "jsonl": JsonlProcessor,
}

_METHODS = ("get_train_examples", "get_dev_examples", "get_test_examples",
            "get_labels")


def create_processor(task_name=None, processor=None, options=None):
  """Makes a processor from its task's name or the path of its class.

  Args:
    task_name: str, a key of `PROCESSORS` in any case, or None.
    processor: str, `path/to/file.py:ClassName` or `package.module:ClassName`,
      or None. The file's code is executed with the rights of this process. The
      class is called with `options=` if its constructor accepts that, otherwise
      without arguments; it need not derive from `DataProcessor`.
    options: dict, as `DataProcessor.__init__` takes it.

  Returns:
    An object with the methods of `DataProcessor`.

  Raises:
    ValueError: not exactly one of both names is given, or there is no such
      class, or it is not a processor.
  """
  if bool(task_name) == bool(processor):
    raise ValueError(
        "Give %s of --task_name (%s) and --processor=path/to/file.py:ClassName."
        % ("only one" if task_name else "one", ", ".join(sorted(PROCESSORS))))
  if processor:
    return _instantiate(_load_class(processor), processor, options)
  name = task_name.lower()
  if name not in PROCESSORS:
    raise ValueError(
        "There is no task %s: --task_name is one of %s, or --processor names "
        "a class of your own." % (
            shown(task_name), ", ".join(sorted(PROCESSORS))))
  return PROCESSORS[name](options)


def get_labels(processor, data_dir):
  """Returns the checked label list of any processor.

  Args:
    processor: object with `get_labels(data_dir)` or, as in
      google-research/bert, `get_labels()`.
    data_dir: str, the folder with the data.

  Returns:
    list of str, in the order of the outputs.

  Raises:
    ValueError: the labels are not a list of names, there are none, one is a
      duplicate, or one cannot be in `labels.txt`.
  """
  takes_folder = True
  try:
    inspect.signature(processor.get_labels).bind(data_dir)
  except TypeError:
    takes_folder = False
  labels = user_code.call(processor, "get_labels",
                          *((data_dir,) if takes_folder else ()))
  place = "%s.get_labels" % type(processor).__name__
  if isinstance(labels, (str, bytes)) or not hasattr(labels, "__iter__"):
    raise ValueError("%s returned %s, not a list of names." % (
        place, shown(labels)))
  labels = list(labels)
  if not labels:
    raise ValueError("%s returned no labels." % place)
  seen = set()
  for label in labels:
    if not isinstance(label, str):
      raise ValueError("%s returned %s, which is not a str." % (
          place, shown(label)))
    try:
      is_clean = clean_labels((label,)) == (label,)
    except ValueError as error:
      raise ValueError("%s: %s." % (place, error))
    if not is_clean:
      raise ValueError("%s returned %s, with white space around it." % (
          place, shown(label)))
    if label in seen:
      raise ValueError("%s returned label %s twice." % (place, shown(label)))
    seen.add(label)
  similar = label_names.describe_similar(labels)
  if similar:
    logging.warning("There are %s", similar)
  return labels


def get_examples(processor, part, data_dir):
  """Returns the examples of a part, of any processor.

  Args:
    processor: object with `get_train_examples(data_dir)` and so on.
    part: "train", "dev" or "test".
    data_dir: str, the folder with the data.

  Returns:
    iterable of examples.

  Raises:
    ValueError: the files are broken, or the user's own code failed; also while
      iterating over the examples.
  """
  examples = user_code.call(processor, "get_%s_examples" % part, data_dir)
  if not hasattr(examples, "__iter__"):
    raise ValueError("%s.get_%s_examples returned %s, not a list of examples." %
                     (type(processor).__name__, part, shown(examples)))
  return examples


def _load_class(processor):
  """Returns the class that `--processor` names."""
  place, colon, class_name = processor.rpartition(":")
  if not (place and colon and class_name):
    raise ValueError(
        "--processor=%s must be path/to/file.py:ClassName or "
        "package.module:ClassName." % processor)
  is_file = place.endswith(".py") or "/" in place or os.sep in place
  if is_file and not os.path.isfile(place):
    raise ValueError("--processor=%s: there is no file %s." % (
        processor, place))
  try:
    module = _import_file(place) if is_file else importlib.import_module(place)
  # User code may raise anything, and even exit.
  except (Exception, SystemExit) as error:  # pylint: disable=broad-except
    raise ValueError("--processor=%s: %s cannot be imported (%s: %s)%s%s." % (
        processor, place, type(error).__name__, one_line(error),
        user_code.at_line(error, place if is_file else None),
        "" if is_file else ", is its folder on PYTHONPATH?")) from error
  found = getattr(module, class_name, None)
  if not inspect.isclass(found):
    classes = sorted(name for name, value in vars(module).items()
                     if inspect.isclass(value))
    raise ValueError("--processor=%s: %s %s %s (classes there: %s)." % (
        processor, place,
        "has no class" if found is None else "has something else under",
        class_name, list_names(classes)))
  return found


def _import_file(path):
  """Runs a Python file as a module, which may import its neighbors."""
  package_names.alias(__name__)
  path = os.path.abspath(path)
  # The name is derived from the path, so that no other module is shadowed.
  name = "processor_%s_%s" % (
      os.path.splitext(os.path.basename(path))[0],
      hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8])
  loader = importlib.machinery.SourceFileLoader(name, path)
  spec = importlib.util.spec_from_file_location(name, path, loader=loader)
  module = importlib.util.module_from_spec(spec)
  if os.path.dirname(path) not in sys.path:
    sys.path.append(os.path.dirname(path))
  # Its objects can be pickled only when it can be found by its name.
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  return module


def _instantiate(processor_class, processor, options):
  missing = [name for name in _METHODS
             if not callable(getattr(processor_class, name, None))]
  if missing:
    raise ValueError("--processor=%s: the class has no %s." % (
        processor, ", ".join(missing)))
  signature = inspect.signature(processor_class)
  takes_options = "options" in signature.parameters
  arguments = {"options": options} if takes_options else {}
  try:
    signature.bind(**arguments)
  except TypeError as error:
    raise ValueError(
        "--processor=%s: its constructor must take no argument or `options` "
        "(%s)." % (processor, one_line(error)))
  try:
    return processor_class(**arguments)
  except (Exception, SystemExit) as error:  # pylint: disable=broad-except
    place = user_code.at_line(error, user_code.file_of(processor_class))
    if isinstance(error, ValueError) and not place:
      raise  # an option that it does not support
    raise ValueError("--processor=%s: its constructor failed (%s: %s)%s." % (
        processor, type(error).__name__, one_line(error), place)) from error
