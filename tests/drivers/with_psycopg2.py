"""psycopg 2 (libpq, simple protocol only): a session, the console, the next host, a switchover."""

import io
import os
import select

import psycopg2

PORT, REFUSING, TARGET_PORT = (int(os.environ[name]) for name in ("PORT", "REFUSING", "TARGET_PORT"))
APP = dict(host="127.0.0.1", dbname="app", user="app", password="app-secret")
ADMIN = dict(host="127.0.0.1", dbname="pgsluice", user="admin", password="admin-secret", port=PORT)


def value(conn, sql, *parameters):
    with conn.cursor() as cur:
        cur.execute(sql, parameters or None)
        return cur.fetchone()[0]


conn = psycopg2.connect(**APP, port=PORT)
conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
assert value(conn, "SHOW transaction_isolation") == "repeatable read"
conn.rollback()
conn.set_session(isolation_level="DEFAULT", readonly=False)
with conn.cursor() as cur:
    cur.execute("CREATE TEMP TABLE t (a int)")
    cur.copy_expert("COPY t FROM STDIN", io.StringIO("\n".join(map(str, range(1000)))))
    out = io.StringIO()
    cur.copy_expert("COPY (SELECT sum(a) FROM t) TO STDOUT", out)
    assert out.getvalue() == f"{sum(range(1000))}\n"
with conn.cursor(name="portal") as cur:
    cur.itersize = 10
    cur.execute("SELECT a FROM t")
    assert sum(row[0] for row in cur) == sum(range(1000))
conn.commit()

listener = psycopg2.connect(**APP, port=PORT)
listener.autocommit = True
listener.cursor().execute("LISTEN news")
assert value(conn, "SELECT pg_notify('news', %s)", "one") == ""
conn.commit()
while not listener.notifies:
    select.select([listener], [], [], 30)
    listener.poll()
assert listener.notifies[0].payload == "one"
listener.close()

with conn.cursor() as cur:
    try:
        cur.execute("SET LOCAL statement_timeout = 50; SELECT pg_sleep(600)")
        raise AssertionError("no timeout")
    except psycopg2.errors.QueryCanceled:
        conn.rollback()
assert value(conn, "SELECT 1") == 1
conn.commit()

admin = psycopg2.connect(**ADMIN)
admin.autocommit = True
assert value(admin, "SHOW DATABASES") == "app"
assert psycopg2.connect(**dict(APP, host="127.0.0.1,127.0.0.1", port=f"{REFUSING},{PORT}")).info.port == PORT
assert value(admin, "SWITCHOVER main TO n2") == "preflight"
try:
    value(conn, "SELECT 1")
    raise AssertionError("still at the old lead")
except psycopg2.OperationalError:
    # psycopg 2 does not tell the SQLSTATE of a session that ended while idle, of no server's.
    assert conn.closed
conn = psycopg2.connect(**APP, port=PORT)
assert value(conn, "SELECT inet_server_port()") == TARGET_PORT
