"""asyncpg (a protocol of its own): a session, the console, the next host, a pool in a switchover."""

import asyncio
import os

import asyncpg

PORT, REFUSING, TARGET_PORT = (int(os.environ[name]) for name in ("PORT", "REFUSING", "TARGET_PORT"))
APP = dict(host="127.0.0.1", database="app", user="app", password="app-secret")
ADMIN = dict(host="127.0.0.1", database="pgsluice", user="admin", password="admin-secret", port=PORT)


async def session():
    conn = await asyncpg.connect(**APP, port=PORT)
    statement = await conn.prepare("SELECT $1::int + 1")
    assert [await statement.fetchval(i) for i in range(5)] == [1, 2, 3, 4, 5]
    await conn.execute("CREATE TEMP TABLE t (a int, b text)")
    await conn.copy_records_to_table("t", records=[(i, "x" * 100) for i in range(5000)])
    async with conn.transaction():
        total = 0
        async for row in conn.cursor("SELECT a FROM t", prefetch=50):
            total += row["a"]
        assert total == sum(range(5000))
    await conn.executemany("INSERT INTO t VALUES ($1, $2)", [(i, "y") for i in range(100)])
    assert await conn.fetchval("SELECT count(*) FROM t") == 5100

    heard = asyncio.get_running_loop().create_future()
    listener = await asyncpg.connect(**APP, port=PORT)
    await listener.add_listener("news", lambda _c, _pid, _channel, text: heard.set_result(text))
    await conn.execute("NOTIFY news, 'one'")
    assert await asyncio.wait_for(heard, 30) == "one"
    await listener.close()

    try:
        await conn.execute("SELECT pg_sleep(600)", timeout=0.2)
        raise AssertionError("no timeout")
    except asyncio.TimeoutError:
        pass
    assert await conn.fetchval("SELECT 1") == 1, "the cancel request hit the statement"
    await conn.reset()
    await conn.close()


async def console():
    conn = await asyncpg.connect(**ADMIN)
    row = (await conn.fetch("SHOW DATABASES"))[0]
    assert (row["name"], row["pool_size"], row["disabled"]) == ("app", 50, 0), row
    assert (await conn.fetchrow("SHOW STATS"))["total_query_count"] > 0
    try:
        await conn.execute("SHOW NONSENSE")
        raise AssertionError("no error")
    except asyncpg.PostgresSyntaxError:
        pass
    return conn


async def refused():
    try:
        await asyncpg.connect(**APP, port=REFUSING)
        raise AssertionError("let in")
    except asyncpg.CannotConnectNowError as error:
        assert error.sqlstate == "57P03"


async def switchover(admin):
    pool = await asyncpg.create_pool(**APP, port=PORT, min_size=4, max_size=4)
    conn = await asyncpg.connect(**APP, port=PORT)
    report = await admin.fetch("SWITCHOVER main TO n2")
    assert "lead n1 -> n2" in report[-1]["detail"], report
    # asyncpg does not tell the words that reach an idle connection, only that it is closed.
    while not conn.is_closed():
        await asyncio.sleep(0)
    # The pool hides a connection that it has seen to be closed, and tells of one that it has not.
    while True:
        try:
            port = await pool.fetchval("SELECT inet_server_port()")
            break
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            assert getattr(error, "sqlstate", "57P01") in ("57P01", "08003"), repr(error)
    assert port == TARGET_PORT, port
    await pool.close()


async def main():
    await session()
    admin = await console()
    await refused()
    await switchover(admin)
    await admin.close()


asyncio.run(asyncio.wait_for(main(), 50))
