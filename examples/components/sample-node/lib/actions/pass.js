'use strict';

// Emits what it receives. What a function returns is emitted; an id of its own would become the message's.
exports.process = async function pass(msg) {
    return { body: msg.body };
};
