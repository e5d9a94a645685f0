# SPDX-License-Identifier: Apache-2.0
"""The Beam pipeline of `scale.batch_predict`: files to labelled rows.

Files are split into blocks, the blocks are distributed to the workers, and a
worker reads, predicts and writes a block without further exchange.
"""

import json
import os
import tempfile
import time

import apache_beam as beam
from apache_beam.io import filesystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference import base
import pyarrow

from scale import input_blocks


NAMESPACE = "batch_predict"

# Rows that are predicted together, in batches by length; as predict_session.
ROWS_TOGETHER = 1024

BAD = "bad"

# Of the files of a trained directory those that prediction does not need.
_NOT_NEEDED = (".tf_record", ".tf_record.json", ".tf_record.index.npy")


def open_file(path):
  """Opens a file on any file system that Beam supports, without unpacking."""
  return filesystems.FileSystems.open(
      path,
      compression_type=filesystems.CompressionTypes.UNCOMPRESSED)


def match(pattern):
  """Returns the paths that a pattern finds, sorted: list of str."""
  found = filesystems.FileSystems.match([pattern])[0].metadata_list
  return sorted(metadata.path for metadata in found)


class CutFile(beam.DoFn):
  """A path to `Block`s; a file that cannot be read is a bad row."""

  def __init__(self, form, options, block_bytes=input_blocks.BLOCK_BYTES):
    self._form = form
    self._options = options
    self._block_bytes = block_bytes
    self._bad_files = Metrics.counter(NAMESPACE, "bad_files")

  def process(self, path):
    try:
      for block in input_blocks.cut(path, self._form, open_file, self._options,
                                    self._block_bytes):
        yield block
    except (ValueError, OSError, EOFError) as error:
      self._bad_files.inc()
      yield beam.pvalue.TaggedOutput(BAD, input_blocks.BadRow(
          path, None, None, " ".join(str(error).split())))


class ReadBlock(beam.DoFn):
  """A `Block` to its `Row`s; the bad ones go another way."""

  def __init__(self):
    self._bad_rows = Metrics.counter(NAMESPACE, "bad_rows")

  def process(self, block):
    for row in input_blocks.read_block(block, open_file):
      if isinstance(row, input_blocks.BadRow):
        self._bad_rows.inc()
        yield beam.pvalue.TaggedOutput(BAD, row)
      else:
        yield row


class SessionModelHandler(base.ModelHandler):
  """The handler of RunInference for a predictor of either kind.

  RunInference loads it once per process, for all threads of it.
  """

  def __init__(self, model_dir, batch_size=32, settings=None,
               intra_op_threads=None, verify_checkpoint=True,
               probabilities="all", rows_together=ROWS_TOGETHER):
    """Keeps the settings; the model is loaded where it is needed.

    Args:
      model_dir: str, `--output_dir` of a training run; on a file system that
        TensorFlow's runtime does not know (`gs://`, `hdfs://`), each process
        makes a copy.
      batch_size: int, texts per `session.run`.
      settings: dict, `threshold`, `top_k`, `always_one_label`; what is None,
        or absent, is the directory's.
      intra_op_threads: int, as for `SessionPredictor`.
      verify_checkpoint: bool, as for `SessionPredictor`.
      probabilities: "all"; "labels", those of the labels alone; or int, the
        most probable ones.
      rows_together: int, rows that are predicted and described at a time.
    """
    super().__init__()
    self._model_dir = model_dir
    self._batch_size = batch_size
    self._settings = dict(settings or {})
    self._intra_op_threads = intra_op_threads
    self._verify_checkpoint = verify_checkpoint
    self._probabilities = probabilities
    self._rows_together = rows_together

  def load_model(self):
    # TensorFlow is imported by the workers that predict, no earlier.
    import predict_onnx  # pylint: disable=g-import-not-at-top
    return predict_onnx.open_predictor(
        local_model_dir(self._model_dir), self._batch_size,
        intra_op_threads=self._intra_op_threads,
        verify_checkpoint=self._verify_checkpoint)

  def run_inference(self, batch, model, inference_args=None):
    """Returns the rows as dicts, in the order of `batch`."""
    start = time.monotonic()
    described = model.describe(
        model.predict([row.text if row.text_pair is None
                       else (row.text, row.text_pair) for row in batch]),
        which=self._probabilities, **self._settings)
    records = [_record(row, result) for row, result in zip(batch, described)]
    Metrics.distribution(NAMESPACE, "batch_milliseconds").update(
        int(1000 * (time.monotonic() - start)))
    Metrics.counter(NAMESPACE, "rows").inc(len(records))
    Metrics.counter(NAMESPACE, "labels").inc(
        sum(len(record["labels"]) for record in records))
    return records

  def batch_elements_kwargs(self):
    return {"min_batch_size": self._rows_together,
            "max_batch_size": self._rows_together}

  def get_num_bytes(self, batch):
    return sum(len(row.text) for row in batch)

  def get_metrics_namespace(self):
    return NAMESPACE


def _record(row, result):
  """A row of the output."""
  return {"id": row.id, "file": row.file, "row": row.row, "text": row.text,
          "text_pair": row.text_pair,
          "labels": [label for label, _ in result.labels],
          "probabilities": dict(result.probabilities)}


