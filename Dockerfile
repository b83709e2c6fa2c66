# isbi-infer on a CPU, with the versions of constraints.txt:
#   docker build --tag isbi-infer .
#   docker run --rm --volume "$PWD:/data" --user "$(id -u)" isbi-infer stack.tif
FROM python:3.11-slim-bookworm

COPY . /opt/isbi-infer
RUN pip install --no-cache-dir --constraint /opt/isbi-infer/constraints.txt "/opt/isbi-infer[cpu,report,volume,labels]" \
    && useradd --uid 1000 --create-home isbi

USER 1000
ENV ISBI_INFER_CACHE=/tmp/isbi-infer
WORKDIR /data
ENTRYPOINT ["isbi-infer"]
CMD ["--help"]
