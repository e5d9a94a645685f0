# SPDX-License-Identifier: Apache-2.0
"""Converts a Hugging Face directory to a TF1 checkpoint.

Reads `config.json`, `model.safetensors` (or its shards), `vocab.txt` and the
tokenizer's files; writes the files of a google-research/bert release:
`bert_config.json`, `bert_model.ckpt.*` and `vocab.txt`. Needs neither torch nor
transformers, and runs no code from the input.

A model without a pooler (DistilBERT, ELECTRA) gives a checkpoint without one:
training with `--pooling=pooler` is then rejected. A model without segments gets
segment vectors of zeros.
"""

import collections
import os

from absl import logging
import tensorflow.compat.v1 as tf

from multilabel.common import atomic_files
from multilabel.common import work_folder
from multilabel.features import vocabulary
from multilabel.storage import hf_config
from multilabel.storage import hf_tensors
from multilabel.storage import safetensors_reader
from processors.text_lines import shown


CONFIG_FILE = "bert_config.json"
CHECKPOINT = "bert_model.ckpt"
VOCAB_FILE = "vocab.txt"
# In the order in which they are moved into place.
_OUTPUT_FILES = (VOCAB_FILE, CHECKPOINT + ".data-00000-of-00001",
                 CHECKPOINT + ".index", CONFIG_FILE)
_WORK_PREFIX = ".conversion-"
# Names that `tempfile.mkdtemp` makes from the prefix.

_MAX_VOCAB_BYTES = 64 * 1024 * 1024

_WORDPIECE_TOKENIZERS = (
    "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer",
    "DistilBertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast",
    "ErnieTokenizer", "ErnieTokenizerFast")
# Prefixes of tokenizer names that split words differently.
_OTHER_TOKENIZERS = (
    "Albert", "Bart", "BigBird", "Camembert", "Deberta", "GPT2", "Llama",
    "Roberta", "T5", "XLM", "XLNet")

Conversion = collections.namedtuple(
    "Conversion",
    ["num_tensors", "num_parameters", "has_pooler", "unused", "do_lower_case"])
Conversion.__doc__ = """What was converted.

  num_tensors: int, tensors in the checkpoint.
  num_parameters: int, numbers in them.
  has_pooler: bool.
  unused: list of str, tensors of the input that are not in the checkpoint.
  do_lower_case: bool, how texts for this model are to be tokenized.
"""


def convert(hf_dir, output_dir):
  """Converts one model.

  Args:
    hf_dir: str, folder with config.json, model.safetensors and vocab.txt.
    output_dir: str, folder for the result: a new or empty one, or one with an
      earlier conversion, which is replaced.

  Returns:
    A `Conversion`.

  Raises:
    ValueError: the input is not a BERT, or is broken; or `output_dir` has other
      files. Nothing was written then.
    RuntimeError: the result cannot be written.
  """
  if not os.path.isdir(hf_dir):
    raise ValueError("hf_dir %s is not a folder." % hf_dir)
  _check_output_dir(output_dir)
  model = hf_config.read_model(os.path.join(hf_dir, "config.json"))
  vocab = read_vocab(hf_dir, model.config.vocab_size)
  do_lower_case = read_do_lower_case(hf_dir, vocab)
  weights = safetensors_reader.open_directory(hf_dir)
  plan = hf_tensors.match(
      hf_dir, {name: weights[name].shapes[name] for name in weights}, model)

  if not plan.has_pooler:
    logging.warning(
        "%s has no pooler, so the checkpoint has none either: train with "
        "--pooling=mean or --pooling=cls (the first token).", hf_dir)
  differences = hf_config.describe(model)
  if differences:
    logging.info("%s has type %s: %s.", hf_dir, model.model_type,
                 differences)
  if plan.unused:
    logging.info("Tensors not used: %s",
                 ", ".join(shown(u) for u in plan.unused))
  tensors = collections.OrderedDict()
  for name, (hf_names, function) in plan.reads.items():
    tensors[name] = function(*[weights[n].read(n) for n in hf_names])
  _write(output_dir, tensors, vocab, model.config.to_json_string())
  return Conversion(
      num_tensors=len(tensors),
      num_parameters=sum(value.size for value in tensors.values()),
      has_pooler=plan.has_pooler, unused=plan.unused,
      do_lower_case=do_lower_case)


