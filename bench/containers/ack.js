'use strict';
// A plain AMQP client that only acknowledges: messages/s from one queue. Without --fill it takes what is on the queue
// already, so it can be pointed at the step gateway; with it, it declares the queue and fills it first.
//
//   node ack.js --uri amqp://… [--queue NAME] [--count N] [--prefetch N] [--bytes N] [--fill]
//
// Prints one line of JSON for each figure: `publish` (with confirms), `ack` (from a backlog), `through` (both at once).

const { parseArgs } = require('util');
const amqp = require('amqplib');

const { values: said } = parseArgs({
    options: {
        uri: { type: 'string' },
        queue: { type: 'string', default: 'flowline-bench' },
        count: { type: 'string', default: '100000' },
        prefetch: { type: 'string', default: '50' },
        bytes: { type: 'string', default: '1024' },
        fill: { type: 'boolean', default: false }
    }
});
const count = Number(said.count);
const prefetch = Number(said.prefetch);
const seconds = (since) => Number(process.hrtime.bigint() - since) / 1e9;
const now = () => process.hrtime.bigint();

function figure(name, took, messages = count) {
    console.log(JSON.stringify({
        figure: name, messages, seconds: Number(took.toFixed(3)), per_second: Math.round(messages / took), prefetch
    }));
}

// Persistent messages, each confirmed; returns when all are.
async function publish(connection) {
    const channel = await connection.createConfirmChannel();
    const body = Buffer.alloc(Number(said.bytes), 'x');
    for (let sent = 0; sent < count; sent += 1) {
        const more = channel.sendToQueue(said.queue, body, { persistent: true, headers: { messageId: String(sent) } });
        if (!more) await new Promise((resolve) => channel.once('drain', resolve));
    }
    await channel.waitForConfirms();
    await channel.close();
}

// Acknowledges each message. Returns the seconds from the first to the last, and how many came after the first.
async function acknowledge(connection) {
    const channel = await connection.createChannel();
    await channel.prefetch(prefetch);
    let first;
    let taken = 0;
    const took = await new Promise((resolve, reject) => {
        channel.on('error', reject);
        channel.consume(said.queue, (message) => {
            if (message === null) return reject(new Error('the consumer was cancelled'));
            first = first || now();
            channel.ack(message);
            taken += 1;
            if (taken === count) resolve(seconds(first));
        }).catch(reject);
    });
    await channel.close();
    return took;
}

async function main() {
    const connection = await amqp.connect(`${said.uri}${said.uri.includes('?') ? '&' : '?'}frameMax=131072`);
    if (said.fill) {
        const channel = await connection.createChannel();
        await channel.assertQueue(said.queue, { durable: true });
        await channel.purgeQueue(said.queue);
        const begun = now();
        await publish(connection);
        figure('publish', seconds(begun));
    }
    figure('ack', await acknowledge(connection));
    if (said.fill) {
        const begun = now();
        await Promise.all([publish(connection), acknowledge(connection)]);
        figure('through', seconds(begun));
    }
    await connection.close();
}

main().catch((error) => {
    console.error(`ack: ${error.message}`);
    process.exit(1);
});
