# SPDX-License-Identifier: Apache-2.0
"""Serves a trained directory over HTTP, on this machine.

  python serve_http.py --model_dir=DIR --port=8501

TensorFlow Serving's REST paths, /v1/label for texts, and a page to try it at /.
Stops on SIGTERM when what is in flight is done; SIGHUP loads a newer
checkpoint. Needs the extra `serve` (uvicorn, starlette). See
serving/HTTP.md.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import collections
import ipaddress
import os
import sys
import time

from absl import flags
from absl import logging

from multilabel.serving import http_workers


FLAGS = flags.FLAGS

# What `run_worker` is told; all but the last are flags of the same name.
_OPTIONS = (
    "model_dir", "model_name", "version", "device", "inter_op_threads",
    "intra_op_threads", "max_batch_size", "max_delay_ms", "max_queue",
    "max_body_bytes", "max_texts", "max_characters", "max_words",
    "max_connections", "head_timeout", "body_timeout", "request_timeout",
    "send_timeout", "keep_alive", "grace_seconds", "tls_certificate",
    "tls_key", "log_requests", "log_texts", "workers",
    "allow_older_checkpoint", "keys")

Options = collections.namedtuple("Options", _OPTIONS)


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Model"):
    flags.DEFINE_string("model_dir", None, "--output_dir of a training run.")
    flags.DEFINE_string("model_name", "multilabel",
                        "NAME in /v1/models/NAME.")
    flags.DEFINE_integer("version", None, "Its version; default: the "
                         "checkpoint's step.")
    flags.DEFINE_string("device", None, "Such as /gpu:0; default: "
                        "TensorFlow's choice.")
    flags.DEFINE_bool("allow_older_checkpoint", False, "Where the best, or "
                      "newest, checkpoint is broken, serve the newest that is "
                      "whole.")
  with command_line.flag_group("Network"):
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 "
                        "is every one of this machine.")
    flags.DEFINE_integer("port", 8501, "Port to listen at; 0: any.")
    flags.DEFINE_string("api_key_file", None, "File with keys, one a line, "
                        "one of which a request must bring.")
    flags.DEFINE_string("tls_certificate", None, "PEM file with the "
                        "certificate, for https.")
    flags.DEFINE_string("tls_key", None, "PEM file with its private key.")
    flags.DEFINE_integer("workers", 1, "Processes, each with a model of its "
                         "own and its share of the cores.")
  with command_line.flag_group("Batches"):
    flags.DEFINE_integer("max_batch_size", 32, "Texts a run of the model.")
    flags.DEFINE_float("max_delay_ms", 2.0, "Longest wait for others to "
                       "share a run, milliseconds.")
    flags.DEFINE_integer("max_queue", 512, "Texts that may wait; beyond it "
                         "the answer is 503.")
    flags.DEFINE_integer("intra_op_threads", None, "Threads an operation; "
                         "default: the cores, shared by --workers.")
    flags.DEFINE_integer("inter_op_threads", None, "Operations at a time; "
                         "default: TensorFlow's.")
  with command_line.flag_group("Limits"):
    flags.DEFINE_integer("max_body_bytes", 4 << 20, "Bytes a request.")
    flags.DEFINE_integer("max_texts", 128, "Texts a request.")
    flags.DEFINE_integer("max_characters", 20000, "Characters a text.")
    flags.DEFINE_integer("max_words", 60, "Words that are weighed when a text "
                         "is explained, a run of the model each.")
    flags.DEFINE_integer("max_connections", 1000, "Connections at a time; "
                         "beyond it those that wait longest are ended.")
    flags.DEFINE_float("head_timeout", 10, "Seconds for a request's head.")
    flags.DEFINE_float("body_timeout", 30, "Seconds for a request's body.")
    flags.DEFINE_float("request_timeout", 30, "Seconds for the answer.")
    flags.DEFINE_float("send_timeout", 60, "Seconds for reading the answer.")
    flags.DEFINE_float("keep_alive", 15, "Seconds between two requests of a "
                       "connection.")
    flags.DEFINE_float("grace_seconds", 20, "Seconds for what is in flight "
                       "when the server is told to stop.")
  with command_line.flag_group("Log"):
    flags.DEFINE_bool("log_requests", False, "A line a request, without what "
                      "is in it.")
    flags.DEFINE_bool("log_texts", False, "A line a text.")
  # For this program's own processes; not in --help.
  flags.DEFINE_string("as_worker", None, "SOCKET,LINE,FOLDER")


def read_keys(path):
  """Reads the keys of a file, one a line.

  Args:
    path: str, or None for no keys.

  Returns:
    list of bytes.

  Raises:
    ValueError: the file cannot be read, or has no keys, or weak ones.
  """
  if path is None:
    return []
  try:
    with open(path, "rb") as reader:
      keys = reader.read().split()
  except EnvironmentError as error:
    raise ValueError("--api_key_file %s cannot be read: %s." % (
        path, error.strerror))
  if not keys:
    raise ValueError("--api_key_file %s has no key; put one a line into it." %
                     path)
  if min(map(len, keys)) < 16:
    raise ValueError("--api_key_file %s has a key of less than 16 characters, "
                     "which can be guessed; `openssl rand -hex 32` makes one." %
                     path)
  return keys


def check_flags(flag_values):
  """Raises ValueError for flags that cannot work."""
  if not flag_values.model_dir:
    raise ValueError("--model_dir must be given.")
  if not os.path.isdir(flag_values.model_dir):
    raise ValueError("model_dir %s is not a directory." % flag_values.model_dir)
  name = flag_values.model_name
  if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
    raise ValueError("--model_name %s must be letters, digits, _, - and . "
                     "alone." % name)
  for flag in ("workers", "max_batch_size", "max_queue", "max_body_bytes",
               "max_texts", "max_characters", "max_words", "max_connections"):
    if flag_values[flag].value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          flag, flag_values[flag].value))
  for flag in ("version", "inter_op_threads", "intra_op_threads"):
    value = flag_values[flag].value
    if value is not None and value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (flag, value))
  for flag in ("head_timeout", "body_timeout", "request_timeout",
               "send_timeout", "keep_alive"):
    if not 0 < flag_values[flag].value < 1e6:
      raise ValueError("--%s is %s; it must be seconds, more than 0." % (
          flag, flag_values[flag].value))
  for flag in ("grace_seconds", "max_delay_ms"):
    if not 0 <= flag_values[flag].value < 1e6:
      raise ValueError("--%s is %s; it must be 0 or more." % (
          flag, flag_values[flag].value))
  if not 0 <= flag_values.port < 65536:
    raise ValueError("--port is %d; it must be from 0 to 65535." %
                     flag_values.port)
  if flag_values.max_queue < flag_values.max_texts:
    raise ValueError("--max_queue is %d; it must be at least --max_texts, %d, "
                     "or a request of so many can never be served." % (
                         flag_values.max_queue, flag_values.max_texts))
  if (flag_values.tls_certificate is None) != (flag_values.tls_key is None):
    raise ValueError("--tls_certificate and --tls_key need each other.")
  _check_certificate(flag_values.tls_certificate, flag_values.tls_key)


def _check_certificate(certificate, key):
  if certificate is None:
    return
  import ssl
  for flag, path in (("tls_certificate", certificate), ("tls_key", key)):
    if not os.path.isfile(path):
      raise ValueError("--%s %s: there is no such file." % (flag, path))
  try:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        certificate, key, password=lambda: "")
  except (ssl.SSLError, EnvironmentError) as error:
    raise ValueError("--tls_certificate %s and --tls_key %s are no certificate "
                     "and its key without a password: %s." % (
                         certificate, key, error))


def _import_server():
  """Imports what the extra brings; ValueError with what to do without it."""
  try:
    from multilabel.serving import http_server as http_server_module
    return http_server_module
  except ImportError as error:
    if (error.name or "").split(".")[0] not in (
        "uvicorn", "starlette", "httptools", "anyio"):
      raise
    raise ValueError("the server needs %s, which is not installed: pip install "
                     "'bert-multilabel[serve]'." % error.name)


def run_worker(options, sock, on_ready, line=None, folder=None):
  """Loads the model and serves it in this process.

  Args:
    options: `Options`.
    sock: bound socket.
    on_ready: function of the predictor, called when requests are taken.
    line: socket at whose end the process stops, or None.
    folder: str, where the processes of this server keep their counts, or None.
  """
  http_server = _import_server()
  from multilabel.inference import micro_batching
  from multilabel.serving import http_app
  from multilabel.serving import http_requests
  from multilabel.serving import word_importance
  from multilabel.storage import trained_model
  import predict_session

  trained = trained_model.read(options.model_dir)
  predictor = predict_session.SessionPredictor(
      options.model_dir, batch_size=options.max_batch_size,
      device=options.device, inter_op_threads=options.inter_op_threads,
      intra_op_threads=options.intra_op_threads or (
          http_workers.share_of_cores(options.workers)),
      allow_older_checkpoint=options.allow_older_checkpoint)
  predictor.warm_up()
  batcher = micro_batching.MicroBatcher(
      predictor, max_batch_size=options.max_batch_size,
      max_delay_ms=options.max_delay_ms, max_queue=options.max_queue)
  config = trained.bert_config
  limits = http_requests.Limits(
      config.vocab_size, config.type_vocab_size,
      config.max_position_embeddings, predictor.encode([""])[0][0].input_ids[0],
      options.max_texts, options.max_characters)
  application = http_app.Application(
      predictor, batcher, micro_batching.QueueFull, word_importance.explain,
      http_app.Settings(
          options.model_name, options.version, options.max_body_bytes,
          options.body_timeout, options.request_timeout, options.max_words,
          options.keys, options.log_requests, options.log_texts),
      limits, folder)
  try:
    http_server.run(
        application, sock, options, lambda: on_ready(predictor),
        lambda: _reload(predictor), None if line is None else line.fileno())
  finally:
    application.close()
    batcher.close(0)
    predictor.close()
  logging.info("Stopped.")


def _reload(predictor):
  """Loads a newer checkpoint; a broken one leaves the old one in place."""
  try:
    logging.info("Now serving step %d." if predictor.reload() else
                 "No checkpoint is newer than step %d.", predictor.step)
  except Exception as error:  # pylint: disable=broad-except
    logging.error("The newer checkpoint is not served: %s",
                  " ".join(str(error).split()))


def _warn_of_exposure(sock, keys):
  address = ipaddress.ip_address(sock.getsockname()[0])
  if not address.is_loopback and not keys:
    logging.warning(
        "Listening at %s, beyond this machine, without --api_key_file: whoever "
        "reaches it can use it.", address)


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." % argv[1])
  started = time.time()
  check_flags(FLAGS)
  keys = read_keys(FLAGS.api_key_file)
  options = Options(*[
      keys if name == "keys" else FLAGS[name].value for name in _OPTIONS])
  http_server = _import_server()
  if FLAGS.as_worker:
    shared = http_workers.read_shared(FLAGS.as_worker)
    run_worker(options, shared.sock, lambda _: shared.line.send(b"r"),
               shared.line, shared.folder)
    return
  sock = http_server.bind(FLAGS.host, FLAGS.port)
  _warn_of_exposure(sock, keys)
  address = http_server.url(sock, FLAGS.tls_certificate is not None)

  def say_ready(what):
    print("Serving %s at %s (ready after %.1f s)" % (
        what, address, time.time() - started))
    sys.stdout.flush()

  if FLAGS.workers == 1:
    run_worker(options, sock, lambda predictor: say_ready(
        "%s, version %s, %d labels," % (
            FLAGS.model_name, FLAGS.version or predictor.step,
            len(predictor.labels))))
    return
  status = http_workers.Workers(
      [sys.executable, "serve_http.py"] + sys.argv[1:], sock,
      FLAGS.workers, FLAGS.grace_seconds).run(lambda: say_ready(
          "%s in %d processes" % (FLAGS.model_name, FLAGS.workers)))
  if status:
    sys.exit(status)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
