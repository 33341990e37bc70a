// Asks for its message again; the third time it succeeds.
const seen = {};
exports.process = async function rebound(msg) {
    seen[msg.id] = (seen[msg.id] || 0) + 1;
    if (seen[msg.id] < 3) {
        await this.emit('rebound', new Error('not yet'));
        return;
    }
    await this.emit('data', { body: { times: seen[msg.id], id: msg.id }, headers: {} });
};
