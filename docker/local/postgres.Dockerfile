# Stands in for postgres:15-bookworm where that cannot be pulled: Debian's PostgreSQL, the same user, folders and
# variables as far as docker-compose.yml uses them.
FROM scratch
ADD root.tar /
RUN groupmod -g 999 postgres && usermod -u 999 -g 999 -d /var/lib/postgresql postgres \
 && install -d -o 999 -g 999 -m 0700 /var/lib/postgresql/data \
 && install -d -o 999 -g 999 -m 3777 /var/run/postgresql \
 && mkdir /docker-entrypoint-initdb.d
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
RUN chmod 0755 /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin \
    PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
