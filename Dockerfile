# One image for all three servers: the first argument says which of them a container is, as docker-compose.yml does.

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY . .
# An environment without pip. The runtime stage has its Python at the same place, so that it can be copied as it is.
RUN pip wheel --no-cache-dir --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/diptych \
    && pip --python /opt/diptych install --no-cache-dir --no-index --find-links /wheels /wheels/diptych-*.whl

FROM python:3.13-slim-bookworm
# A user that owns nothing but the data. Its number is fixed: the files of a volume belong to numbers, not to names.
RUN groupadd --gid 10001 diptych \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin diptych \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/diptych /opt/diptych
ENV PATH=/opt/diptych/bin:$PATH
# Nobody but root can put a module here, and the servers look for a domain in their working directory too.
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["diptych"]
CMD ["--help"]
