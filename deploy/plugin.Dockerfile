# Coursewire with a plug-in: `docker build -f deploy/plugin.Dockerfile -t coursewire:ours FOLDER`, where FOLDER
# holds the wheel; then `COURSEWIRE_IMAGE=coursewire:ours` in .env, and `docker compose up -d --no-build`.
FROM coursewire:local
COPY *.whl /tmp/
RUN pip --python /app/.venv/bin/python install --no-cache-dir /tmp/*.whl