def read_do_lower_case(hf_dir, vocab):
  """Determines how texts are tokenized, and what is not supported here.

  Args:
    hf_dir: str.
    vocab: bytes, the vocabulary in UTF-8.

  Returns:
    bool: from tokenizer_config.json, otherwise tokenizer.json, otherwise the
      letters of the vocabulary, otherwise True.

  Raises:
    ValueError: those files are broken, or the tokenizer is not WordPiece.
  """
  path = os.path.join(hf_dir, "tokenizer_config.json")
  raw = {}
  if os.path.exists(path):
    raw = safetensors_reader.load_json_object(path)
  _check_tokenizer_class(hf_dir, path, raw)
  by_letters = vocabulary.is_lower_case(vocab.decode("utf-8").splitlines())
  do_lower_case, source = raw.get("do_lower_case"), path
  if do_lower_case is None:
    do_lower_case, source = _normalizer_lower_case(hf_dir)
  if do_lower_case is None:
    do_lower_case, source = by_letters, "inferred from the vocabulary"
  if do_lower_case is None:
    do_lower_case, source = True, (
        "the default without a tokenizer_config.json")
  if not isinstance(do_lower_case, bool):
    raise ValueError("%s: do_lower_case is %s; it must be true or false." % (
        path, shown(do_lower_case)))
  logging.info("The model needs --do_lower_case=%s (%s).",
               str(do_lower_case).lower(), source)
  if by_letters is not None and by_letters != do_lower_case:
    logging.warning(
        "%s says do_lower_case is %s, but the vocabulary has %s: if many words "
        "become [UNK], train with --do_lower_case=%s.", source,
        str(do_lower_case).lower(),
        "no capital letters" if by_letters else "capital letters",
        str(by_letters).lower())
  # Texts are always split at punctuation and around Chinese characters, and
  # lose their accents exactly when they are lower-cased.
  for key, ours in (("strip_accents", (None, do_lower_case)),
                    ("tokenize_chinese_chars", (True,)),
                    ("do_basic_tokenize", (True,)),
                    ("never_split", (None, [])),
                    ("tokenizer_class", (None,) + _WORDPIECE_TOKENIZERS)):
    if key in raw and raw[key] not in ours:
      logging.warning(
          "%s: %s is %s, which this tokenizer does not support (it uses %s): "
          "some texts are tokenized differently from training.",
          path, key, shown(raw[key]), shown(ours[1] if len(ours) > 2 else
                                            ours[-1]))
  return do_lower_case


def _check_tokenizer_class(hf_dir, path, raw):
  """Rejects tokenizers that are not WordPiece, by name or by their files."""
  name = raw.get("tokenizer_class")
  if isinstance(name, str) and name.startswith(_OTHER_TOKENIZERS):
    raise ValueError(
        "%s: tokenizer_class is %s, which splits words differently from "
        "WordPiece; texts would be tokenized differently here." % (
            path, shown(name)))
  for name in ("sentencepiece.bpe.model", "spiece.model", "merges.txt"):
    if os.path.exists(os.path.join(hf_dir, name)):
      raise ValueError(
          "%s has %s, so its tokenizer is not WordPiece; texts would be "
          "tokenized differently here." % (hf_dir, name))


def _normalizer_lower_case(hf_dir):
  """Returns (`lowercase` of tokenizer.json or None, the file's path)."""
  path = os.path.join(hf_dir, "tokenizer.json")
  if not os.path.exists(path):
    return None, path
  normalizer = safetensors_reader.load_json_object(path).get("normalizer")
  parts = [normalizer]
  if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
    parts = normalizer.get("normalizers")
  found = None
  for part in parts if isinstance(parts, list) else ():
    if isinstance(part, dict) and part.get("type") == "Lowercase":
      found = True
    elif isinstance(part, dict) and isinstance(part.get("lowercase"), bool):
      found = found or part["lowercase"]
  return found, path


def read_vocab(hf_dir, vocab_size):
  """Reads the vocabulary.

  Args:
    hf_dir: str.
    vocab_size: int, rows of the word embeddings.

  Returns:
    bytes: vocab.txt unchanged, or, if newer versions of transformers left it
      out, from tokenizer.json.

  Raises:
    ValueError: it cannot be read, or is not a vocabulary of that many tokens.
  """
  path = os.path.join(hf_dir, VOCAB_FILE)
  tokenizer_json = os.path.join(hf_dir, "tokenizer.json")
  if not os.path.exists(path) and os.path.exists(tokenizer_json):
    path, vocab = tokenizer_json, _vocab_of_tokenizer_json(tokenizer_json)
  else:
    vocab = _read_vocab_file(path)
  tokens = vocab.rstrip(b"\r\n")  # empty lines at the end are not tokens
  lines = tokens.count(b"\n") + bool(tokens)
  if not lines:
    raise ValueError("%s is empty." % path)
  if lines > vocab_size:
    raise ValueError(
        "%s has %d tokens, but config.json says vocab_size is %d; they do not "
        "belong to the same model." % (path, lines, vocab_size))
  if lines < vocab_size:
    logging.info("%s has %d tokens, but the embeddings have %d rows; the last "
                 "rows are not used.", path, lines, vocab_size)
  return vocab


def _read_vocab_file(path):
  try:
    with atomic_files.open_regular(path) as reader:
      vocab = reader.read(_MAX_VOCAB_BYTES + 1)
  except OSError as error:
    raise ValueError(
        "%s (the vocabulary, one token per line) cannot be read: %s; if the "
        "model has neither it nor a WordPiece tokenizer.json, use the one of "
        "its base model." % (path, error.strerror))
  if len(vocab) > _MAX_VOCAB_BYTES:
    raise ValueError("%s is longer than %d bytes; it is not a vocabulary." % (
        path, _MAX_VOCAB_BYTES))
  try:
    vocab.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError("%s:%d is not UTF-8." % (
        path, vocab.count(b"\n", 0, error.start) + 1))
  return vocab


