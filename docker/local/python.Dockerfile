# Stands in for python:3.11-slim-bookworm where that cannot be pulled: Debian's own Python 3.11 with the same names.
FROM scratch
ADD root.tar /
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/python3 /usr/local/bin/python3
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["python3"]
