'use strict';

// Fails with each message, after it emitted something if it is asked to.
exports.process = async function failing(msg, cfg) {
    if (cfg.emitFirst) await this.emit('data', { body: { before: 'it failed' } });
    throw new Error(cfg.message || 'asked to fail');
};
