// Answers the caller of the webhook, as an event or as the standard component does.
exports.process = async function reply(msg) {
    if (msg.body.form === 'event') {
        await this.emit('httpReply', { statusCode: 201, headers: { 'X-Form': 'event' }, body: { ok: true } });
    } else {
        await this.emit('data', {
            body: '<p>hello</p>',
            headers: {
                'Content-Type': 'text/html',
                'x-eio-status-code': 202,
                'X-EIO-Routing-Key': msg.headers.reply_to
            }
        });
    }
    await this.emit('data', { body: { replied: true }, headers: {} });
};
