// Emits as many messages as it is told to.
exports.process = async function many(msg) {
    for (let n = 0; n < msg.body.count; n++) {
        await this.emit('data', { body: { n }, headers: {} });
    }
};
