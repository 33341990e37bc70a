// Answers what the designer asks.
exports.colors = async function colors(cfg) {
    return { red: 'Red', own: cfg.own };
};

exports.getMetaModel = async function getMetaModel(cfg) {
    return { in: { type: 'object', title: cfg.color }, out: { type: 'object' } };
};

exports.process = async function choose() {};
