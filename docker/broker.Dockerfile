# The broker, the command line and the SDK. Built by docker/build-local-images.sh, which lays `wheels` into the
# context: the build needs no network, and every file was checked against requirements.lock.
FROM python:3.11-slim-bookworm AS build
RUN python -m venv /opt/venv
COPY wheels /wheels
COPY requirements.lock /source/
RUN PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels /opt/venv/bin/pip install --no-deps --require-hashes --no-cache-dir \
      -r /source/requirements.lock
COPY pyproject.toml README.md LICENSE /source/
COPY broker /source/broker
RUN PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels /opt/venv/bin/pip install --no-deps --no-cache-dir /source

FROM python:3.11-slim-bookworm
COPY --from=build /opt/venv /opt/venv
RUN groupadd -g 10001 tasklease && useradd -u 10001 -g 10001 -M -d /var/lib/tasklease -s /usr/sbin/nologin tasklease \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/tasklease
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["tasklease"]
CMD ["serve", "--config", "/etc/tasklease/broker.yaml"]
