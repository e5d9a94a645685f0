# SPDX-License-Identifier: Apache-2.0
"""Finds an encoder by one name: `--encoder=PLACE`.

A place is one of
  - a folder in google-research/bert's format: a configuration, vocab.txt and a
    checkpoint;
  - a folder in Hugging Face's format, which is converted once and cached;
  - the directory of a training run, whose weights initialize the next run;
  - a name on a hub, such as bert-base-chinese, see `hub`.
"""

import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile

from absl import logging


try:
  import fcntl
except ImportError:  # not on Windows, where two conversions may run at once
  fcntl = None

from multilabel.common import atomic_files
from multilabel.features import vocabulary
from multilabel.storage import checkpoint_choice
from multilabel.storage import hf_conversion
from multilabel.storage import hub
from multilabel.storage import run_lock
from multilabel.storage import safetensors_reader
from multilabel.storage import model_settings
from multilabel.storage import trained_model
import tokenization


# Changes whenever a conversion produces different files.
_CACHE_FORMAT = 1
_CACHE_VARIABLE = "BERT_MULTILABEL_CACHE"
_CACHE_NOTES = "encoder.json"
_WORK_PREFIX = ".converting-"
_WORK_NAME = re.compile(r"\.converting-[a-z0-9_]{8}")

Encoder = collections.namedtuple(
    "Encoder", ["place", "form", "bert_config_file", "vocab_file",
                "init_checkpoint", "do_lower_case", "advised_pooling",
                "revision"])
Encoder.__doc__ = """Where an encoder's files are.

  place: str, as it was given.
  form: "google", "hugging_face", "trained" or "hub".
  bert_config_file, vocab_file: str, paths.
  init_checkpoint: str, checkpoint prefix.
  do_lower_case: bool, how its texts are tokenized.
  advised_pooling: "pooler", "cls", "mean", or None where nothing advises one.
    That of the run for a trained directory; what sentence-transformers' own
    files say; "mean" for an encoder without a pooler.
  revision: str, the commit on the hub; None elsewhere.
"""


def resolve(place, cache_dir=None):
  """Finds an encoder; converts or downloads it first if needed.

  Args:
    place: str, a folder or a hub's name (NAME or NAME@REVISION). A folder has
      precedence.
    cache_dir: str, folder for converted encoders; default: the environment's
      BERT_MULTILABEL_CACHE, else bert-multilabel in the user's cache folder.

  Returns:
    `Encoder`.

  Raises:
    ValueError: there is no such encoder, or it is not a BERT, or it is broken.
    RuntimeError: the cache cannot be written.
  """
  if os.path.isdir(place):
    return _of_folder(place, cache_dir)
  if os.path.lexists(place) or os.path.exists(place + ".index"):
    raise ValueError("--encoder=%s is a file; give its folder." %
                     place)
  if not hub.is_name(place):
    raise ValueError("there is no folder --encoder=%s." % place)
  folder, revision = hub.fetch(place)
  return _of_hugging_face(folder, cache_dir)._replace(
      place=place, form="hub", revision=revision)


def default_cache_dir():
  """Returns the folder for converted encoders: str."""
  chosen = os.environ.get(_CACHE_VARIABLE)
  if chosen:
    return chosen
  base = os.environ.get("XDG_CACHE_HOME") or os.path.join(
      os.path.expanduser("~"), ".cache")
  return os.path.join(base, "bert-multilabel")


def _of_folder(folder, cache_dir):
  """`resolve` for a folder, whose format is determined by its files."""
  names = sorted(os.listdir(folder))
  if run_lock.SETTINGS_FILE in names:
    return _of_trained(folder)
  if any(name.endswith(".index") for name in names):
    return _of_google(folder, names)
  if "config.json" in names or "0_Transformer" in names:
    return _of_hugging_face(folder, cache_dir)
  raise ValueError(
      "--encoder=%s is not an encoder: it has no TensorFlow checkpoint "
      "(*.ckpt.index), no config.json from Hugging Face, and no %s of a "
      "trained model; it contains %s." % (
          folder, run_lock.SETTINGS_FILE, ", ".join(names[:5]) or "nothing"))


def _of_trained(folder):
  trained = trained_model.read(folder)
  checkpoint = checkpoint_choice.prediction_checkpoint(folder)
  if checkpoint is None:
    raise ValueError("--encoder=%s has no checkpoint yet; train it first." %
                     folder)
  return Encoder(
      folder, "trained", os.path.join(folder, model_settings.BERT_CONFIG_FILE),
      trained.vocab_file, checkpoint, trained.settings["do_lower_case"],
      trained.settings["pooling"], None)


def _of_google(folder, names):
  """A release: names differ, so each file must be the only one of its kind."""
  config = _only(folder, "configuration", "bert_config.json", [
      name for name in names if re.fullmatch(r"\w*config\w*\.json", name)])
  checkpoint = _only(folder, "checkpoint", "bert_model.ckpt", [
      name[:-len(".index")] for name in names if name.endswith(".index")])
  vocab = _only(folder, "vocabulary", "vocab.txt", [
      name for name in names if re.fullmatch(r"\w*vocab\w*\.txt", name)])
  vocab_file = os.path.join(folder, vocab)
  checkpoint = os.path.join(folder, checkpoint)
  return Encoder(
      folder, "google", os.path.join(folder, config), vocab_file, checkpoint,
      _case_of_release(vocab_file, checkpoint), None, None)


