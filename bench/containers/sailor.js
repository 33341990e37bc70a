'use strict';
// elastic.io's runtime library, with its rate limits lifted, passing messages through one step of a RabbitMQ.
// It does what the library expects of a platform: declares queue, exchange and bindings, and serves the step's data.
//
//   node sailor.js --uri amqp://… [--count N] [--prefetch N] [--version 2.7.8]
//
// Prints one line of JSON: messages/s from the first that came out to the last.

const { createCipheriv, createHash, randomUUID } = require('crypto');
const { execFileSync, spawn } = require('child_process');
const http = require('http');
const path = require('path');
const { parseArgs } = require('util');
const amqp = require('amqplib');

const { values: said } = parseArgs({
    options: {
        uri: { type: 'string' },
        count: { type: 'string', default: '10000' },
        prefetch: { type: 'string', default: '1' },
        version: { type: 'string', default: '2.7.8' }
    }
});
const count = Number(said.count);
const root = path.resolve(__dirname, '../..');
const uri = `${said.uri}?frameMax=131072`;
const names = {
    queue: 'flow:exec:step_2:messages', exchange: 'flow_exchange',
    data: 'flow.step_2.message', error: 'flow.step_2.error', rebound: 'flow.step_2.rebound', snapshot: 'flow.step_2.snapshot'
};
const crypto = { password: 'a password of the benchmark', iv: '0123456789abcdef' };

function encrypted(message) {
    const key = createHash('sha256').update(crypto.password).digest();
    const cipher = createCipheriv('aes-256-cbc', key, crypto.iv);
    return Buffer.from(cipher.update(JSON.stringify(message), 'utf8', 'base64') + cipher.final('base64'));
}

async function declare(channel) {
    await channel.assertExchange(names.exchange, 'direct', { durable: true });
    for (const kind of ['data', 'error', 'rebound', 'snapshot']) {
        await channel.assertQueue(names[kind], { durable: true });
        await channel.purgeQueue(names[kind]);
        await channel.bindQueue(names[kind], names.exchange, names[kind]);
    }
    await channel.assertQueue(names.queue, { durable: true });
    await channel.purgeQueue(names.queue);
}

async function fill(connection) {
    const channel = await connection.createConfirmChannel();
    for (let sent = 0; sent < count; sent += 1) {
        const body = { number: sent, text: 'x'.repeat(900) };
        const content = encrypted({ id: randomUUID(), body, headers: {}, attachments: {}, metadata: {} });
        const headers = { messageId: randomUUID(), threadId: randomUUID(), execId: 'exec', taskId: 'flow', userId: 'user', stepId: 'step_1' };
        if (!channel.sendToQueue(names.queue, content, { persistent: true, headers })) {
            await new Promise((resolve) => channel.once('drain', resolve));
        }
    }
    await channel.waitForConfirms();
    await channel.close();
}

// The step's data: no fields, nothing remembered.
function platform() {
    const answer = JSON.stringify({ id: 'step_2', comp_id: 'component', function: 'pass', config: {}, snapshot: {}, is_passthrough: false, variables: {} });
    const server = http.createServer((request, response) => {
        response.setHeader('content-type', 'application/json');
        response.end(answer);
    });
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

function sailor(port) {
    const told = {
        FLOW_ID: 'flow', EXEC_ID: 'exec', STEP_ID: 'step_2', CONTAINER_ID: 'container', WORKSPACE_ID: 'workspace', USER_ID: 'user',
        COMP_ID: 'component', FUNCTION: 'pass', TASK_ID: 'flow', API_URI: `http://127.0.0.1:${port}`, API_USERNAME: 'task-flow',
        API_KEY: 'key', AMQP_URI: uri, LISTEN_MESSAGES_ON: names.queue, PUBLISH_MESSAGES_TO: names.exchange,
        DATA_ROUTING_KEY: names.data, ERROR_ROUTING_KEY: names.error, REBOUND_ROUTING_KEY: names.rebound,
        SNAPSHOT_ROUTING_KEY: names.snapshot, MESSAGE_CRYPTO_PASSWORD: crypto.password, MESSAGE_CRYPTO_IV: crypto.iv,
        RABBITMQ_PREFETCH_SAILOR: said.prefetch, AMQP_PERSISTENT_MESSAGES: 'true',
        DATA_RATE_LIMIT: '1000000', ERROR_RATE_LIMIT: '1000000', SNAPSHOT_RATE_LIMIT: '1000000'
    };
    const env = Object.fromEntries(Object.entries(told).map(([name, value]) => [`ELASTICIO_${name}`, value]));
    const folder = execFileSync(path.join(root, '.ci/npm'), [said.version], { encoding: 'utf8' }).trim();
    const library = path.join(folder, 'node_modules/elasticio-sailor-nodejs/run.js');
    return spawn(process.execPath, [library], {
        cwd: path.join(root, 'examples/components/sample-node'),
        env: { PATH: process.env.PATH, LOG_LEVEL: 'error', ...env },
        stdio: ['ignore', 'ignore', 'inherit']
    });
}

async function main() {
    const connection = await amqp.connect(uri);
    const channel = await connection.createChannel();
    await declare(channel);
    await fill(connection);
    const server = await platform();
    const child = sailor(server.address().port);
    process.on('exit', () => child.kill('SIGKILL'));
    const begun = process.hrtime.bigint();
    let first;
    let came = 0;
    const last = await new Promise((resolve, reject) => {
        child.on('exit', (code) => reject(new Error(`the sailor ended with ${code}`)));
        channel.consume(names.error, (message) => reject(new Error(`an error came: ${message.content}`)), { noAck: true });
        channel.consume(names.data, () => {
            first = first || process.hrtime.bigint();
            came += 1;
            if (came === count) resolve(process.hrtime.bigint());
        }, { noAck: true });
    });
    child.removeAllListeners('exit').kill('SIGKILL');
    const took = Number(last - first) / 1e9;
    console.log(JSON.stringify({
        figure: 'sailor', version: said.version, messages: count, seconds: Number(took.toFixed(3)),
        per_second: Math.round((count - 1) / took), prefetch: Number(said.prefetch),
        first_message_seconds: Number((Number(first - begun) / 1e9).toFixed(3))
    }));
    server.close();
    await connection.close();
}

main().catch((error) => {
    console.error(`sailor: ${error.message}`);
    process.exit(1);
});
