// Refreshes its credential.
exports.process = async function keys(msg, cfg) {
    await this.emit('updateKeys', { token: 'refreshed' });
    await this.emit('data', { body: { before: cfg.token }, headers: {} });
};
