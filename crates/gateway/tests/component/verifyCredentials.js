// Accepts exactly one token.
module.exports = async function verify(cfg) {
    if (cfg.token !== 'right') {
        throw new Error('the token is wrong');
    }
    return { verified: true };
};
