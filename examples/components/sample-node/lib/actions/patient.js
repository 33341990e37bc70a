'use strict';

const TIMES = 2;
const MOST = 10000;

// How often each message was put off in this container. A message that moves to another container begins again.
const rebounds = new Map();

// Puts each message off twice: it comes back later, and the others go on meanwhile.
exports.process = async function patient(msg) {
    const before = rebounds.get(msg.id) || 0;
    if (before < TIMES) {
        if (rebounds.size >= MOST) rebounds.clear();
        rebounds.set(msg.id, before + 1);
        await this.emit('rebound', `not yet: ${before + 1} of ${TIMES}`);
        return;
    }
    rebounds.delete(msg.id);
    await this.emit('data', { body: { ...msg.body, rebounds: before } });
};
