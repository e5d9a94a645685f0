# SPDX-License-Identifier: Apache-2.0
# The HTTP server for CPUs. The model is mounted at /model:
#   docker build -t multilabel-server .
#   docker run --rm -p 8501:8501 -v "$(pwd)/myoutput:/model:ro" multilabel-server
# For ONNX folders alone, without TensorFlow:
#   docker build --build-arg SOURCE=./packaging/predict -t multilabel-server .
FROM python:3.11-slim

ARG SOURCE=.
COPY . /src
WORKDIR /src
RUN pip install --no-cache-dir "$SOURCE[serve]"
WORKDIR /
RUN rm -r /src

USER 65534
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/readyz', timeout=4)"]
ENTRYPOINT ["bert-multilabel", "serve", "--model_dir=/model", "--host=0.0.0.0", "--port=8501"]
