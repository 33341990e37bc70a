// Emits what it receives, with all that a component can see of it.
exports.process = async function echo(msg, cfg) {
    const variables = this.getFlowVariables ? this.getFlowVariables() : {};
    await this.emit('data', {
        body: {
            id: msg.id,
            length: JSON.stringify(msg.body).length,
            passthrough: msg.passthrough,
            headers: msg.headers,
            variables,
            cfg,
            padding: msg.body.grow ? 'x'.repeat(msg.body.grow) : ''
        },
        headers: { 'X-Echo': 'yes' },
        attachments: msg.attachments
    });
};
