# An example of an agent: the SDK, a PostgreSQL driver, and a program that uses both.
FROM tasklease/broker:dev
USER 0:0
COPY wheels /wheels
RUN /opt/venv/bin/pip install --no-index --find-links /wheels --no-deps --require-hashes --no-cache-dir \
      -r /wheels/extra.lock && rm -rf /wheels
COPY docker/agent /opt/agent
USER 10001:10001
ENTRYPOINT ["python"]
CMD ["/opt/agent/reconcile.py"]
