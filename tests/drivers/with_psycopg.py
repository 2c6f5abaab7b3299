"""psycopg 3 (libpq): a session, the console, the next host, a switchover."""

import os
import threading

import psycopg
from psycopg.pq import TransactionStatus

PORT, REFUSING, TARGET_PORT = (int(os.environ[name]) for name in ("PORT", "REFUSING", "TARGET_PORT"))
APP = dict(host="127.0.0.1", dbname="app", user="app", password="app-secret")
ADMIN = dict(host="127.0.0.1", dbname="pgsluice", user="admin", password="admin-secret", port=PORT)


def session(conn):
    for i in range(8):
        assert conn.execute("SELECT %s::int + 1", (i,), prepare=True).fetchone() == (i + 1,)
    assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] >= 1
    assert conn.info.transaction_status == TransactionStatus.INTRANS, "autocommit is off"
    conn.commit()

    with conn.pipeline():
        cursors = [conn.execute("SELECT %s::int", (i,)) for i in range(300)]
    assert [c.fetchone()[0] for c in cursors] == list(range(300))
    conn.commit()
    try:
        with conn.pipeline():
            conn.execute("SELECT 1")
            conn.execute("SELECT 1/0")
            conn.execute("SELECT 2")
        raise AssertionError("no error")
    except psycopg.errors.DivisionByZero:
        conn.rollback()

    with conn.cursor() as cur:
        cur.execute("CREATE TEMP TABLE t (a int, b text)")
        with cur.copy("COPY t FROM STDIN") as copy:
            for i in range(5000):
                copy.write_row((i, "x" * 100))
        with cur.copy("COPY t TO STDOUT (FORMAT binary)") as copy:
            assert sum(len(block) for block in copy) > 500_000
    conn.commit()

    with conn.cursor(name="portal") as cur:
        cur.itersize = 100
        cur.execute("SELECT a FROM t ORDER BY a")
        assert sum(row[0] for row in cur) == sum(range(5000))
    conn.commit()

    with psycopg.connect(**APP, port=PORT, autocommit=True) as listener:
        listener.execute("LISTEN news")
        conn.execute("SELECT pg_notify('news', 'one')")
        conn.commit()
        heard = [n.payload for n in listener.notifies(timeout=30, stop_after=1)]
        assert heard == ["one"], heard


def cancel(conn):
    with psycopg.connect(**APP, port=PORT, autocommit=True) as watcher:
        pid = conn.execute("SELECT pg_backend_pid()").fetchone()[0]

        def when_it_runs():
            runs = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
            while watcher.execute(runs, (pid,)).fetchone() != ("PgSleep",):
                pass
            conn.cancel_safe(timeout=30)

        thread = threading.Thread(target=when_it_runs)
        thread.start()
        try:
            conn.execute("SELECT pg_sleep(600)")
            raise AssertionError("not cancelled")
        except psycopg.errors.QueryCanceled:
            conn.rollback()
        thread.join()
        assert conn.execute("SELECT 1").fetchone() == (1,)
        conn.commit()


def console():
    # Autocommit off: BEGIN goes before the first command.
    with psycopg.connect(**ADMIN) as conn:
        cur = conn.execute("SHOW DATABASES", prepare=True)
        names = [column.name for column in cur.description]
        row = dict(zip(names, cur.fetchone()))
        assert (row["name"], row["pool_size"], row["paused"]) == ("app", 50, 0), row
        conn.commit()
        assert len(conn.execute("SHOW STATS").fetchall()) == 1
        try:
            conn.execute("SHOW NONSENSE")
            raise AssertionError("no error")
        except psycopg.errors.SyntaxError:
            conn.rollback()
        assert conn.execute("SHOW VERSION").fetchone()[0].startswith("PgBouncer")


def switchover(conn):
    with psycopg.connect(**ADMIN, autocommit=True) as admin:
        report = admin.execute("SWITCHOVER main TO n2").fetchall()
        assert "lead n1 -> n2" in report[-1][2], report
    try:
        conn.execute("SELECT 1")
        raise AssertionError("still at the old lead")
    except psycopg.errors.AdminShutdown as error:
        assert error.sqlstate == "57P01" and conn.broken, error
    with psycopg.connect(**APP, port=PORT) as again:
        assert again.execute("SELECT inet_server_port()").fetchone() == (TARGET_PORT,)


def next_host():
    try:
        psycopg.connect(**APP, port=REFUSING)
        raise AssertionError("let in")
    except psycopg.OperationalError as error:
        assert "is disabled" in str(error), error
    hosts = dict(APP, host="127.0.0.1,127.0.0.1", port=f"{REFUSING},{PORT}")
    with psycopg.connect(**hosts) as conn:
        assert conn.info.port == PORT
        assert conn.execute("SELECT 1").fetchone() == (1,)


with psycopg.connect(**APP, port=PORT) as conn:
    session(conn)
    cancel(conn)
console()
next_host()
switchover(psycopg.connect(**APP, port=PORT, autocommit=True))
