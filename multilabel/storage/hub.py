# SPDX-License-Identifier: Apache-2.0
"""Downloads an encoder by its name on a hub, with the extra `hub`.

huggingface_hub does the work, with the same cache, endpoint (HF_ENDPOINT) and
token as transformers. Downloads only the configuration, the safetensors
weights, the vocabulary and the tokenizer's settings.
"""

import os
import re

from absl import logging


# Files to download if the repository has them. Small files first, to reject
# unsupported models early.
_SMALL_FILES = ("config.json", "tokenizer_config.json", "vocab.txt",
                "1_Pooling/config.json")
_INDEX = "model.safetensors.index.json"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors", re.ASCII)
_PICKLES = re.compile(r"pytorch_model.*\.bin", re.ASCII)
# Whose tokens are not WordPieces.
_OTHER_TOKENIZERS = ("sentencepiece.bpe.model", "spiece.model", "merges.txt")

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(@[\w./-]+)?",
                   re.ASCII)


def is_name(place):
  """Whether `place` can be a name on a hub: NAME or OWNER/NAME, @REVISION."""
  return bool(_NAME.fullmatch(place)) and ".." not in place


def fetch(place):
  """Downloads a model, or finds it in the cache.

  Args:
    place: str, as accepted by `is_name`, such as "bert-base-chinese" or
      "BAAI/bge-small-zh-v1.5@main"; a revision is a branch, tag or commit.

  Returns:
    (folder, commit), both str. If the hub cannot be reached, the cached ones.

  Raises:
    ValueError: there is no such model, it has no safetensors weights, the hub
      cannot be reached and it is not in the cache, or huggingface_hub is not
      installed.
  """
  try:
    import huggingface_hub  # pylint: disable=g-import-not-at-top
    from huggingface_hub import utils  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise ValueError(
        "there is no folder %s; to download a model of that name from the hub, "
        "pip install huggingface_hub." % place)
  name, _, revision = place.partition("@")
  revision = revision or "main"
  try:
    info = huggingface_hub.HfApi().model_info(name, revision=revision)
  except utils.RevisionNotFoundError:
    raise ValueError("the hub model %s has no revision %s." % (
        name, revision))
  except utils.GatedRepoError:
    raise ValueError(
        "the hub model %s is gated: accept its terms on its page and set "
        "HF_TOKEN." % name)
  except utils.RepositoryNotFoundError:
    raise ValueError("there is no folder %s, and no model of that name on the "
                     "hub (a private one needs HF_TOKEN)." % name)
  except Exception as error:  # the hub's, httpx's and the system's own
    return _from_cache(huggingface_hub, name, revision, error)
  files = _choose_files(name, [s.rfilename for s in info.siblings])
  logging.info("Downloading %s from the hub, revision %s: %s", name, info.sha,
               ", ".join(files))
  try:
    folder = huggingface_hub.snapshot_download(
        name, revision=revision, allow_patterns=files)
  except Exception as error:
    raise ValueError("%s cannot be downloaded from the hub: %s" % (
        name, _one_line(error)))
  return folder, os.path.basename(folder)


def _from_cache(huggingface_hub, name, revision, reason):
  """Returns the result of an earlier `fetch`."""
  config = huggingface_hub.try_to_load_from_cache(
      name, "config.json", revision=revision)
  folder = os.path.dirname(config) if isinstance(config, str) else None
  if folder is None or not any(map(_WEIGHTS.fullmatch, os.listdir(folder))):
    raise ValueError(
        "there is no folder %s, the hub cannot be reached (%s), and the model "
        "is not in its cache." % (name, _one_line(reason)))
  commit = os.path.basename(folder)
  logging.warning("The hub cannot be reached (%s): using the cached %s, "
                  "revision %s", _one_line(reason), name, commit)
  return folder, commit


def _choose_files(name, there):
  """Returns the files of a repository to download."""
  weights = sorted(f for f in there if _WEIGHTS.fullmatch(f))
  if "model.safetensors" in weights:
    weights = ["model.safetensors"]
  elif weights:
    weights.insert(0, _INDEX)
  else:
    pickles = sorted(f for f in there if _PICKLES.fullmatch(f))
    if pickles:
      raise ValueError(
          "the hub model %s has no safetensors weights, and %s is not "
          "downloaded, because unpickling can run arbitrary code: if you trust "
          "it, save it again with transformers, "
          "AutoModel.from_pretrained(\"%s\").save_pretrained(FOLDER), copy "
          "vocab.txt to FOLDER, and give --encoder=FOLDER." % (
              name, pickles[0], name))
    raise ValueError("the hub model %s has no model.safetensors." % name)
  for other in _OTHER_TOKENIZERS:
    if other in there:
      raise ValueError("the hub model %s has %s, so its tokenizer is not "
                       "WordPiece; choose a BERT." % (name, other))
  small = [f for f in _SMALL_FILES if f in there]
  if "tokenizer.json" in there and "vocab.txt" not in there:
    small.append("tokenizer.json")
  return small + weights


def _one_line(error):
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else text[:200] + "..."
