# An example of an agent: the SDK, a PostgreSQL driver, and a program that uses both.
FROM tasklease/broker:dev
USER 0:0
COPY wheels /wheels
RUN PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels /opt/venv/bin/pip install --no-deps --require-hashes --no-cache-dir \
      -r /wheels/extra.lock && rm -rf /wheels
COPY docker/agent /opt/agent
USER 10001:10001
ENTRYPOINT ["python"]
CMD ["/opt/agent/reconcile.py"]