def _only(folder, what, usual, names):
  if usual in names:
    return usual
  if len(names) != 1:
    raise ValueError("--encoder=%s has %s %s: %s." % (
        folder, "more than one" if names else "no", what,
        ", ".join(names[:5]) if names else "it should be called %s" % usual))
  return names[0]


def _case_of_release(vocab_file, checkpoint):
  """do_lower_case: by the vocabulary's letters, or the folder's name."""
  by_letters = vocabulary.is_lower_case(tokenization.load_vocab(vocab_file))
  if by_letters is not None:
    return by_letters
  try:
    tokenization.validate_case_matches_checkpoint(True, checkpoint)
  except ValueError:
    return False
  return True


def _of_hugging_face(folder, cache_dir):
  """Converts a folder into the cache, unless it is already there."""
  source = folder
  inner = os.path.join(folder, "0_Transformer")
  if os.path.isfile(os.path.join(inner, "config.json")):
    source = inner  # sentence-transformers' older format
  cache_dir = cache_dir or default_cache_dir()
  target = os.path.join(cache_dir, _digest(source))
  if not os.path.isfile(os.path.join(target, _CACHE_NOTES)):
    logging.info("Converting %s into %s ...", folder, target)
    _convert(source, cache_dir, target)
  else:
    logging.info("%s was converted before: %s", folder, target)
  notes = atomic_files.read_json(os.path.join(target, _CACHE_NOTES))
  pooling = _advised_pooling(folder)
  if pooling is None and not notes["has_pooler"]:
    pooling = "mean"
  return Encoder(
      folder, "hugging_face",
      os.path.join(target, hf_conversion.CONFIG_FILE),
      os.path.join(target, hf_conversion.VOCAB_FILE),
      os.path.join(target, hf_conversion.CHECKPOINT), notes["do_lower_case"],
      pooling, None)


def _digest(folder):
  """sha256 of everything that a conversion reads."""
  weights = safetensors_reader.open_directory(folder)
  paths = {file.path for file in weights.values()}
  for name in ("config.json", "vocab.txt", "tokenizer_config.json",
               "tokenizer.json"):
    path = os.path.join(folder, name)
    if os.path.isfile(path):
      paths.add(path)
  digest = hashlib.sha256(b"%d" % _CACHE_FORMAT)
  for path in sorted(paths):
    digest.update(("%s %s\n" % (
        os.path.basename(path), atomic_files.file_sha256(path))).encode())
  return digest.hexdigest()[:32]


def _convert(source, cache_dir, target):
  """Makes `target`, which appears complete or not at all."""
  try:
    os.makedirs(cache_dir, exist_ok=True)
    with _cache_lock(cache_dir) as is_locked:
      if is_locked:
        _remove_leftovers(cache_dir)
      if os.path.isdir(target):
        return  # another process has created it meanwhile
      work_dir = tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=cache_dir)
      try:
        result = hf_conversion.convert(source, work_dir)
        atomic_files.write_text(
            os.path.join(work_dir, _CACHE_NOTES), json.dumps({
                "do_lower_case": result.do_lower_case,
                "has_pooler": result.has_pooler}) + "\n")
        os.rename(work_dir, target)
      finally:
        shutil.rmtree(work_dir, ignore_errors=True)
  except OSError as error:
    raise RuntimeError(
        "the encoder cannot be converted into %s: %s; set the environment "
        "variable %s to another folder." % (
            cache_dir, error.strerror or error, _CACHE_VARIABLE))


@contextlib.contextmanager
def _cache_lock(cache_dir):
  """Waits for other conversions; yields whether it could."""
  with open(os.path.join(cache_dir, ".lock"), "a") as lock:
    if fcntl is not None:
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield fcntl is not None


def _remove_leftovers(cache_dir):
  """Under the lock, a work folder comes from a killed conversion."""
  for name in os.listdir(cache_dir):
    if _WORK_NAME.fullmatch(name):
      shutil.rmtree(os.path.join(cache_dir, name), ignore_errors=True)


def _advised_pooling(folder):
  """The pooling in the sentence-transformers files: "cls", "mean", None."""
  path = os.path.join(folder, "1_Pooling", "config.json")
  if not os.path.isfile(path):
    return None
  raw = safetensors_reader.load_json_object(path)
  modes = {key[len("pooling_mode_"):] for key, value in raw.items()
           if key.startswith("pooling_mode_") and value is True}
  if isinstance(raw.get("pooling_mode"), str):
    modes.add(raw["pooling_mode"])
  pooling = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean",
             "mean": "mean"}.get(modes.pop() if len(modes) == 1 else None)
  if pooling is None:
    logging.warning("%s: no --pooling matches it.", path)
  return pooling
