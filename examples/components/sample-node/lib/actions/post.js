'use strict';

const TIMEOUT = 30000;

// Sends the body to an address. The message's id is the idempotency key: it stays the same however often the message is
// delivered, so the other side can tell a repetition. Out of reach or overloaded is a reason to come back later.
exports.process = async function post(msg, cfg) {
    let response;
    try {
        response = await fetch(cfg.url, {
            method: 'POST',
            headers: { 'content-type': 'application/json', 'idempotency-key': msg.id },
            body: JSON.stringify(msg.body),
            signal: AbortSignal.timeout(TIMEOUT)
        });
    } catch (error) {
        await this.emit('rebound', `${cfg.url} is out of reach: ${(error.cause && error.cause.message) || error.message}`);
        return;
    }
    const text = await response.text();
    if (response.status === 429 || response.status >= 500) {
        await this.emit('rebound', `${cfg.url} answered ${response.status}`);
        return;
    }
    if (!response.ok) throw new Error(`${cfg.url} answered ${response.status}: ${text.slice(0, 200)}`);
    await this.emit('data', { body: { status: response.status, sent: msg.body } });
};
