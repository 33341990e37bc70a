// Emits as many messages as it is told to, as slowly as it is told to.
exports.process = async function many(msg) {
    for (let n = 0; n < msg.body.count; n++) {
        if (msg.body.delay) {
            await new Promise(resolve => setTimeout(resolve, msg.body.delay));
        }
        await this.emit('data', { body: { n }, headers: {} });
    }
};