def _vocab_of_tokenizer_json(path):
  """Returns a WordPiece tokenizer's vocabulary as the lines of vocab.txt."""
  model = safetensors_reader.load_json_object(path).get("model")
  kind = model.get("type") if isinstance(model, dict) else None
  ids = model.get("vocab") if isinstance(model, dict) else None
  if kind != "WordPiece" or not isinstance(ids, dict):
    raise ValueError("%s: the tokenizer is %s, not WordPiece; texts would be "
                     "tokenized differently here." % (path, shown(kind)))
  if not all(type(i) is int for i in ids.values()) or sorted(
      ids.values()) != list(range(len(ids))):
    raise ValueError("%s: the ids of the vocabulary must be 0 to %d." % (
        path, len(ids) - 1))
  tokens = sorted(ids, key=ids.get)
  for token in tokens:
    if "\n" in token:
      raise ValueError("%s: the token %s has a line break." % (
          path, shown(token)))
  try:
    return "".join(token + "\n" for token in tokens).encode("utf-8")
  except UnicodeEncodeError:
    raise ValueError("%s: a token is not valid Unicode." % path)


def _check_output_dir(output_dir):
  """Rejects a folder whose files are not from an earlier conversion."""
  if not os.path.lexists(output_dir):
    return
  if not os.path.isdir(output_dir):
    raise ValueError("output_dir %s is not a folder." % output_dir)
  names = os.listdir(output_dir)
  # A killed conversion leaves such a folder behind.
  begun = [name for name in names if _is_work_folder(output_dir, name)]
  ours = bool(begun)
  if CONFIG_FILE in names:
    # Released models have the same files, but not this key.
    ours = "gelu_approximate" in safetensors_reader.load_json_object(
        os.path.join(output_dir, CONFIG_FILE))
  for name in sorted(names):
    if name not in begun and not (ours and name in _OUTPUT_FILES):
      raise ValueError(
          "output_dir %s contains %s, which is not from an earlier conversion; "
          "name a new folder." % (output_dir, shown(name)))


def _is_work_folder(output_dir, name):
  """Whether a killed conversion left this: marked, with nothing else in it."""
  path = os.path.join(output_dir, name)
  return work_folder.is_ours(path, _WORK_PREFIX) and all(
      inside in _OUTPUT_FILES or inside == work_folder.MARK_FILE or
      inside.startswith(CHECKPOINT + ".") for inside in os.listdir(path))


def _write(output_dir, tensors, vocab, config_json):
  """Writes the result; `bert_config.json` appears last."""
  new = not os.path.isdir(output_dir)
  try:
    os.makedirs(output_dir, exist_ok=True)
    for name in os.listdir(output_dir):
      if _is_work_folder(output_dir, name):
        work_folder.remove(os.path.join(output_dir, name))
    work_dir = work_folder.make(output_dir, _WORK_PREFIX)
    try:
      with open(os.path.join(work_dir, VOCAB_FILE), "wb") as writer:
        writer.write(vocab)
      with open(os.path.join(work_dir, CONFIG_FILE), "w") as writer:
        writer.write(config_json)
      _save_tensors(os.path.join(work_dir, CHECKPOINT), tensors)
      _put_in_place(work_dir, output_dir)
    finally:
      work_folder.remove(work_dir)
      if new and not os.listdir(output_dir):
        os.rmdir(output_dir)
  except (OSError, tf.errors.OpError) as error:
    raise RuntimeError("output_dir %s cannot be written: %s" % (
        output_dir, " ".join(str(getattr(error, "message", error)).split())))


def _put_in_place(work_dir, output_dir):
  """Renames the finished files, after syncing them."""
  for name in _OUTPUT_FILES:
    atomic_files.sync_file(os.path.join(work_dir, name))
  config_path = os.path.join(output_dir, CONFIG_FILE)
  if os.path.exists(config_path):
    os.remove(config_path)  # from here on, the earlier conversion is invalid
  for name in _OUTPUT_FILES:
    atomic_files.replace_file(os.path.join(work_dir, name),
                              os.path.join(output_dir, name))


def _save_tensors(prefix, tensors):
  """Writes a checkpoint of exactly these names and float32 arrays."""
  with tf.Graph().as_default():
    # Fed, since constants in a graph are limited to 2 GB; and saved without
    # variables, which would be a second copy.
    placeholders = [tf.placeholder(tf.float32, value.shape)
                    for value in tensors.values()]
    save = tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors), tensors=placeholders)
    config = tf.ConfigProto(device_count={"GPU": 0})
    with tf.Session(config=config) as session:
      session.run(save, dict(zip(placeholders, tensors.values())))
