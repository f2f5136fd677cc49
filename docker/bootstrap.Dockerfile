# What is done once when the stack of docker-compose.yml first comes up; see bootstrap.py.
FROM tasklease/broker:dev
COPY --from=ghcr.io/spiffe/spire-server:1.13.3 /opt/spire/bin/spire-server /opt/spire/bin/spire-server
COPY vault /opt/bootstrap/vault
COPY examples/catalog /opt/bootstrap/catalog
COPY examples/policies /opt/bootstrap/policies
COPY docker/bootstrap.py /opt/bootstrap/bootstrap.py
USER 0:0
ENTRYPOINT ["python", "/opt/bootstrap/bootstrap.py"]
