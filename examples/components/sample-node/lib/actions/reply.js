'use strict';

// Answers the caller of the flow's webhook, and passes the message on.
exports.process = async function reply(msg, cfg) {
    await this.emit('httpReply', {
        statusCode: Number(cfg.status || 200),
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify(msg.body)
    });
    await this.emit('data', { body: msg.body });
};
