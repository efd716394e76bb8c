# syntax=docker/dockerfile:1
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
# otel: with what AIPROXY_OTLP_ENDPOINT needs.
ARG REQUIREMENTS=prod
COPY requirements/${REQUIREMENTS}.txt /tmp/requirements.txt
RUN /venv/bin/pip install --require-hashes --only-binary :all: --compile -r /tmp/requirements.txt \
    && /venv/bin/pip uninstall --yes pip setuptools

FROM packages AS static
WORKDIR /app
COPY . .
RUN DJANGO_SETTINGS_MODULE=aiproxy.settings /venv/bin/python manage.py collectstatic --no-input \
    && /venv/bin/python -m compileall -q .

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="aiproxy" \
      org.opencontainers.image.description="A multi-tenant AI proxy" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AIPROXY_DATA_DIR=/data
# Nothing that installs packages: who gets in finds no tool, and the base image's own versions need no patches.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/* \
    && groupadd --gid 10001 aiproxy \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin aiproxy \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=packages /venv /venv
COPY --from=static /app /app
WORKDIR /app
USER 10001:10001
# The journal: usage that no database has yet. Losing it loses rows.
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["python", "manage.py"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--workers", "2"]
