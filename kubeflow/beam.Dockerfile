# The image of Beam's workers on Dataflow, Flink and Spark: that of the nodes with the start program of Beam's workers.
#   docker build --file kubeflow/beam.Dockerfile --build-arg NODES=registry/anchorage:1 --tag registry/anchorage-beam:1 .
# The version of Beam must be that of uv.lock.
ARG NODES=registry/anchorage:1
FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM ${NODES}
COPY --from=beam /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]
