// node-postgres: a session, the console, and a pool in a switchover.
'use strict';

const assert = require('node:assert');
const path = require('node:path');
const { Client, Pool } = require(path.join(process.env.NODE_MODULES, 'pg'));

const port = Number(process.env.PORT);
const app = { host: '127.0.0.1', port, database: 'app', user: 'app', password: 'app-secret' };
const admin = { ...app, database: 'pgsluice', user: 'admin', password: 'admin-secret' };

async function session() {
  const client = new Client(app);
  await client.connect();
  const prepared = { name: 'plus', text: 'SELECT $1::int + 1 AS n' };
  for (let i = 0; i < 5; i++) {
    const result = await client.query({ ...prepared, values: [i] });
    assert.strictEqual(result.rows[0].n, i + 1);
  }
  const many = await Promise.all([...Array(100).keys()].map((i) => client.query('SELECT $1::int AS n', [i])));
  assert.deepStrictEqual(many.map((r) => r.rows[0].n), [...Array(100).keys()]);
  const heard = new Promise((resolve) => client.on('notification', (n) => resolve(n.payload)));
  await client.query('LISTEN news');
  await client.query("NOTIFY news, 'one'");
  assert.strictEqual(await heard, 'one');
  await client.end();

  // These go as startup parameters, to the server.
  const limited = new Client({ ...app, statement_timeout: 50 });
  await limited.connect();
  await assert.rejects(limited.query('SELECT pg_sleep(600)'), { code: '57014' });
  await limited.end();
}

async function refused() {
  const client = new Client({ ...app, port: Number(process.env.REFUSING) });
  await assert.rejects(client.connect(), { code: '57P03' });
}

async function moved() {
  const console_ = new Client(admin);
  await console_.connect();
  const databases = await console_.query('SHOW DATABASES');
  assert.strictEqual(databases.rows[0].name, 'app');
  const pool = new Pool({ ...app, max: 3 });
  const codes = [];
  const told = new Promise((resolve) => pool.on('error', (error) => {
    codes.push(error.code);
    if (codes.length === 3) resolve();
  }));
  await Promise.all([1, 2, 3].map(() => pool.query('SELECT pg_sleep(0.05)')));
  const report = await console_.query('SWITCHOVER main TO n2');
  assert.match(report.rows.at(-1).detail, /lead n1 -> n2/);
  await told;
  assert.deepStrictEqual(codes, ['57P01', '57P01', '57P01']);
  const result = await pool.query('SELECT inet_server_port() AS port');
  assert.strictEqual(result.rows[0].port, Number(process.env.TARGET_PORT));
  await pool.end();
  await console_.end();
}

session().then(refused).then(moved).catch((error) => {
  console.error(error);
  process.exit(1);
});
