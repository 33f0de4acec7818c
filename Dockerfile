# One image for every process of Coursewire. A plug-in is added by deploy/plugin.Dockerfile.
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir 'uv>=0.8'
ENV UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
WORKDIR /app
# What it needs changes less often than itself.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra postgresql --no-install-project
COPY README.md CHANGELOG.md ./
COPY coursewire coursewire
COPY schemas schemas
COPY receiver receiver
COPY workers workers
COPY console console
RUN uv sync --locked --no-dev --extra postgresql --no-editable

FROM python:3.13-slim
# pg_dump and pg_restore, for `coursewire backup` and `restore`; not older than the server.
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-client \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 coursewire \
    && useradd --uid 10001 --gid coursewire --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin coursewire \
    && install -d -m 0700 -o coursewire -g coursewire /var/lib/coursewire
# The user's own, so that a plug-in is installed without becoming root; at run time all is read-only.
COPY --from=build --chown=coursewire:coursewire /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    COURSEWIRE_DATA_DIR=/var/lib/coursewire
USER 10001:10001
WORKDIR /var/lib/coursewire
ENTRYPOINT ["coursewire"]
CMD ["--help"]
