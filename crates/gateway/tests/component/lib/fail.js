// Fails, after it emitted if it is told to.
exports.process = async function fail(msg) {
    if (msg.body.emit) {
        await this.emit('data', { body: msg.body, headers: {} });
    }
    throw new TypeError('this cannot work');
};