class _LocalFolder(object):
  """A local copy of a remote directory; removed with its last user."""

  def __init__(self, folder):
    # The object is kept by the process, and removes the folder at its end.
    self.temporary = tempfile.TemporaryDirectory(prefix="model-")
    for path in match(filesystems.FileSystems.join(folder, "*")):
      name = path.rstrip("/").rpartition("/")[2]
      if name.endswith(_NOT_NEEDED) or name.startswith("events.out."):
        continue
      with open_file(path) as reader, open(
          os.path.join(self.temporary.name, name), "wb") as writer:
        for piece in iter(lambda: reader.read(1 << 24), b""):
          writer.write(piece)


_COPIES = {}


def local_model_dir(model_dir):
  """The directory itself, or a copy of it if it has a scheme (`gs://`)."""
  if "://" not in model_dir:
    return model_dir
  if model_dir not in _COPIES:
    _COPIES[model_dir] = _LocalFolder(model_dir)
  return _COPIES[model_dir].temporary.name


# --- Writing -----------------------------------------------------------------

AVRO_SCHEMA = {
    "type": "record", "name": "LabelledText", "fields": [
        {"name": "id", "type": "string"},
        {"name": "file", "type": "string"},
        {"name": "row", "type": "long"},
        {"name": "text", "type": "string"},
        {"name": "text_pair", "type": ["null", "string"], "default": None},
        {"name": "labels", "type": {"type": "array", "items": "string"}},
        {"name": "probabilities", "type": {"type": "map", "values": "float"}},
    ]}


def parquet_schema():
  """The same as `AVRO_SCHEMA`, for Parquet: `pyarrow.Schema`."""
  return pyarrow.schema([
      pyarrow.field("id", pyarrow.string(), False),
      pyarrow.field("file", pyarrow.string(), False),
      pyarrow.field("row", pyarrow.int64(), False),
      pyarrow.field("text", pyarrow.string(), False),
      ("text_pair", pyarrow.string()),
      ("labels", pyarrow.list_(pyarrow.string())),
      ("probabilities", pyarrow.map_(pyarrow.string(), pyarrow.float32()))])


def to_json(record):
  """A line of the output, its keys as predict_session.py has them."""
  record = {key: value for key, value in record.items()
            if key != "text_pair" or value is not None}
  record["probabilities"] = {
      label: round(value, 6)
      for label, value in record["probabilities"].items()}
  return json.dumps(record, ensure_ascii=False)


def _to_parquet(record):
  return dict(record, probabilities=list(record["probabilities"].items()))


def write(records, prefix, suffix, num_shards=0):
  """Writes a PCollection of records in shards; the suffix tells the form.

  Beam's sinks write beside, and rename at the end what one attempt at each
  bundle has written.
  """
  if suffix == ".avro":
    return records | "Write" >> beam.io.WriteToAvro(
        prefix, AVRO_SCHEMA, file_name_suffix=suffix, num_shards=num_shards)
  if suffix == ".parquet":
    return (records | "ToColumns" >> beam.Map(_to_parquet)
            | "Write" >> beam.io.WriteToParquet(
                prefix, parquet_schema(), file_name_suffix=suffix,
                num_shards=num_shards))
  return (records | "ToJson" >> beam.Map(to_json)
          | "Write" >> beam.io.WriteToText(
              prefix, file_name_suffix=suffix, num_shards=num_shards))


def _bad_to_json(bad):
  return json.dumps(bad._asdict(), ensure_ascii=False)


def build(pipeline, paths, form, options, handler, prefix, suffix, bad_prefix,
          num_shards=0, block_bytes=input_blocks.BLOCK_BYTES):
  """Adds all steps to a pipeline.

  Args:
    pipeline: `beam.Pipeline`.
    paths: list of str, the files.
    form: one of `input_blocks.FORMS`; None: by each file's ending.
    options: dict, see `input_blocks.cut`.
    handler: `SessionModelHandler`.
    prefix: str, shards are called `<prefix>-00000-of-00004<suffix>`.
    suffix: ".jsonl", ".avro" or ".parquet".
    bad_prefix: str, of the one shard of bad rows, `.jsonl`.
    num_shards: int; 0: as the runner has it.
    block_bytes: int, see `input_blocks.cut`.
  """
  blocks = (pipeline | "Files" >> beam.Create(paths)
            | "SpreadFiles" >> beam.Reshuffle()
            | "Cut" >> beam.ParDo(CutFile(
                form, options, block_bytes)).with_outputs(BAD, main="blocks"))
  rows = (blocks.blocks | "SpreadBlocks" >> beam.Reshuffle()
          | "Read" >> beam.ParDo(ReadBlock()).with_outputs(BAD, main="rows"))
  records = rows.rows | "Predict" >> base.RunInference(handler)
  write(records, prefix, suffix, num_shards)
  ((blocks[BAD], rows[BAD]) | "BadRows" >> beam.Flatten()
   | "BadToJson" >> beam.Map(_bad_to_json)
   | "WriteBad" >> beam.io.WriteToText(
       bad_prefix, file_name_suffix=".jsonl", num_shards=1))
