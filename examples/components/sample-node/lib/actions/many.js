'use strict';

const SIZES = { 10: 'Ten', 100: 'A hundred', 1000: 'A thousand' };

// Emits many for one. `size` of the body goes before that of the configuration.
exports.process = async function many(msg, cfg) {
    const size = Number(msg.body.size || cfg.size);
    for (let index = 0; index < size; index += 1) {
        await this.emit('data', { body: { index, of: size } });
    }
};

// What the field `size` offers.
exports.sizes = async function sizes() {
    return SIZES;
};

// What comes in and what goes out, asked when the flow is written.
exports.getMetaModel = async function getMetaModel() {
    return {
        in: { type: 'object', properties: { size: { type: 'integer', title: 'How many' } } },
        out: {
            type: 'object',
            properties: {
                index: { type: 'integer', title: 'Number', required: true },
                of: { type: 'integer', title: 'Of how many', required: true }
            }
        }
    };
};
