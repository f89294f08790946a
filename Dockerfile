# One image for all three servers. The first argument of a container names its server; see docker-compose.yml.

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY . .
# Two wheels: the engine and the shop. The environment has no pip, and its Python has the same path as in the runtime
# stage, so that the folder can be copied.
RUN pip wheel --no-cache-dir --wheel-dir /wheels . ./shop \
    && python -m venv --without-pip /opt/diptych \
    && pip --python /opt/diptych install --no-cache-dir --no-index --find-links /wheels \
        /wheels/diptych-*.whl /wheels/diptych_shop-*.whl

FROM python:3.13-slim-bookworm
# The user owns only the data. Its number is fixed, because the files of a volume belong to numbers, not to names.
RUN groupadd --gid 10001 diptych \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin diptych \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/diptych /opt/diptych
ENV PATH=/opt/diptych/bin:$PATH
# The servers look for a domain in their working directory too. Only root can write to this one.
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["diptych"]
CMD ["--help"]
