// Emits three items at a time and remembers how far it came. Its hooks leave traces.
exports.startup = async function startup(cfg) {
    return { registered: cfg.token };
};

exports.shutdown = async function shutdown(cfg, data) {
    console.log('shutdown with ' + JSON.stringify(data));
};

exports.process = async function poll(msg, cfg, snapshot = {}) {
    const from = snapshot.next || 0;
    for (let n = from; n < from + 3; n++) {
        await this.emit('data', { body: { n, token: cfg.token }, headers: {} });
    }
    await this.emit('updateSnapshot', { next: from + 3 });
};
